"""Decides what is read next, what is whole, and when to stop. No I/O: workers and the caller ask it.

Everything here happens under one reentrant lock and takes microseconds. Reading, mapping and copying
happen outside it, by whoever asked.

    worker    wait_read() -> Read ... win(read), finish_read(read)      or lose(read), fail(read, error)
    caller    wait_whole() -> OpInFlight, in completion order

Invariants: an op is leased before its first read is handed out; reads of an op are handed out in order;
it is whole when none is outstanding; after `stop` or `fail` no read is handed out. A straggler is handed out a second
time; the first of the two to end wins, and only the winner finishes. Where both straggle, the older one makes room for
a third. Once a chunk is won, nobody is sent to read it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Condition, RLock
from time import monotonic

from slipstream.errors import MemoryLimitError
from slipstream.reading.buffers import Ledger
from slipstream.reading.in_flight import OpInFlight, Read
from slipstream.reading.processors import idle_share_s
from slipstream.reading.stragglers import Peers
from slipstream.reading.tuning import ConcurrencyTuner
from slipstream.reading.waiting import WholeOps, stuck_error
from slipstream.types import ReadOp, ReadPlan, Strategy

# How often an idle worker looks for a straggler, and how many do so when nothing else is left to read.
_LOOK_S = 0.05
_MOST_LINGERING = 4
# Second requests beyond the first few: one in twenty, so that a slow store is not asked for twice as much.
_FREE_HEDGES = 4
_READS_PER_HEDGE = 20


class Schedule(WholeOps):
    """The state of one load. Thread-safe; see the module's text."""

    def __init__(
        self,
        plan: ReadPlan,
        memory_wait_s: float,
        *,
        hedge: bool = False,
        count_held: bool = True,
        admit: Callable[[ReadOp], bool] = lambda op: True,
    ) -> None:
        self._plan = plan
        self._admit = admit
        self._hedge = hedge
        lock = RLock()
        self._memory = Condition(lock)  # workers wait here for a lease, or for a straggler
        self._whole_or_over = Condition(lock)  # the caller waits here
        super().__init__(self._whole_or_over, memory_wait_s)
        self.ledger = Ledger(self._memory, plan.memory_limit, count_held=count_held)
        tunes = plan.most_concurrency > plan.concurrency
        self._tuner = (
            ConcurrencyTuner(plan.concurrency, plan.most_concurrency, monotonic(), idle_share_s) if tunes else None
        )
        self._peers = Peers()
        self._pending = deque(OpInFlight(op) for op in plan.ops)
        self._untouched = deque(self._pending)  # whose memory nobody has been sent to make ready ahead
        self._current: OpInFlight | None = None
        self._whole: deque[OpInFlight] = deque()
        self._in_flight: dict[Read, None] = {}  # handed out and not finished, oldest first
        self._lingering = 0  # workers that wait for stragglers, with nothing else left to read
        self._handed_out = 0
        self._undelivered = len(plan.ops)
        self._error: BaseException | None = None
        self._stopped = False
        self._most_ahead_bytes = plan.staging.most_ahead_bytes if plan.staging else None
        self._ahead_bytes = 0  # leased, and not yet handed out
        self.allowed = plan.concurrency
        self.bytes_read = 0
        self._source_bytes_read = 0
        self.requests = 0
        self.hedged = 0
        self.peak_concurrency = 0

    def wait_read(self) -> Read | None:
        """The next read; None when there is none left for this worker, or the load has stopped. For workers."""
        with self._memory:
            while not self._stopped:
                if len(self._in_flight) < self.allowed:
                    straggler = self._find_straggler()
                    if straggler is not None:
                        return self._hand_out(self._repeat(straggler))
                    if self._current is not None or (self._pending and self._lease_next()):
                        return self._hand_out(self._cut_chunk())
                if self._current is None and not self._pending:
                    if not self._linger():
                        return None
                else:
                    self._memory.wait(_LOOK_S if self._hedge and self._in_flight else None)
            return None

    def take_untouched(self) -> OpInFlight | None:
        """The next op that nobody has begun to read, for who makes memory ready ahead; None when there is none left."""
        with self._memory:
            while self._untouched:
                target = self._untouched.popleft()
                if target.next_start == target.op.start:
                    return target
            return None

    def win(self, read: Read) -> bool:
        """Whether a read that has ended well is the first of its chunk. Then the caller is to stop `find_others`."""
        with self._memory:
            if read.lost:
                return False
            read.won = True
            if read.rival is not None:
                read.rival.lost = True
            return True

    def find_others(self, read: Read) -> list[Read]:
        """The reads of the same chunk, which a winner stops before the memory may be handed out."""
        with self._memory:
            return [*read.displaced, *([read.rival] if read.rival is not None else [])]

    def lose(self, read: Read) -> None:
        """Notes that a read ended whose chunk another one has finished, or that was stopped."""
        with self._memory:
            self._forget(read)
            self._memory.notify()

    def leave_chunk(self, read: Read) -> bool:
        """Notes that a worker is through with a read, however it ended; whether nobody else reads its chunk."""
        with self._memory:
            read.chunk.reads -= 1
            return read.chunk.reads == 0

    def finish_read(self, read: Read, requests: int) -> None:
        """Notes that a chunk stands in memory, and nobody writes to it any more."""
        with self._whole_or_over:
            now = monotonic()
            self._forget(read)
            self._peers.note(self._source_bytes(read, read.start), now - read.transfer.started)
            self._source_bytes_read += self._source_bytes(read, read.chunk_start)
            self.bytes_read += read.end - read.chunk_start
            self.requests += requests
            target = read.target
            target.outstanding -= 1
            if target.outstanding == 0 and target is not self._current and not self._stopped:
                self._whole.append(target)
                self._whole_or_over.notify()
            if not self._pending and self._current is None and not self._in_flight:
                self._memory.notify_all()  # those that linger may go

    def tune(self, throttled: int) -> int:
        """Judges the present concurrency; returns how many reads may be in flight from now on.

        Args:
            throttled: how often a store has asked for less so far.
        """
        with self._memory:
            if self._tuner is not None and self._pending:
                landed = self._source_bytes_read + sum(read.transfer.received for read in self._in_flight)
                full = len(self._in_flight) >= self.allowed * 3 // 4
                read_s = self._peers.typical_s(self._chunk_bytes())
                before = self.allowed
                self.allowed = self._tuner.observe(monotonic(), landed, read_s, throttled, full=full)
                if self.allowed > before:
                    self._memory.notify_all()
            return self.allowed

    def fail(self, read: Read, error: BaseException) -> None:
        """Stops the load with its first error; later ones become notes of it. A read's rival may still save it."""
        with self._whole_or_over:
            rival = read.rival
            self._forget(read)
            if read.lost or (rival is not None and not read.won):
                return
            if self._error is None:
                self._error = error
            else:
                self._error.add_note(f"another read failed too: {error}")
            self._halt()

    def wake(self) -> None:
        """Lets workers look again: an op may be admitted that was not before."""
        with self._memory:
            self._memory.notify_all()

    def stop(self) -> None:
        """Lets no further read begin, ends those that can be ended, and forgets what was not delivered."""
        with self._whole_or_over:
            self._halt()

    @property
    def stopped(self) -> bool:
        """Whether the load has ended early."""
        return self._stopped

    @property
    def finished(self) -> bool:
        """Whether every op was delivered, or none ever will be."""
        with self._whole_or_over:
            return self._undelivered == 0 or self._stopped

    def _lease_next(self) -> bool:
        """Makes the next pending op the current one, if the ledger has memory for it."""
        op = self._pending[0].op
        length = op.lease_bytes
        if not self._admit(op) or self._is_too_far_ahead(length) or not self.ledger.try_lease(length):
            return False
        self._current = self._pending.popleft()
        self._count_ahead(length)
        return True

    def _is_too_far_ahead(self, length: int) -> bool:
        """Whether so much was read and not yet handed out that the next op has to wait for the caller."""
        most = self._most_ahead_bytes
        return most is not None and self._ahead_bytes > 0 and self._ahead_bytes + length > most

    def _count_ahead(self, length: int) -> None:
        if self._most_ahead_bytes is not None:
            self._ahead_bytes += length
            if length < 0:
                self._memory.notify_all()

    def _cut_chunk(self) -> Read:
        """Takes the current op's next chunk; chunks end at multiples of the chunk size in the blob."""
        current = self._current
        assert current is not None
        choice = self._plan.choices[current.op.blob]
        assert choice is not None, "an op of a blob that was not planned"
        start = current.next_start
        end = current.op.end_chunk(start, choice.chunk_bytes)
        current.next_start = end
        current.outstanding += 1
        if end == current.op.end:
            self._current = None
        return Read(current, start, end, start)

    def _hand_out(self, read: Read) -> Read:
        self._in_flight[read] = None
        self._handed_out += 1
        self.peak_concurrency = max(self.peak_concurrency, len(self._in_flight))
        return read

    def _forget(self, read: Read) -> None:
        self._in_flight.pop(read, None)
        if read.rival is not None:
            read.rival.rival = None

    def _find_straggler(self) -> Read | None:
        """A read that is worth a second request, if any. Most calls end with a look at the oldest one."""
        if not self._hedge or not self._in_flight:
            return None
        if self.hedged >= _FREE_HEDGES + self._handed_out // _READS_PER_HEDGE:
            return None
        now = monotonic()
        at_the_end = self._current is None and not self._pending
        for read in self._in_flight:
            seconds = now - read.transfer.started
            if seconds < _LOOK_S:
                return None  # as are all behind it
            slow = self._is_slow(read, seconds, at_the_end)
            if slow and (read.rival is None or self._is_older_and_slow(read.rival, read, now, at_the_end)):
                return read
        return None

    def _is_slow(self, read: Read, seconds: float, at_the_end: bool) -> bool:
        if read.won or read.lost or read.transfer.pauses or not self._is_ranged(read):
            return False  # of a chunk that is decided the memory may be handed out already
        nbytes = self._source_bytes(read, read.start)
        return self._peers.is_straggler(nbytes, read.transfer.received, seconds, at_the_end=at_the_end)

    def _source_bytes(self, read: Read, start: int) -> int:
        """What is asked of the storage for the bytes from `start` on."""
        return int((read.end - start) * read.weight)

    def _is_older_and_slow(self, rival: Read, read: Read, now: float, at_the_end: bool) -> bool:
        started = rival.transfer.started
        return started < read.transfer.started and self._is_slow(rival, now - started, at_the_end)

    def _repeat(self, straggler: Read) -> Read:
        """Another read of what is missing of a straggler. If it is a second read itself, the first one gives up."""
        first = straggler.rival
        if first is not None:
            first.rival, first.lost = None, True
            straggler.displaced.append(first)
            first.transfer.begin_stop()
        start = straggler.start + straggler.transfer.landed
        rival = Read(straggler.target, min(start, straggler.end - 1), straggler.end, straggler.chunk_start)
        rival.rival, straggler.rival = straggler, rival
        rival.displaced = straggler.displaced
        rival.chunk = straggler.chunk
        rival.chunk.reads += 1
        straggler.kept_bytes = rival.start - straggler.start
        self.hedged += 1
        return rival

    def _linger(self) -> bool:
        """Waits a little for stragglers, if this worker is one of the few that do; whether to look again."""
        if not self._hedge or not self._in_flight or self._lingering >= _MOST_LINGERING:
            return False
        self._lingering += 1
        self._memory.wait(_LOOK_S)
        self._lingering -= 1
        return True

    def _is_ranged(self, read: Read) -> bool:
        choice = self._plan.choices[read.target.op.blob]
        return choice is not None and choice.strategy is Strategy.RANGED

    def _chunk_bytes(self) -> int:
        return max(choice.chunk_bytes for choice in self._plan.choices if choice is not None)

    def _over(self) -> bool:
        if self._error is not None:
            raise self._error
        return self._stopped or self._undelivered == 0

    def _halt(self) -> None:
        self._stopped = True
        self._pending.clear()
        self._untouched.clear()
        self._current = None
        self._whole.clear()
        for read in self._in_flight:
            read.transfer.begin_stop()
        self._memory.notify_all()
        self._whole_or_over.notify_all()

    def _take_whole(self) -> OpInFlight | None:
        if not self._whole:
            return None
        self._undelivered -= 1
        target = self._whole.popleft()
        self._count_ahead(-target.op.lease_bytes)
        self.ledger.hand_over(target.op.lease_bytes)
        return target

    def _find_stuck(self) -> ReadOp | None:
        moving = self._in_flight or self._current is not None or not self._pending
        return None if moving or self.ledger.can_lease(self._pending[0].op.lease_bytes) else self._pending[0].op

    def _give_up(self, op: ReadOp) -> MemoryLimitError:
        return stuck_error(op, self._plan, self.ledger.leased_bytes)
