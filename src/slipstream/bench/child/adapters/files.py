"""The floor of local files: the fastest plain readers that we can write, without a tensor in the way.

Both take 8 MiB pieces, in order, from one shared queue, and move them with one system call each that releases
the GIL. What they cannot beat is the device, so what a loader is measured against is this, in the same run.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import threading
from collections.abc import Callable, Sequence

import numpy as np

from ..job import Job, Tensors

PIECE_BYTES = 8 << 20
_BLOCK_BYTES = 4096
_THREADS = 8
_MADV_HUGEPAGE = 14
_MADV_POPULATE_READ = 22  # Linux 5.14; not yet in Python's mmap module
_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def read_direct(job: Job) -> Tensors:
    """Reads whole files with O_DIRECT into anonymous huge pages, past the page cache. Setting: `threads`."""
    job.whole_files = True
    descriptors = [os.open(path, os.O_RDONLY | os.O_DIRECT) for path in job.uris]
    try:
        sizes = [os.fstat(descriptor).st_size for descriptor in descriptors]
        views = [memoryview(huge_pages(_whole_blocks(size))) for size in sizes]

        def read(file: int, start: int, end: int) -> None:
            # The last block goes past the end of the file: O_DIRECT wants whole blocks, and gives what there is.
            while start < end:
                got = os.preadv(descriptors[file], [views[file][start : _whole_blocks(end)]], start)
                if got <= 0:
                    raise OSError(f"{job.uris[file]} ended at {start:,}")
                start += got

        run_pieces(sizes, _threads(job), read)
        for path, view, size in zip(job.uris, views, sizes, strict=True):
            yield path, np.frombuffer(view, np.uint8)[:size]
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def read_populated(job: Job) -> Tensors:
    """Maps whole files privately and has the kernel populate the pages, in order, behind its own read-ahead."""
    job.whole_files = True
    regions = [_map(path) for path in job.uris]
    arrays = [np.frombuffer(region, np.uint8) for region in regions]

    def populate(file: int, start: int, end: int) -> None:
        if _libc.madvise(arrays[file].ctypes.data + start, end - start, _MADV_POPULATE_READ):
            raise OSError(ctypes.get_errno(), "madvise(MADV_POPULATE_READ)")

    run_pieces([len(array) for array in arrays], _threads(job), populate)
    yield from zip(job.uris, arrays, strict=True)


def run_pieces(sizes: Sequence[int], threads: int, move: Callable[[int, int, int], None]) -> None:
    """Calls move(file, start, end) for every piece, each thread taking the next one not yet taken."""
    pieces = [
        (file, start, min(start + PIECE_BYTES, size))
        for file, size in enumerate(sizes)
        for start in range(0, size, PIECE_BYTES)
    ]
    following = itertools.count()  # atomic under the GIL
    failures: list[Exception] = []

    def work() -> None:
        while not failures:
            number = next(following)
            if number >= len(pieces):
                return
            try:
                move(*pieces[number])
            except Exception as error:
                failures.append(error)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]


def huge_pages(nbytes: int) -> mmap.mmap:
    """New memory, in huge pages where the kernel has them."""
    region = mmap.mmap(-1, max(1, nbytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    region.madvise(_MADV_HUGEPAGE)
    return region


def _threads(job: Job) -> int:
    return int(job.settings.get("threads", _THREADS))


def _whole_blocks(nbytes: int) -> int:
    return -(-nbytes // _BLOCK_BYTES) * _BLOCK_BYTES


def _map(path: str) -> mmap.mmap:
    with open(path, "rb") as file:
        region = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    region.madvise(_MADV_HUGEPAGE)
    return region
