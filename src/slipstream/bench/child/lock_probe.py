"""How long a process holds CPython's interpreter lock, seen from another process.

CPython 3.11 keeps the state of the thread that holds the lock in a word of `_PyRuntime` (gilstate.tstate_current), null
while nobody does. A small process reads that word through /proc/PID/mem some thousand times a second, as py-spy does
with --gil; the share of readings that are not null is the share of the time in which the lock was held. It runs
with real-time priority: at a normal one the scheduler would let it read mostly when the others wait, which showed 8 %
where 24 % were true. So it needs root. The process that is measured does nothing for it but start it and end it.

A thread that holds the lock and waits for a processor counts as holding it: on a busy machine the figure is an upper
bound of what the code itself needs.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import subprocess
import sys
import time
from types import TracebackType

_SEARCHED_WORDS = 512  # of _PyRuntime; the word wanted was the 73rd in 3.11.7
_WORD_BYTES = 8
_PAUSE_S = 0.0002


class LockProbe:
    """Measures this process while it is open. One thread uses it.

    Attributes:
        held_seconds: how long the lock was held, by any thread; once closed.
        seconds: out of how many.
        readings: how many were taken.
    """

    def __init__(self) -> None:
        self.held_seconds = 0.0
        self.seconds = 0.0
        self.readings = 0

    def __enter__(self) -> LockProbe:
        """Starts to measure.

        Raises:
            RuntimeError: this Python is not 3.11, or the other process may not watch this one.
        """
        if why := why_unavailable():
            raise RuntimeError(why)
        command = [sys.executable, "-I", __file__, str(os.getpid()), *map(str, _holder_words())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            self._process.communicate()
            raise RuntimeError("this process may not watch another one; see its standard error for why")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends it."""
        seen = json.loads(self._process.communicate("stop\n")[0])
        self.seconds, self.readings = seen["seconds"], seen["readings"]
        self.held_seconds = self.seconds * seen["held"] / self.readings if self.readings else 0.0


def why_unavailable() -> str:
    """Why the lock of this interpreter cannot be watched here; "" where it can."""
    if sys.implementation.name != "cpython" or sys.version_info[:2] != (3, 11):
        return "how long the interpreter's lock is held can be seen in CPython 3.11 only"
    return "" if os.geteuid() == 0 else "only root may watch the interpreter's lock"


def _holder_words() -> list[int]:
    """The addresses in `_PyRuntime` of what points to this thread, which holds the lock now."""
    runtime = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
    ctypes.pythonapi.PyThreadState_Get.restype = ctypes.c_void_p
    this_thread = ctypes.pythonapi.PyThreadState_Get()
    words = (ctypes.c_uint64 * _SEARCHED_WORDS).from_address(runtime)
    return [runtime + _WORD_BYTES * place for place, word in enumerate(words) if word == this_thread]


def _watch(process: int, addresses: list[int]) -> None:
    """Reads until its standard input has something. Of the words, the one that is null most often is the right one:
    another one, the last holder, stays."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    memory = os.open(f"/proc/{process}/mem", os.O_RDONLY)
    os.pread(memory, _WORD_BYTES, addresses[0])
    print("ready", flush=True)
    over = select.poll()
    over.register(0, select.POLLIN | select.POLLHUP)
    held = [0] * len(addresses)
    readings = 0
    begun = time.monotonic()
    while not over.poll(0):
        for place, address in enumerate(addresses):
            held[place] += any(os.pread(memory, _WORD_BYTES, address))
        readings += 1
        time.sleep(_PAUSE_S)
    print(json.dumps({"held": min(held), "readings": readings, "seconds": time.monotonic() - begun}))


if __name__ == "__main__":
    _watch(int(sys.argv[1]), [int(text) for text in sys.argv[2:]])
