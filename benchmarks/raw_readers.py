"""The floor: the fastest plain readers that we can write, without a header, a tensor or an allocator in the way.

Both take 8 MiB pieces, in order, from one shared queue, and move them with one system call each that releases
the GIL. What they cannot beat is the device, so what a loader is measured against is this, in the same run.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

PIECE_BYTES = 8 << 20
_BLOCK_BYTES = 4096
_MADV_POPULATE_READ = 22  # Linux 5.14; not yet in Python's mmap module
_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def read_direct(paths: Sequence[Path], threads: int) -> Iterator[tuple[str, Bytes]]:
    """Reads whole files with O_DIRECT into anonymous huge pages, past the page cache."""
    descriptors = [os.open(path, os.O_RDONLY | os.O_DIRECT) for path in paths]
    try:
        sizes = [os.fstat(descriptor).st_size for descriptor in descriptors]
        memory = [huge_pages(_whole_blocks(size)) for size in sizes]
        views = [memoryview(region) for region in memory]

        def read(file: int, start: int, end: int) -> None:
            # The last block goes past the end of the file: O_DIRECT wants whole blocks, and gives what there is.
            target = views[file][start : _whole_blocks(end)]
            got = os.preadv(descriptors[file], [target], start)
            if got != end - start:
                raise OSError(f"{paths[file]}: {got} of {end - start} bytes at {start}")

        run_pieces(sizes, threads, read)
        for path, view, size in zip(paths, views, sizes, strict=True):
            yield path.name, np.frombuffer(view, np.uint8)[:size]
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def read_populated(paths: Sequence[Path], threads: int) -> Iterator[tuple[str, Bytes]]:
    """Maps whole files privately and has the kernel populate the pages, in order, behind its own read-ahead."""
    regions = [_mapping(path) for path in paths]
    arrays = [np.frombuffer(region, np.uint8) for region in regions]
    addresses = [array.ctypes.data for array in arrays]

    def populate(file: int, start: int, end: int) -> None:
        if _libc.madvise(addresses[file] + start, end - start, _MADV_POPULATE_READ):
            raise OSError(ctypes.get_errno(), "madvise(MADV_POPULATE_READ)")

    run_pieces([len(array) for array in arrays], threads, populate)
    yield from zip((path.name for path in paths), arrays, strict=True)


def run_pieces(sizes: Sequence[int], threads: int, move: Callable[[int, int, int], None]) -> None:
    """Calls move(file, start, end) for every piece, each thread taking the next one not yet taken."""
    pieces = [
        (file, start, min(start + PIECE_BYTES, size))
        for file, size in enumerate(sizes)
        for start in range(0, size, PIECE_BYTES)
    ]
    following = itertools.count()  # atomic under the GIL
    failures: list[OSError] = []

    def work() -> None:
        while not failures and (number := next(following)) < len(pieces):
            try:
                move(*pieces[number])
            except OSError as error:
                failures.append(error)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]


def _whole_blocks(nbytes: int) -> int:
    return -(-nbytes // _BLOCK_BYTES) * _BLOCK_BYTES


def huge_pages(nbytes: int) -> mmap.mmap:
    region = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    region.madvise(mmap.MADV_HUGEPAGE)
    return region


def _mapping(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        region = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    region.madvise(mmap.MADV_HUGEPAGE)
    return region
