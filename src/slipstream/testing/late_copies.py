"""A copier whose copies come late and in another order than they were asked for: what a device may do.

    copier = LateCopier(HostCopier(...), seed=1)

wraps one that copies at once. What it is asked to copy it only writes down. All that is written down is done, in an
order that the seed decides, when somebody waits for one of the copies, or once there are `most_late` of them. So a slot
that is read into again too early, or a tensor that is handed out too early, has wrong bytes, every time.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from threading import RLock
from typing import Any


class LateCopier:
    """Wraps a copier; see the module's text. As that, for any number of threads."""

    def __init__(self, inner: Any, *, seed: int = 0, most_late: int = 1000, fails: Callable[[int], bool] | None = None):
        """
        Args:
            inner: what copies.
            seed: of the order.
            most_late: how many copies are put off at most.
            fails: whether the n-th copy that was asked for, from 0 on, fails when it is done.
        """
        self.memory = inner.memory
        self.asked = 0
        self.swapped = 0
        self._inner = inner
        self._random = random.Random(seed)
        self._most_late = most_late
        self._fails = fails or (lambda number: False)
        self._lock = RLock()
        self._late: list[LateCopy] = []

    def land(self, op: Any, end_lease: Any) -> LateLanding:
        """See Copier."""
        return LateLanding(self, self._inner.land(op, end_lease))

    def notes(self) -> Sequence[str]:
        """See Copier."""
        found: Sequence[str] = self._inner.notes()
        return found

    def put_off(self, begin: Callable[[], Any]) -> LateCopy:
        """Writes a copy down."""
        with self._lock:
            late = LateCopy(self, self.asked, begin, fails=self._fails(self.asked))
            self.asked += 1
            self._late.append(late)
            if len(self._late) >= self._most_late:
                self.catch_up()
            return late

    def catch_up(self) -> None:
        """Does all that was put off."""
        with self._lock:
            order = self._late
            self._late = []
            self._random.shuffle(order)
            self.swapped += sum(left.number > right.number for left, right in pairwise(order))
            for late in order:
                late.do()


class LateCopy:
    """When a copy is over. An Event.

    Attributes:
        number: the how manieth it was to be asked for.
    """

    def __init__(self, copier: LateCopier, number: int, begin: Callable[[], Any], *, fails: bool) -> None:
        self.number = number
        self._copier = copier
        self._copy: Callable[[], Any] | None = begin
        self._fails = fails
        self._event: Any = None
        self._error: BaseException | None = None

    def do(self) -> None:
        """Copies, unless that was done."""
        begin, self._copy = self._copy, None
        if begin is not None:
            try:
                if self._fails:
                    from slipstream.errors import DeviceError

                    raise DeviceError(f"copy {self.number} failed, as it was told to")
                self._event = begin()
                self._event.wait()
            except BaseException as error:
                self._error = error.with_traceback(None)  # whose frames would hold the slot

    def done(self) -> bool:
        """See Event."""
        self._raise()
        return self._copy is None and self._event is not None

    def wait(self) -> None:
        """See Event."""
        self._copier.catch_up()
        self._raise()

    def _raise(self) -> None:
        """Raises a new error each time, as a device does: one that is held would hold the frames of all who got it."""
        if self._error is not None:
            raise copy.copy(self._error)


class LateLanding:
    """Memory that is copied into late. A Landing."""

    def __init__(self, copier: LateCopier, inner: Any) -> None:
        self._copier = copier
        self._inner = inner
        self._copies: list[LateCopy] = []

    def copy(self, chunk: Any, start: int, end: int) -> LateCopy:
        """See Landing."""
        late = self._copier.put_off(lambda: self._inner.copy(chunk, start, end))
        self._copies.append(late)
        return late

    def hand_out(self) -> Sequence[tuple[str, Any]]:
        """See Landing. Waits for the copies, as a stream of the device would."""
        for late in self._copies:
            late.wait()
        found: Sequence[tuple[str, Any]] = self._inner.hand_out()
        return found
