"""What a plain reader gets from a file, past the page cache: bytes a second, and reads a second. As a program:

    who asks                                       this program
    --------------------------------------------------------------------------
    starts it                                  ->  "ready"
    puts it under the limits                   ->  any line: reads for so long, twice
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

LARGE_BYTES, LARGE_DEPTH = 1 << 20, 16
SMALL_BYTES, SMALL_DEPTH = 4096, 128
# A limit lets a slice's worth pass at once when a group begins to read: half a second in which that counted saw 1.3
# times the limit.
_BEGINNING_S = 0.25
_ENDS_WITHIN_S = 30.0
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


def probe(path: Path, seconds: float, add: Callable[[int], None] | None = None) -> dict[str, float]:
    """Measures a file's device by a process of its own.

    Args:
        path: the file. Where it is small it is read again and again.
        seconds: for each of the two figures.
        add: called with that process's id before it reads.

    Returns:
        bytes_per_s and iops; neither for a file that is smaller than a block.

    Raises:
        OSError: it cannot be read so; the message says why.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(path), str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() and add is not None:
                add(process.pid)
            answer, complaint = process.communicate("go\n", timeout=2 * seconds + _ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            raise OSError(f"{path} could not be probed: no answer") from None
        finally:
            process.kill()
    if process.returncode:
        raise OSError(f"{path} could not be probed: {complaint.strip().splitlines()[-1:]}")
    found: dict[str, float] = json.loads(answer)
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


def _main(path: str, seconds: float) -> None:
    print("ready", flush=True)
    if not sys.stdin.readline():
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    size = os.fstat(descriptor).st_size
    found: dict[str, float] = {}
    large = min(LARGE_BYTES, size // SMALL_BYTES * SMALL_BYTES)
    if large:
        with closing(_Reader(descriptor, large, LARGE_DEPTH)) as reader:
            found["bytes_per_s"] = reader.count_reads(_in_order(size, large), seconds) * large
        with closing(_Reader(descriptor, SMALL_BYTES, SMALL_DEPTH)) as reader:
            found["iops"] = reader.count_reads(_anywhere(size, SMALL_BYTES), seconds)
    print(json.dumps(found))


if __name__ == "__main__":
    _main(sys.argv[1], float(sys.argv[2]))
