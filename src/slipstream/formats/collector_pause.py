"""Pauses Python's cycle collector while large JSON is decoded.

Decoding makes hundreds of thousands of containers and not one cycle, and the collector would walk them all several
times over. Its switch belongs to the whole process, so the blocks that want it off, in any thread, are counted: the
first turns it off, the last restores what the first found.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class _Pause:
    """How many blocks run now. `_lock` guards the rest, and is held for no longer than a switch takes."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._blocks = 0
        self._found_enabled = False

    def begin(self) -> None:
        with self._lock:
            if self._blocks == 0:
                self._found_enabled = gc.isenabled()
                gc.disable()
            self._blocks += 1

    def end(self) -> None:
        with self._lock:
            self._blocks -= 1
            if self._blocks == 0 and self._found_enabled:
                gc.enable()

    def forget(self) -> None:
        """In a forked child: the threads whose blocks were running do not exist, and would never end them."""
        if self._blocks and self._found_enabled:
            gc.enable()
        self._lock, self._blocks = Lock(), 0


_pause = _Pause()
os.register_at_fork(after_in_child=_pause.forget)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keeps the cycle collector off for the block, for the whole process: tenths of a second at most.

    Safe in several threads at once. When the last block ends, the collector is on exactly if it was on before.
    """
    _pause.begin()
    try:
        yield
    finally:
        _pause.end()
