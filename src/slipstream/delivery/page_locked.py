"""Page-locked slots, which a device reads at full speed, and which a process keeps for its next load.

Locking takes 0.4 s per GB, so it is not done again and again. What is kept is at most one ring of the usual size.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from threading import Lock

from slipstream.reading.ring import Slot

_KEPT_BYTES = 256 << 20


class PageLockedMemory:
    """The page-locked slots of a process. A SlotMemory; safe to use from any thread.

    Where locking is refused, slots are what they are: slower to copy from, and right all the same.
    """

    def __init__(self, lock: Callable[[int, int], str], unlock: Callable[[int], object]) -> None:
        """
        Args:
            lock: locks so many bytes from an address on; returns why that was refused, "" where it was not.
            unlock: unlocks what begins at an address.
        """
        self._lock_pages = lock
        self._unlock_pages = unlock
        self._guard = Lock()
        self._kept: list[Slot] = []
        self._refusal = ""

    @property
    def refusal(self) -> str:
        """Why locking was refused; "" where it never was."""
        return self._refusal

    @property
    def kept_bytes(self) -> int:
        """Memory that waits for another load."""
        with self._guard:
            return sum(len(slot.view) for slot in self._kept)

    def make(self, nbytes: int) -> Slot:
        """See SlotMemory. One that was kept comes first."""
        with self._guard:
            for number, slot in enumerate(self._kept):
                if len(slot.view) == nbytes:
                    return self._kept.pop(number)
        slot = Slot(nbytes)
        refusal = self._lock_pages(slot.address, nbytes)
        if refusal:
            self._refusal = refusal
        else:
            slot.note_locked(_Unlock(self._unlock_pages))
        return slot

    def keep(self, slots: Sequence[Slot]) -> None:
        """See SlotMemory. Those of other sizes, and those beyond what is kept, go."""
        with self._guard:
            room = _KEPT_BYTES
            kept: list[Slot] = []
            for slot in (*slots, *self._kept):
                if slot.locked and len(slot.view) <= room:
                    kept.append(slot)
                    room -= len(slot.view)
            self._kept, gone = kept, self._kept
        del gone  # unlocked without the lock

    def drop(self) -> None:
        """Lets go of what was kept."""
        with self._guard:
            self._kept, gone = [], self._kept
        del gone

    def prepare(self, nbytes: int, count: int) -> None:
        """Makes slots ahead, until so many of that size are kept.

        Raises:
            OSError: the system gives no more memory.
        """
        with self._guard:
            missing = count - sum(len(slot.view) == nbytes for slot in self._kept)
        made = [self.make(nbytes) for _ in range(count)] if missing > 0 else []
        self.keep(made)


class _Unlock:
    """Unlocks pages in the process that locked them: a forked child has a copy of the memory, and no lock on it."""

    def __init__(self, unlock: Callable[[int], object]) -> None:
        self._unlock = unlock
        self._process = os.getpid()

    def __call__(self, address: int) -> None:
        if os.getpid() == self._process:
            self._unlock(address)
