"""The threads of shared loads. They call into torch, so the interpreter must not end before they do.

A thread that comes back from C++ into an interpreter that is ending is ended by Python, which for C++ is a crash of the
whole process. So all of them look now and then whether they should end, and the interpreter waits for them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from weakref import WeakSet

_running: WeakSet[threading.Thread] = WeakSet()


def make_thread(target: Callable[[], None], name: str) -> threading.Thread:
    """A thread, not yet started, that `join_threads` will wait for."""
    thread = threading.Thread(target=target, name=f"slipstream-{name}", daemon=True)
    _running.add(thread)
    return thread


def join_threads(timeout_s: float) -> None:
    """Waits until those that run have ended, for so long at most."""
    deadline = time.monotonic() + timeout_s
    for thread in list(_running):
        if thread.ident is not None:
            thread.join(max(deadline - time.monotonic(), 0.0))
