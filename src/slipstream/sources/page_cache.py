"""How much of a file is in the page cache, asked of the kernel without touching the file."""

from __future__ import annotations

import ctypes
import mmap
import os

_LIBC = ctypes.CDLL(None, use_errno=True)
_CACHESTAT = 451  # the same number on every architecture: include/uapi/asm-generic/unistd.h
_PAGE = mmap.PAGESIZE


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _CacheStat(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


def count_cached_bytes(descriptor: int, offset: int, length: int) -> int | None:
    """How many bytes of `[offset, offset + length)` are in the page cache, to page accuracy.

    cachestat(2) since Linux 6.5 (1.5 ms for 5.6 GB), else mincore(2). None where neither may answer:
    for files of others that this process may not write, mincore reports every page as cached.
    """
    status = os.fstat(descriptor)
    length = min(length, status.st_size - offset)
    if length <= 0:
        return 0
    range_, counts = _Range(offset, length), _CacheStat()
    if _LIBC.syscall(_CACHESTAT, descriptor, ctypes.byref(range_), ctypes.byref(counts), 0) == 0:
        return min(length, int(counts.cached) * _PAGE)
    if status.st_uid != os.geteuid() and os.geteuid() != 0:
        return None
    return _count_by_mincore(descriptor, offset, length)


def _count_by_mincore(descriptor: int, offset: int, length: int) -> int | None:
    start = offset - offset % _PAGE
    if offset + length <= start:
        return 0
    try:
        mapping = mmap.mmap(
            descriptor, offset + length - start, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, offset=start
        )
    except (OSError, ValueError):
        return None
    with mapping:
        pages = (ctypes.c_ubyte * -(-len(mapping) // _PAGE))()
        first = ctypes.c_char.from_buffer(mapping)
        refused = _LIBC.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(len(mapping)), pages)
        del first
        return None if refused else min(length, sum(page & 1 for page in bytes(pages)) * _PAGE)
