"""A plain reader past the page cache: what a file's storage gives. As a program:

    who asks                                       this program
    --------------------------------------------------------------------------
    starts it                                  ->  {}: it is ready
    seconds, as often as one likes             ->  reads for so long in large pieces, then in small ones
                                               <-  {"bytes_per_s": ..., "iops": ...}

Linux's own asynchronous reads (io_submit(2)), by system calls: 4 KiB reads reach 90,000 a second where sixteen Python
threads reach 50,000, so that the device or the limit is measured, and not this program.

Standard library only.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

LARGE_BYTES, LARGE_DEPTH = 1 << 20, 16
SMALL_BYTES, SMALL_DEPTH = 4096, 128
# A limit lets a slice's worth (0.1 s) pass at once when a group begins to read: half a second in which that counted saw
# 1.3 times the limit.
_BEGINNING_S = 0.25
# io_setup, io_destroy, io_getevents, io_submit: asm/unistd_64.h, asm-generic/unistd.h
_CALLS: Mapping[str, tuple[int, int, int, int]] = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
_IOCB_CMD_PREAD = 0


class _Iocb(ctypes.Structure):
    """A read that is asked for: linux/aio_abi.h, little-endian."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("descriptor", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("nbytes", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("event_descriptor", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """A read that is done."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("iocb", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    )


class PlainReader:
    """A process that reads a file when it is asked to, from construction until `close`. For one thread.

    Attributes:
        pid: its process id.
    """

    def __init__(self, path: Path) -> None:
        """Starts it. It reads nothing yet.

        Raises:
            OSError: it did not start.
        """
        self._path = path
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def measure(self, seconds: float) -> dict[str, float]:
        """What it gets: bytes_per_s and iops; neither of a file that is smaller than a block.

        Args:
            seconds: for each of the two. A small file is read again and again.

        Raises:
            OSError: the file cannot be read so; the message says why.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{seconds}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: its answer says why
        return self._answer()

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, complaint = self._process.communicate()
            raise OSError(f"{self._path} could not be read plainly: {' '.join(complaint.splitlines()[-1:])}")
        found: dict[str, float] = json.loads(line)
        return found


class _Reader:
    """Reads from a file, many at once."""

    def __init__(self, descriptor: int, nbytes: int, depth: int) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.syscall.restype = ctypes.c_long
        self._setup, self._destroy, self._getevents, self._submit = _CALLS[os.uname().machine]
        self._context = ctypes.c_ulong(0)
        self._depth = depth
        self._memory = mmap.mmap(-1, nbytes * depth)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._reads = (_Iocb * depth)()
        for number, read in enumerate(self._reads):
            read.data, read.opcode, read.descriptor = number, _IOCB_CMD_PREAD, descriptor
            read.buffer, read.nbytes = address + number * nbytes, nbytes
        self._pointers = (ctypes.c_void_p * depth)()
        self._events = (_Event * depth)()
        self._call(self._setup, depth, ctypes.byref(self._context))

    def count_reads(self, offsets: Iterator[int], seconds: float) -> float:
        """Reads at these offsets for so long, after a beginning that does not count; returns reads a second."""
        start = time.perf_counter() + _BEGINNING_S
        done = 0
        free = list(range(self._depth))
        while True:
            for place, number in enumerate(free):
                self._reads[number].offset = next(offsets)
                self._pointers[place] = ctypes.addressof(self._reads[number])
            if free:
                self._call(self._submit, self._context, len(free), self._pointers)
            count = self._call(self._getevents, self._context, 1, self._depth, self._events, None)
            elapsed = time.perf_counter() - start
            done += count if elapsed > 0 else 0
            for event in self._events[:count]:
                if event.result < 0:
                    raise OSError(-event.result, os.strerror(-event.result))
            if elapsed >= seconds:
                return done / elapsed
            free = [event.data for event in self._events[:count]]

    def close(self) -> None:
        """Waits for what is still being read."""
        self._call(self._destroy, self._context)

    def _call(self, *arguments: object) -> int:
        result: int = self._libc.syscall(*arguments)
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result


def _in_order(size: int, nbytes: int) -> Iterator[int]:
    while True:
        yield from range(0, size - nbytes + 1, nbytes)


def _anywhere(size: int, nbytes: int) -> Iterator[int]:
    chance = random.Random(0)
    while True:
        yield chance.randrange(size // nbytes) * nbytes


def _measure(descriptor: int, size: int, seconds: float) -> dict[str, float]:
    found: dict[str, float] = {}
    large = min(LARGE_BYTES, size // SMALL_BYTES * SMALL_BYTES)
    if large:
        with closing(_Reader(descriptor, large, LARGE_DEPTH)) as reader:
            found["bytes_per_s"] = reader.count_reads(_in_order(size, large), seconds) * large
        with closing(_Reader(descriptor, SMALL_BYTES, SMALL_DEPTH)) as reader:
            found["iops"] = reader.count_reads(_anywhere(size, SMALL_BYTES), seconds)
    return found


def _main(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    size = os.fstat(descriptor).st_size
    print("{}", flush=True)
    for line in sys.stdin:
        print(json.dumps(_measure(descriptor, size, float(line))), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1])
