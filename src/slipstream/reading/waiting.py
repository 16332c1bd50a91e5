"""How a caller waits for whole ops: until there is one, and only so long for memory that it holds itself."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from threading import Condition, get_ident
from time import monotonic

from slipstream.errors import MemoryLimitError
from slipstream.planning.limits import word_limit
from slipstream.reading.in_flight import OpInFlight
from slipstream.types import ReadOp, ReadPlan


class WholeOps(ABC):
    """What a stream takes ops from. One thread waits at a time; what is abstract here is asked under the lock."""

    def __init__(self, news: Condition, memory_wait_s: float) -> None:
        """
        Args:
            news: notified whenever there may be an op, or the load may be over.
            memory_wait_s: how long a caller who holds all of the limit is waited for; see Options.
        """
        self._news = news
        self._memory_wait_s = memory_wait_s
        self._waiting_thread: int | None = None
        self._stuck_since: float | None = None

    def wait_whole(self, timeout_s: float | None = None) -> OpInFlight | None:
        """The next op whose bytes are all there; None when all were delivered, or after the timeout.

        Raises:
            BaseException: what has ended the load.
            MemoryLimitError: the caller holds all of the limit, and nothing came back in `memory_wait_s`.
        """
        deadline = None if timeout_s is None else monotonic() + timeout_s
        with self._news:
            self._waiting_thread = get_ident()
            try:
                while not self._over():
                    if (target := self._take_whole()) is not None:
                        self._stuck_since = None
                        return target
                    now = monotonic()
                    if deadline is not None and now >= deadline:
                        return None
                    self._look_stuck(now)
                    ends = [] if deadline is None else [deadline]
                    if self._stuck_since is not None:
                        ends.append(self._stuck_since + self._memory_wait_s)
                    self._news.wait(max(min(ends) - now, 0.0) if ends else None)
                return None
            finally:
                self._waiting_thread = None

    @property
    def interrupted_here(self) -> bool:
        """Whether this thread is inside `wait_whole`, and a signal handler is asking."""
        return self._waiting_thread == get_ident()

    @abstractmethod
    def _over(self) -> bool:
        """Whether nothing more will be delivered; raises this load's own error."""

    @abstractmethod
    def _take_whole(self) -> OpInFlight | None:
        """The next op, if it is whole. It is the caller's then."""

    @abstractmethod
    def _find_stuck(self) -> ReadOp | None:
        """The op that waits for memory that the caller holds, where nothing else can move either."""

    @abstractmethod
    def _give_up(self, op: ReadOp) -> MemoryLimitError:
        """Ends the load for that op's sake; the error to raise."""

    def _look_stuck(self, now: float) -> None:
        """Notes since when nothing can move because the caller holds the memory, and raises in the end."""
        op = self._find_stuck()
        if op is None:
            self._stuck_since = None
        elif self._stuck_since is None:
            gc.collect()  # tensors in reference cycles are dead already, but not yet found
            self._stuck_since = now
        elif now - self._stuck_since >= self._memory_wait_s:
            raise self._give_up(op)


def stuck_error(op: ReadOp, plan: ReadPlan, leased_bytes: int) -> MemoryLimitError:
    """The error for a caller who holds so much of the limit that the next op has no room."""
    return MemoryLimitError(
        f"the tensors still held take {leased_bytes:,} bytes of {word_limit(plan)}, so the next "
        f"{op.nbytes:,} bytes (from {op.tensors[0].name} on) cannot be read. Drop tensors before asking for the "
        "next one (a loop's variable holds the last one: `del tensor` at the end of its body), raise the limit, "
        "or leave tensors out with names=",
        uri=plan.checkpoint.blobs[op.blob].uri,
        offset=op.start,
        length=op.nbytes,
    )
