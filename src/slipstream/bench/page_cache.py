"""The state of the machine before a sample: memory settled, and the files wholly in or wholly out of the page cache.

Freed memory goes back to a virtual machine's host, and touching it again then costs seconds. So before every
sample another process touches as much memory as the sample will use and frees it. And what the page cache
holds is not assumed but asked of the kernel: cachestat(2), Linux 6.5, else mincore(2).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from slipstream.bench.errors import SampleError

_GIB = 1 << 30
_READ_BYTES = 8 << 20
_SYS_CACHESTAT = 451
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")
_ATTEMPTS = 3
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]


class _CachestatRange(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Cachestat(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "refaulted"))


def settle_memory(nbytes: int, *, margin_bytes: int = _GIB) -> int:
    """Writes so much memory, as huge pages, in another process that ends at once; returns how much that was.

    Args:
        nbytes: what the sample will use.
        margin_bytes: for what it uses beside the tensors. Where both together are not free, as much as is.

    Raises:
        SampleError: the kernel did not give that process its memory.
    """
    wanted = min(nbytes + margin_bytes, max(0, _available_bytes() - _GIB))
    program = f"from slipstream.bench.page_cache import touch_and_free; touch_and_free({wanted})"
    code = subprocess.run([sys.executable, "-P", "-c", program], check=False).returncode if wanted else 0
    if code:
        raise SampleError(
            f"memory could not be settled: the process that touches {wanted:,} bytes ended with {code}; "
            "take a smaller model or free memory"
        )
    return wanted


def make_cold(paths: Iterable[Path]) -> None:
    """Drops the files from the page cache, and checks it.

    Raises:
        SampleError: part of them stays, for example because another process maps them.
    """
    paths = tuple(paths)
    for _ in range(_ATTEMPTS):
        for path in paths:
            _forget(path)
        if cached_bytes(paths) and os.access(_DROP_CACHES, os.W_OK):
            _DROP_CACHES.write_text("1")
        if cached_bytes(paths) == 0:
            return
    raise SampleError(
        f"{cached_bytes(paths):,} bytes of {_names(paths)} stay in the page cache, so a cold sample cannot be taken; "
        "another process may have the file mapped, or it lies on a file system that is all memory, such as tmpfs"
    )


def make_warm(paths: Iterable[Path]) -> None:
    """Reads the files into the page cache from first byte to last, unless all of it is there, and checks it.

    Raises:
        SampleError: memory does not hold them.
    """
    paths = tuple(paths)
    wanted = sum(-(-path.stat().st_size // mmap.PAGESIZE) * mmap.PAGESIZE for path in paths)
    for _ in range(_ATTEMPTS):
        if cached_bytes(paths) >= wanted:
            return
        for path in paths:
            _read_through(path)
    if cached_bytes(paths) < wanted:
        raise SampleError(f"{_names(paths)} does not stay in the page cache; take a smaller model for warm samples")


def cached_bytes(paths: Iterable[Path]) -> int:
    """How many bytes of the files are in the page cache, in whole pages."""
    return sum(_cached_bytes(path) for path in paths)


def touch_and_free(nbytes: int) -> None:
    """Writes so much new memory, all of it: a page of which one byte was touched is not wholly backed on every kind
    of virtual machine. Runs in a process of its own, which ends with the one that started it."""
    _libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    ctypes.memset((ctypes.c_char * len(memory)).from_buffer(memory), 1, len(memory))


def _cached_bytes(path: Path) -> int:
    with path.open("rb") as file:
        wanted, found = _CachestatRange(0, 0), _Cachestat()  # length 0: to the end of the file
        call = _libc.syscall(_SYS_CACHESTAT, file.fileno(), ctypes.byref(wanted), ctypes.byref(found), 0)
        pages = int(found.cached) if call == 0 else resident_pages(file.fileno())
    return pages * mmap.PAGESIZE


def resident_pages(descriptor: int) -> int:
    """How many of a file's pages mincore(2) finds in the page cache.

    Raises:
        OSError: the file cannot be mapped.
    """
    size = os.fstat(descriptor).st_size
    if size == 0:
        return 0
    address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "mmap")
    try:
        flags = (ctypes.c_ubyte * (-(-size // mmap.PAGESIZE)))()
        if _libc.mincore(address, size, flags):
            raise OSError(ctypes.get_errno(), "mincore")
        return sum(map((1).__and__, flags))
    finally:
        _libc.munmap(address, size)


def _forget(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_through(path: Path) -> None:
    buffer = bytearray(_READ_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _names(paths: Sequence[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
