"""What a load may leave behind in its process, and what becomes of a forked child."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable

_PATIENCE_S = 20


def reading_threads() -> list[str]:
    """The names of slipstream's threads that read."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("slipstream")]


def see_descriptors() -> set[str]:
    """What each open descriptor of this process stands for."""
    seen: set[str] = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            seen.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:
            continue  # the one that the directory was listed with
    return seen


def wait_for(condition: Callable[[], bool], otherwise: str) -> None:
    """Waits until it holds: what was told to end may end a moment later."""
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)


def run_in_child(function: Callable[[], None]) -> str:
    """Runs a function in a forked process; what went wrong there, or nothing. A child that hangs is ended."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks of processes that have threads
        child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(_PATIENCE_S)
            function()
        except BaseException:
            os.write(writing, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return text or ("" if status == 0 else f"the child hung, and ended with status {status}")
