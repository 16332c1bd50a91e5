"""Decides which piece is passed round next, what is whole, and what becomes of a load that ends early. No I/O.

Everything here happens under one reentrant lock and takes microseconds, as in a Schedule, which decides what is read.

    engine     admit(op), place(op)                   where this rank's own reads go: into the memory of whole ops
    pump       note_read(op)                          a piece of this rank's stands in memory
    courier    wait_step() -> Turn, find_memory       the next piece, in the order that all ranks keep
    lander     note_ended(turn, error)                a broadcast has ended
    caller     wait_whole() -> OpInFlight             whole ops, in the order of the plan: the same on all ranks
    watch      wait_news, freeze, finish_at           how the load ends; see watch.py

Invariants: ops are leased in order, by the courier alone, so what is passed round next has its memory before all behind
it; pieces are begun in order, and few are under way; an op is whole when none of its pieces is outstanding, this rank's
own included, so nothing is handed out that is still being sent. After `freeze` no piece is begun until `finish_at`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from threading import Condition, RLock
from time import monotonic
from typing import TYPE_CHECKING, Literal, NamedTuple

from slipstream.errors import MemoryLimitError, SlipstreamError
from slipstream.planning.partition import Piece
from slipstream.ranks.passage import HostPassage, MakePassage
from slipstream.reading.buffers import Ledger, MapOp, Region
from slipstream.reading.in_flight import OpInFlight
from slipstream.reading.waiting import WholeOps, stuck_error
from slipstream.transport.transfer import TransferStopped
from slipstream.types import ReadOp, ReadPlan

if TYPE_CHECKING:
    from slipstream.ranks.passage import Memory

# Broadcasts under way at once: so many that the next one is there when one ends, and memory stays small.
_MOST_UNDER_WAY = 4


class News(Enum):
    """What a watch must know of."""

    OVER = "all that is passed round was"
    FAILED = "this rank has failed"
    STOPPED = "this rank's caller has closed its stream"
    BROKEN = "a broadcast has failed"


class Turn(NamedTuple):
    """A piece whose time has come.

    Attributes:
        piece: which.
        target: the op that it is, or is part of; None where nobody needs its bytes any more.
    """

    piece: Piece
    target: OpInFlight | None


class Rounds(WholeOps):
    """The state of one shared load on one rank. Thread-safe; see the module's text.

    `wait_whole` gives ops in the order of the plan, and what befell another rank once all before it was delivered.

    Attributes:
        ledger: the memory of all ops, read here or received.
        passage: that memory.
        failure: this rank's error, if it has failed.
        breakage: what the first broadcast that failed said.
        landed_at: when the last piece landed, by the monotonic clock.
        bytes_read: bytes of all pieces that have landed.
        received_bytes: those of other ranks among them.
    """

    def __init__(
        self,
        plan: ReadPlan,
        pieces: Sequence[Piece],
        rank: int,
        memory_wait_s: float,
        *,
        count_held: bool = True,
        make_passage: MakePassage = HostPassage,
    ) -> None:
        self._plan = plan
        self._pieces = pieces
        self._rank = rank
        self._changed = Condition(RLock())
        super().__init__(self._changed, memory_wait_s)
        self.ledger = Ledger(self._changed, plan.memory_limit, count_held=count_held)
        self.passage = make_passage(plan, self.ledger)
        self._outstanding = [0] * len(plan.ops)  # how many pieces of each op have not landed
        self._own: dict[tuple[str, int], Piece] = {}  # this rank's, by the first name of their op and their start
        self._own_places: dict[int, int] = {}  # the how manieth of this rank's each of them is, by its number
        for piece in pieces:
            self._outstanding[piece.op] += 1
            if piece.owner == rank:
                self._own_places[piece.number] = len(self._own)
                self._own[plan.ops[piece.op].tensors[0].name, piece.start] = piece
        self._own_ended = 0  # how many of this rank's were passed round
        self._most_ahead_bytes = plan.staging.most_ahead_bytes if plan.staging else None
        self._ahead_bytes = 0  # leased, and not yet delivered
        self._targets: dict[int, OpInFlight] = {}  # leased and not delivered, by position in the plan
        self._leased = 0  # how many ops
        self._delivered = 0  # how many ops
        self._begun = 0  # how many pieces
        self._under_way = 0  # how many pieces
        self._read: set[int] = set()  # own pieces that stand in memory
        self._undecided: list[
            Piece
        ] = []  # passed round since the freeze: until the counts are known they may be anything
        self._end = len(pieces)  # how many pieces are begun in all
        self._whole_ops = len(plan.ops)  # how many ops can become whole; none behind them is delivered
        self._counts: Sequence[int] | None = None  # how many each rank had begun when it froze
        self._open = self._frozen = self._stopped = self._broken = self._abandoned = False
        self._has_room = False  # for this rank to read on, of which the readers were not told
        self._foreign_error: SlipstreamError | None = None
        self.failure: BaseException | None = None
        self.breakage = ""
        self.landed_at = monotonic()
        self.bytes_read = 0
        self.received_bytes = 0
        self._lease_more()

    def admit(self, op: ReadOp) -> bool:
        """See Places: whether the memory of the op that this one is part of is leased, and there is room to read it."""
        with self._changed:
            piece = self._find_own(op)
            most = self.passage.most_own
            is_next = most is None or self._own_places[piece.number] < self._own_ended + most
            return is_next and piece.op < self._leased

    def place(self, op: ReadOp, map_op: MapOp) -> Region:
        """See Places: memory for a piece of this rank's."""
        with self._changed:
            piece = self._find_own(op)
            target = self._targets.get(piece.op)
        if target is None:
            raise TransferStopped
        return self.passage.place(target, piece, map_op)

    def note_read(self, op: ReadOp) -> None:
        """Notes that a piece of this rank's stands in memory."""
        with self._changed:
            self._read.add(self._find_own(op).number)
            self._changed.notify_all()

    def open(self) -> None:
        """Lets pieces be passed round: every rank is ready."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def wait_step(self) -> Turn | Literal["room", "done"]:
        """What the courier does next; see `take_step`."""
        with self._changed:
            while (step := self.take_step()) == "wait":
                self._changed.wait()
            return step

    def take_step(self) -> Turn | Literal["room", "done", "wait"]:
        """What can be done now: pass a piece round, or tell the readers that ops were given memory."""
        with self._changed:
            if self._lease_more() or self._has_room:
                self._has_room = False
                return "room"
            if self._abandoned or self._begun == self._end:
                return "done"
            return self._take_turn() or "wait"

    def find_memory(self, turn: Turn) -> Memory | None:
        """The memory of a piece; None where its bytes are of no use.

        Raises:
            OSError, DeviceError: there is none left.
        """
        return None if turn.target is None else self.passage.find(turn.target, turn.piece)

    def note_ended(self, turn: Turn, error: BaseException | None) -> None:
        """Notes that a piece was passed round, or that this failed."""
        piece = turn.piece
        self.passage.end(piece, well=error is None)
        with self._changed:
            if error is None and self._abandoned:
                error = RuntimeError("given up")  # a group that was given up may say so of what it never ended
            self._under_way -= 1
            if piece.owner == self._rank:
                self._own_ended += 1
                self._has_room = self.passage.most_own is not None
            if error is not None:
                self.breakage = self.breakage or str(error).partition("\n")[0]
                self._broken = self._frozen = True
            elif turn.target is not None and self._frozen:
                self._undecided.append(piece)
            elif turn.target is not None:
                self._land(piece)
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Ends the load by this rank's own error; the first counts, later ones become notes of it."""
        with self._changed:
            if self.failure is None:
                self.failure = error
            elif error is not self.failure:
                self.failure.add_note(f"something else failed too: {error}")
            self._halt()

    def stop(self) -> None:
        """Ends the load for this rank's caller, who wants nothing more of it."""
        with self._changed:
            self._stopped = True
            self._halt()

    def wait_news(self, timeout_s: float) -> News | None:
        """What has happened that a watch must know of; None for nothing within the time."""
        with self._changed:
            self._changed.wait_for(lambda: self._find_news() is not None, timeout_s)
            return self._find_news()

    def freeze(self, error: SlipstreamError | None) -> int:
        """Begins no further piece for now; how many were begun.

        Args:
            error: what the caller is told once he has been given what there is; None if this rank has failed or left.
        """
        with self._changed:
            self._frozen = True
            self._foreign_error = self._foreign_error or error
            self._changed.notify_all()
            return self._begun

    def finish_at(self, end: int, counts: Sequence[int]) -> None:
        """Goes on up to a piece that every rank goes up to.

        Args:
            end: the most that any rank has begun.
            counts: how many each had begun when it froze. What its owner had not begun by then holds nothing.
        """
        with self._changed:
            self._end, self._counts, self._frozen = end, counts, False
            self._whole_ops = min(
                (piece.op for piece in self._pieces if not self._is_good(piece)), default=self._whole_ops
            )
            self._open = True
            for piece in self._undecided:
                self._land(piece)
            self._undecided.clear()
            self._changed.notify_all()

    def wait_settled(self, timeout_s: float) -> News | None:
        """After `finish_at`: whether it is over, or a broadcast has failed; None for neither within the time."""
        with self._changed:
            self._changed.wait_for(lambda: self._broken or self._is_settled, timeout_s)
            return News.BROKEN if self._broken else News.OVER if self._is_settled else None

    def abandon(self) -> None:
        """Takes part in nothing any more. What is under way is left so."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()

    @property
    def is_abandoned(self) -> bool:
        """Whether what is under way may never end."""
        return self._abandoned

    @property
    def is_open(self) -> bool:
        """Whether pieces may be passed round."""
        return self._open

    @property
    def piece_count(self) -> int:
        """How many pieces the load has."""
        return len(self._pieces)

    @property
    def progress(self) -> tuple[int, int]:
        """How many tensors the caller was given, and how many there are."""
        with self._changed:
            return sum(len(op.tensors) for op in self._plan.ops[: self._delivered]), self._plan.tensor_count

    @property
    def stopped(self) -> bool:
        """Whether this rank's caller has closed its stream."""
        return self._stopped

    @property
    def all_delivered(self) -> bool:
        """Whether the caller was given everything."""
        with self._changed:
            return self._delivered == len(self._plan.ops)

    @property
    def finished(self) -> bool:
        """Whether every op was delivered, or none ever will be."""
        with self._changed:
            return self.all_delivered or self._stopped or self.failure is not None

    def _find_own(self, op: ReadOp) -> Piece:
        """The piece that one of this rank's reads is. Plain ranges may overlap, so that a place alone tells nothing."""
        return self._own[op.tensors[0].name, op.start]

    @property
    def _is_halted(self) -> bool:
        """Whether nobody here wants anything more."""
        return self._stopped or self.failure is not None

    @property
    def _is_settled(self) -> bool:
        return self._abandoned or (self._begun == self._end and self._under_way == 0)

    def _find_news(self) -> News | None:
        if self._is_settled and not self._broken:
            return News.OVER
        if self.failure is not None:
            return News.FAILED
        if self._broken:
            return News.BROKEN
        return News.STOPPED if self._stopped else None

    def _lease_more(self) -> bool:
        """Gives memory to as many of the next ops as there is room for; whether there was for any."""
        before = self._leased
        while not self._is_halted and self._leased < len(self._plan.ops):
            op = self._plan.ops[self._leased]
            if self._is_too_far_ahead(op) or not self.ledger.try_lease(op.lease_bytes):
                break
            self._targets[self._leased] = OpInFlight(op)
            self._leased += 1
            self._ahead_bytes += op.lease_bytes
        return self._leased > before

    def _is_too_far_ahead(self, op: ReadOp) -> bool:
        """Whether so much was leased and not yet delivered that the next op has to wait for the caller."""
        most = self._most_ahead_bytes
        return most is not None and self._ahead_bytes > 0 and self._ahead_bytes + op.lease_bytes > most

    def _take_turn(self) -> Turn | None:
        if not self._open or self._frozen or self._under_way >= _MOST_UNDER_WAY:
            return None
        piece = self._pieces[self._begun]
        useless = self._is_useless(piece)
        if not useless and (piece.op >= self._leased or (piece.owner == self._rank and piece.number not in self._read)):
            return None
        self._begun += 1
        self._under_way += 1
        return Turn(piece, None if useless else self._targets[piece.op])

    def _is_useless(self, piece: Piece) -> bool:
        """Whether its bytes are not needed: nobody here wants them, or an op before them has not been sent whole.

        Such an op never makes room, so nothing may wait for memory behind it.
        """
        return self._is_halted or piece.op >= self._whole_ops

    def _is_good(self, piece: Piece) -> bool:
        return self._counts is None or piece.number < self._counts[piece.owner]

    def _land(self, piece: Piece) -> None:
        """Counts a piece that was passed round, unless its owner froze before he began it, as others had."""
        if self._is_good(piece):
            self.landed_at = monotonic()
            self.bytes_read += piece.nbytes
            self.received_bytes += 0 if piece.owner == self._rank else piece.nbytes
            self._outstanding[piece.op] -= 1

    def _take_whole(self) -> OpInFlight | None:
        """See WholeOps. Raises what befell another rank, once nothing more can come."""
        if self._delivered == self._leased and self._lease_more():
            self._has_room = True  # the courier tells the readers, if it is not through: the last ops may have no bytes
            self._changed.notify_all()
        target = self._targets.get(self._delivered)
        if target is None or self._outstanding[self._delivered]:
            over = self._abandoned or (self._counts is not None and self._is_settled)
            if over and self._foreign_error is not None:
                raise self._foreign_error
            return None
        self.passage.finish(target)
        del self._targets[self._delivered]
        self._delivered += 1
        self._ahead_bytes -= target.op.lease_bytes
        if self._most_ahead_bytes is not None:
            self._changed.notify_all()  # the courier may lease more
        self.ledger.hand_over(target.op.lease_bytes)
        return target

    def _over(self) -> bool:
        if self.failure is not None:
            raise self.failure
        return self._stopped or self._delivered == len(self._plan.ops)

    def _find_stuck(self) -> ReadOp | None:
        if self._leased == len(self._plan.ops) or self._delivered < self._leased:
            return None
        op = self._plan.ops[self._leased]
        return None if self.ledger.can_lease(op.lease_bytes) else op

    def _give_up(self, op: ReadOp) -> MemoryLimitError:
        error = stuck_error(op, self._plan, self.ledger.leased_bytes)
        self.fail(error)
        return error

    def _halt(self) -> None:
        self._frozen = self._frozen or self._counts is None
        self._targets.clear()
        self._changed.notify_all()
