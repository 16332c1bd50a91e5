"""Many small reads by two system calls: Linux's own asynchronous reads, which work for files opened with O_DIRECT.

By preadv(2) each read costs a thread that waits for it. Here hundreds are under way, and Python makes two calls.
Sources: io_setup(2), io_submit(2), io_getevents(2), linux/aio_abi.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy

Int64s: TypeAlias = numpy.ndarray[Any, numpy.dtype[numpy.int64]]

# io_setup, io_destroy, io_getevents, io_submit: asm/unistd_64.h, asm-generic/unistd.h
_CALLS: Mapping[str, tuple[int, int, int, int]] = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
_LIBC = ctypes.CDLL(None, use_errno=True)

# struct iocb, little-endian. An opcode of 0 is IOCB_CMD_PREAD.
_IOCB = numpy.dtype(
    {
        "names": ["data", "descriptor", "buffer", "nbytes", "offset"],
        "formats": ["<u8", "<u4", "<u8", "<u8", "<i8"],
        "offsets": [0, 20, 24, 32, 40],
        "itemsize": 64,
    }
)
# struct io_event
_EVENT = numpy.dtype([("data", "<u8"), ("iocb", "<u8"), ("result", "<i8"), ("result2", "<i8")])


class AsyncReads:
    """A context for so many reads at once. For one thread at a time, in the process that made it."""

    def __init__(self, depth: int) -> None:
        """
        Args:
            depth: how many reads may be under way.

        Raises:
            OSError: the kernel gives none: ENOSYS, EAGAIN where fs.aio-max-nr is reached, EPERM in a sandbox.
        """
        machine = os.uname().machine
        if machine not in _CALLS or sys.byteorder != "little":
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        setup, self._destroy, self._getevents, self._submit = _CALLS[machine]
        self.depth = depth
        self._reads = numpy.zeros(depth, _IOCB)
        self._reads["data"] = numpy.arange(depth)
        self._events = numpy.zeros(depth, _EVENT)
        self._pointers = numpy.arange(depth, dtype=numpy.uint64) * _IOCB.itemsize + self._reads.ctypes.data
        self._context = ctypes.c_ulong(0)
        answer = _call(setup, ctypes.c_uint(depth), ctypes.byref(self._context))
        if answer < 0:
            raise OSError(-answer, os.strerror(-answer))

    def read(self, descriptor: int, offsets: Int64s, lengths: Int64s, addresses: Int64s) -> Int64s:
        """Reads ranges of a file into memory. When it returns, nothing is written there any more.

        Args:
            descriptor: of a file opened with O_DIRECT.
            offsets: in the file; at most `depth` of them.
            lengths: of each range.
            addresses: of its memory. All three are multiples of the device's sectors.

        Returns:
            How many bytes came for each, or its errno below 0.
        """
        count = len(offsets)
        reads = self._reads[:count]
        reads["descriptor"], reads["buffer"], reads["nbytes"], reads["offset"] = descriptor, addresses, lengths, offsets
        results = numpy.zeros(count, numpy.int64)
        submitted = done = 0
        while done < count:
            if submitted < count:
                answer = self._submit_some(submitted, count - submitted)
                if answer > 0:
                    submitted += answer
                elif submitted == done or answer != -errno.EAGAIN:
                    results[submitted:] = answer or -errno.EAGAIN
                    done += count - submitted
                    submitted = count
            if done < submitted:
                done += self._collect(1 if submitted < count else submitted - done, results)
        return results

    def close(self) -> None:
        """Ends the context."""
        _call(self._destroy, self._context)

    def _submit_some(self, first: int, count: int) -> int:
        """Starts reads from `first` on; returns how many, or an errno below 0."""
        pointers = self._pointers.ctypes.data + first * self._pointers.itemsize
        return _call(self._submit, self._context, ctypes.c_long(count), ctypes.c_void_p(pointers))

    def _collect(self, at_least: int, results: Int64s) -> int:
        """Waits for reads to end; returns how many have."""
        events = ctypes.c_void_p(self._events.ctypes.data)
        while True:
            count = _call(
                self._getevents, self._context, ctypes.c_long(at_least), ctypes.c_long(self.depth), events, None
            )
            if count >= 0:
                ended = self._events[:count]
                results[ended["data"].astype(numpy.int64)] = ended["result"]
                return count
            if count != -errno.EINTR:  # a bug of ours: there is no other reason
                raise OSError(-count, os.strerror(-count))


def _call(number: int, *arguments: object) -> int:
    """A system call; its answer, or its errno below 0. Releases the interpreter lock."""
    result: int = _LIBC.syscall(ctypes.c_long(number), *arguments)
    return result if result >= 0 else -ctypes.get_errno()
