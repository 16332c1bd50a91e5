"""Decides what is read next, what is whole, and when to stop. No I/O: workers and the caller ask it.

Everything here happens under one reentrant lock and takes microseconds. Reading, mapping and copying
happen outside it, by whoever asked.

    worker    wait_read() -> Read ... finish_read(read)      or fail(error)
    caller    wait_whole() -> OpInFlight, in completion order

Invariants: an op is leased before its first read is handed out; reads of an op are handed out in order;
it is whole when none is outstanding; after `stop` or `fail` no read is handed out.
"""

from __future__ import annotations

import gc
from collections import deque
from dataclasses import dataclass
from threading import Condition, Lock, RLock, get_ident
from time import monotonic

from slipstream.errors import MemoryLimitError
from slipstream.reading.buffers import Ledger, Region
from slipstream.types import ReadOp, ReadPlan


class OpInFlight:
    """A ReadOp between its lease and its delivery.

    Attributes:
        op: what is read.
        region: its memory, made by the first worker that reads into it, under `making`.
    """

    __slots__ = ("making", "next_start", "op", "outstanding", "region")

    def __init__(self, op: ReadOp) -> None:
        self.op = op
        self.region: Region | None = None
        self.making = Lock()
        self.next_start = op.start
        self.outstanding = 0


@dataclass(frozen=True, slots=True)
class Read:
    """One chunk for one worker: `[start, end)` of the op's blob."""

    target: OpInFlight
    start: int
    end: int


class Schedule:
    """The state of one load. Thread-safe; see the module's text."""

    def __init__(self, plan: ReadPlan, memory_wait_s: float) -> None:
        self._plan = plan
        self._memory_wait_s = memory_wait_s
        lock = RLock()
        self._memory = Condition(lock)  # workers wait here for a lease
        self._whole_or_over = Condition(lock)  # the caller waits here
        self.ledger = Ledger(self._memory, plan.memory_limit)
        self._pending = deque(plan.ops)
        self._current: OpInFlight | None = None
        self._whole: deque[OpInFlight] = deque()
        self._reading = 0  # reads handed out and not finished
        self._undelivered = len(plan.ops)
        self._error: BaseException | None = None
        self._stopped = False
        self._waiting_thread: int | None = None
        self._stuck_since: float | None = None  # the caller holds all memory, and nothing can move
        self.bytes_read = 0
        self.requests = 0

    def wait_read(self) -> Read | None:
        """The next chunk to read; None when there is none left, or the load has stopped. For workers."""
        with self._memory:
            while self._current is not None or self._pending:
                if self._current is not None or self._lease_next():
                    return self._cut_chunk()
                self._memory.wait()
            return None

    def finish_read(self, read: Read, requests: int) -> None:
        """Notes that a chunk stands in memory."""
        with self._whole_or_over:
            self._reading -= 1
            self.bytes_read += read.end - read.start
            self.requests += requests
            target = read.target
            target.outstanding -= 1
            if target.outstanding == 0 and target is not self._current and not self._stopped:
                self._whole.append(target)
                self._whole_or_over.notify()

    def fail(self, error: BaseException) -> None:
        """Stops the load with its first error; later ones become notes of it."""
        with self._whole_or_over:
            self._reading -= 1
            if self._error is None:
                self._error = error
            else:
                self._error.add_note(f"another read failed too: {error}")
            self._halt()

    def stop(self) -> None:
        """Lets no further read begin and forgets what was not delivered."""
        with self._whole_or_over:
            self._halt()

    def wait_whole(self, timeout_s: float | None = None) -> OpInFlight | None:
        """The next op whose bytes are all there; None when all were delivered, or after the timeout.

        Raises:
            BaseException: the load's first error.
            MemoryLimitError: the caller holds all of the limit, and nothing came back in `memory_wait_s`.
        """
        deadline = None if timeout_s is None else monotonic() + timeout_s
        with self._whole_or_over:
            self._waiting_thread = get_ident()
            try:
                while not self._over():
                    if self._whole:
                        self._undelivered -= 1
                        self._stuck_since = None
                        return self._whole.popleft()
                    now = monotonic()
                    if deadline is not None and now >= deadline:
                        return None
                    self._look_stuck(now)
                    ends = [] if deadline is None else [deadline]
                    if self._stuck_since is not None:
                        ends.append(self._stuck_since + self._memory_wait_s)
                    self._whole_or_over.wait(max(min(ends) - now, 0.0) if ends else None)
                return None
            finally:
                self._waiting_thread = None

    @property
    def interrupted_here(self) -> bool:
        """Whether this thread is inside `wait_whole`, and a signal handler is asking."""
        return self._waiting_thread == get_ident()

    @property
    def finished(self) -> bool:
        """Whether every op was delivered, or none ever will be."""
        with self._whole_or_over:
            return self._undelivered == 0 or self._stopped

    def _lease_next(self) -> bool:
        """Makes the next pending op the current one, if the ledger has memory for it."""
        op = self._pending[0]
        if not self.ledger.try_lease(op.lease_bytes):
            return False
        self._pending.popleft()
        self._current = OpInFlight(op)
        return True

    def _cut_chunk(self) -> Read:
        """Takes the current op's next chunk; chunks end at multiples of the chunk size in the blob."""
        current = self._current
        assert current is not None
        choice = self._plan.choices[current.op.blob]
        assert choice is not None, "an op of a blob that was not planned"
        start = current.next_start
        end = min(start - start % choice.chunk_bytes + choice.chunk_bytes, current.op.end)
        current.next_start = end
        current.outstanding += 1
        self._reading += 1
        if end == current.op.end:
            self._current = None
        return Read(current, start, end)

    def _over(self) -> bool:
        """Whether nothing more will be delivered; raises the first error."""
        if self._error is not None:
            raise self._error
        return self._stopped or self._undelivered == 0

    def _halt(self) -> None:
        self._stopped = True
        self._pending.clear()
        self._current = None
        self._whole.clear()
        self._memory.notify_all()
        self._whole_or_over.notify_all()

    def _look_stuck(self, now: float) -> None:
        """Notes since when nothing can move because the caller holds the memory, and raises in the end."""
        moving = self._reading or self._current is not None or not self._pending
        if moving or self.ledger.can_lease(self._pending[0].lease_bytes):
            self._stuck_since = None
        elif self._stuck_since is None:
            gc.collect()  # tensors in reference cycles are dead already, but not yet found
            self._stuck_since = now
        elif now - self._stuck_since >= self._memory_wait_s:
            raise self._stuck_error()

    def _stuck_error(self) -> MemoryLimitError:
        op, limit = self._pending[0], self._plan.memory_limit
        blob = self._plan.checkpoint.blobs[op.blob]
        return MemoryLimitError(
            f"the tensors still held take {self.ledger.leased_bytes:,} bytes of memory_limit={limit:,}, so the next "
            f"{op.nbytes:,} bytes (from {op.tensors[0].name} on) cannot be read. Drop tensors before asking for the "
            "next one (a loop's variable holds the last one: `del tensor` at the end of its body), raise the limit, "
            "or leave tensors out with names=",
            uri=blob.uri,
            offset=op.start,
            length=op.nbytes,
        )
