"""Calls of the C library that Python's `mmap` lacks: mappings without a descriptor, populate, addresses.

Every call releases the interpreter lock. Sources: mmap(2), madvise(2), munmap(2).
"""

from __future__ import annotations

import ctypes
import mmap
import os

PAGE_BYTES = mmap.PAGESIZE

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_LIBC.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

_HUGE_PAGE_BYTES = 2 << 20  # x86-64, and arm64 with 4 KiB pages
_MAP_FAILED = ctypes.c_void_p(-1).value
_MAP_NORESERVE = 0x4000  # not in Python's mmap module; the same on x86-64 and arm64
_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
_MADV_HUGEPAGE = 14
_MADV_POPULATE_READ = 22  # Linux 5.14
_MADV_POPULATE_WRITE = 23


def map_memory(length: int) -> int:
    """Reserves zeroed memory, in huge pages where it can; returns its address.

    What may hold a huge page begins at the boundary of one. Linux aligns only mappings that are a
    multiple of a huge page long, and unaligned ones cost 24,000 page faults more for 5.6 GB; so more is
    reserved and the ends are given back.

    Raises:
        OSError: the system gives no more (ENOMEM).
    """
    length = -(-length // PAGE_BYTES) * PAGE_BYTES  # whose end must be a page's, to give back what is behind it
    spare = _HUGE_PAGE_BYTES - PAGE_BYTES if length >= _HUGE_PAGE_BYTES else 0
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    reserved = _check_address(_LIBC.mmap(None, length + spare, _READ_WRITE, flags, -1, 0))
    address = reserved + (-reserved % _HUGE_PAGE_BYTES if spare else 0)
    if address > reserved:
        unmap(reserved, address - reserved)
    if reserved + spare > address:
        unmap(address + length, reserved + spare - address)
    _LIBC.madvise(address, length, _MADV_HUGEPAGE)  # advice: where it is refused, small pages do
    return address


def map_file(descriptor: int, offset: int, length: int, *, huge_pages: bool) -> int:
    """Maps a file's range privately, so that writing to it never reaches the file; returns its address.

    The mapping needs no descriptor to live. Advised to use huge pages, Linux reads it ahead by 2 MiB
    and more (see sources/mounts.py).

    Raises:
        OSError: the file system cannot map (ENODEV), or the limits on mappings are reached.
    """
    address = _check_address(_LIBC.mmap(None, length, _READ_WRITE, mmap.MAP_PRIVATE, descriptor, offset))
    if huge_pages:
        _LIBC.madvise(address, length, _MADV_HUGEPAGE)
    return address


def populate(address: int, length: int) -> None:
    """Maps the pages of a range for reading, and reads those that are not in the page cache.

    Raises:
        OSError: EINVAL on kernels without it; EFAULT where a page cannot be read.
    """
    if _LIBC.madvise(address, length, _MADV_POPULATE_READ):
        raise _os_error()


def populate_memory(address: int, length: int) -> None:
    """Gives the pages of a range their memory now; what is written in them already stays.

    Raises:
        OSError: EINVAL on kernels without it; ENOMEM where there is not enough.
    """
    if _LIBC.madvise(address, length, _MADV_POPULATE_WRITE):
        raise _os_error()


def unmap(address: int, length: int) -> None:
    """Gives the range back to the system."""
    if _LIBC.munmap(address, length):
        raise _os_error()


def _check_address(address: int | None) -> int:
    if address is None or address == _MAP_FAILED:
        raise _os_error()
    return address


def _os_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
