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
from collections.abc import Sequence
from pathlib import Path

_GIB = 1 << 30
_READ_BYTES = 8 << 20
_SYS_CACHESTAT = 451
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")
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


def settle_memory(nbytes: int) -> None:
    """Writes `nbytes` and a GiB more, as huge pages, in another process that ends at once.

    All of it: a page of which one byte was touched is not wholly backed on every kind of virtual machine.
    """
    subprocess.run([sys.executable, __file__, str(-(-nbytes // _GIB) + 1)], check=True)


def make_cold(paths: Sequence[Path]) -> None:
    """Drops the files from the page cache, and checks it.

    Raises:
        RuntimeError: part of them stays, for example because another process maps them.
    """
    for _ in range(3):
        for path in paths:
            _forget(path)
        if os.access(_DROP_CACHES, os.W_OK):
            _DROP_CACHES.write_text("1")
        if cached_bytes(paths) == 0:
            return
    raise RuntimeError(f"{cached_bytes(paths):,} bytes stay in the page cache; a cold sample cannot be taken")


def make_warm(paths: Sequence[Path]) -> None:
    """Reads the files into the page cache from first byte to last, unless all of it is there, and checks it.

    Raises:
        RuntimeError: memory does not hold them.
    """
    wanted = sum(path.stat().st_size for path in paths)
    for _ in range(3):
        if cached_bytes(paths) >= wanted:
            return
        for path in paths:
            _read_through(path)
    if cached_bytes(paths) < wanted:
        raise RuntimeError("the files do not stay in the page cache; take a smaller model for the warm scenario")


def cached_bytes(paths: Sequence[Path]) -> int:
    """How many bytes of the files are in the page cache, in whole pages."""
    return sum(_cached_bytes(path) for path in paths)


def _cached_bytes(path: Path) -> int:
    with path.open("rb") as file:
        wanted, found = _CachestatRange(0, 0), _Cachestat()  # length 0: to the end of the file
        call = _libc.syscall(_SYS_CACHESTAT, file.fileno(), ctypes.byref(wanted), ctypes.byref(found), 0)
        pages = int(found.cached) if call == 0 else _resident_pages(file.fileno())
    return pages * mmap.PAGESIZE


def _resident_pages(descriptor: int) -> int:
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


def _touch_and_free(gib: int) -> None:
    memory = mmap.mmap(-1, gib << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    ctypes.memset((ctypes.c_char * len(memory)).from_buffer(memory), 1, len(memory))


if __name__ == "__main__":
    _touch_and_free(int(sys.argv[1]))
