"""The rules by which pieces are passed round, tried with any number of ranks and in any order of events."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream import Options, RankError
from slipstream.planning.build import plan_reads
from slipstream.planning.partition import Piece, own_reads, partition_reads
from slipstream.ranks.passage import HostPassage
from slipstream.ranks.rounds import News, Rounds, Turn
from slipstream.reading.buffers import Ledger, MapOp, Region, map_region
from slipstream.reading.in_flight import OpInFlight
from slipstream.types import ReadPlan, StagingPlan
from tests.planning.plans import make_checkpoint, make_facts, tensor_sizes

PIECE_BYTES = 8192


def make_plan(sizes: list[list[int]], limit: int | None) -> ReadPlan:
    checkpoint = make_checkpoint(sizes)
    largest = max((size for blob in sizes for size in blob), default=1)
    options = Options(chunk_bytes=4096, memory_limit=None if limit is None else max(limit, largest, 1))
    return plan_reads(checkpoint, checkpoint.tensors, [make_facts() for _ in checkpoint.blobs], options)


def content(piece: Piece, blob: int) -> bytes:
    """What stands in the storage there: every byte tells its place."""
    return bytes((blob * 31 + offset * 7 + offset // 251) % 256 for offset in range(piece.start, piece.end))


class FewOwn(HostPassage):
    """The memory of whole ops, but for a rank that reads only so many pieces ahead."""

    def __init__(self, plan: ReadPlan, ledger: Ledger, *, most_own: int | None) -> None:
        super().__init__(plan, ledger)
        self.most_own = most_own
        self.own: set[int] = set()

    def place(self, target: OpInFlight, piece: Piece, map_op: MapOp) -> Region:
        """See Passage. Holds that there are no more of them."""
        self.own.add(piece.number)
        assert self.most_own is None or len(self.own) <= self.most_own
        return super().place(target, piece, map_op)

    def end(self, piece: Piece, *, well: bool) -> None:
        """See Passage."""
        self.own.discard(piece.number)


@dataclass
class Rank:
    """One rank without threads: what the engine, the pump, the courier and the caller of one do, step by step."""

    plan: ReadPlan
    pieces: tuple[Piece, ...]
    number: int
    most_own: int | None = None
    rounds: Rounds = field(init=False)
    delivered: list[int] = field(default_factory=list)
    unread: list[Piece] = field(init=False)
    turns: list[Turn] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    error: BaseException | None = None

    def __post_init__(self) -> None:
        make_passage = partial(FewOwn, most_own=self.most_own)
        self.rounds = Rounds(self.plan, self.pieces, self.number, 60.0, make_passage=make_passage)
        self.unread = [piece for piece in self.pieces if piece.owner == self.number]

    @property
    def is_over(self) -> bool:
        return self.rounds.wait_news(0) is News.OVER

    def read(self) -> None:
        """Reads the next of its pieces, if its memory is leased."""
        if not self.unread or self.rounds.finished:
            return
        piece = self.unread[0]
        op = own_reads(self.plan.ops, (piece,), self.number)[0]
        if self.rounds.admit(op):
            region = self.rounds.place(op, lambda op, end_lease: map_region(op.start, op.end, None, end_lease))
            region.slice(piece.start, piece.end)[:] = content(piece, op.blob)
            self.rounds.note_read(op)
            self.unread.pop(0)

    def begin(self) -> None:
        """Begins the next broadcast, if it can."""
        step = self.rounds.take_step()
        if isinstance(step, Turn):
            self.turns.append(step)

    def take(self) -> None:
        """Takes the next op, looks at it, and drops it."""
        if self.rounds.finished or self.error is not None:
            return
        try:
            target = self.rounds.wait_whole(0.0)
        except RankError as error:
            self.error = error
            return
        if target is None:
            return
        op, region = target.op, target.region
        assert region is not None
        number = len(self.delivered)
        assert op is self.plan.ops[number]
        whole = Piece(0, number, op.start, op.end, 0)
        assert bytes(region.slice(op.start, op.end)) == content(whole, op.blob)
        target.region = None
        self.delivered.append(number)
        self.rounds.ledger.end_lease(op.lease_bytes - op.nbytes, 0, 0)  # of the copies, which nobody makes here


class World:
    """All ranks, and the network between them: a broadcast ends some time after all have begun it.

    Some ranks may read only a few pieces ahead of what was passed round, or lease only so much ahead of their caller.
    """

    def __init__(self, sizes: list[list[int]], count: int, limit: int | None, seed: int = 0) -> None:
        self.draw = random.Random(seed)
        plan = make_plan(sizes, limit)
        pieces = partition_reads(plan.ops, count, piece_bytes=PIECE_BYTES)
        self.ranks = []
        for number in range(count):
            ahead = StagingPlan("", 4096, 1, None, most_ahead_bytes=self.draw.choice([None, 1, 30_000]))
            self.ranks.append(Rank(replace(plan, staging=ahead), pieces, number, self.draw.choice([None, 1, 2])))
        self.passed: set[int] = set()
        for rank in self.ranks:
            rank.rounds.open()

    def run(self, until: Callable[[], bool]) -> None:
        """Lets anybody do anything that is possible, in a random order."""
        for _ in range(100_000):
            if until():
                return
            self.step()
        raise AssertionError(f"the ranks are stuck after {[len(rank.delivered) for rank in self.ranks]} ops")

    def step(self) -> None:
        rank = self.draw.choice(self.ranks)
        self.draw.choice([rank.read, rank.begin, rank.take, self.end_one])()

    def end_one(self) -> None:
        begun = min(len(rank.turns) for rank in self.ranks)
        ready = [number for number in range(begun) if number not in self.passed]
        if ready:
            self.end(self.draw.choice(ready))

    def end(self, number: int) -> None:
        turns = [rank.turns[number] for rank in self.ranks]
        assert len({turn.piece for turn in turns}) == 1, "the ranks take part in different broadcasts"
        piece = turns[0].piece
        sent = self.ranks[piece.owner].rounds.find_memory(turns[piece.owner])
        for rank, turn in zip(self.ranks, turns, strict=True):
            memory = rank.rounds.find_memory(turn)
            if isinstance(memory, memoryview) and rank.number != piece.owner:
                assert not isinstance(sent, torch.Tensor)
                memory[:] = sent or bytes(piece.nbytes)  # an owner who has nothing to send takes part all the same
        for rank, turn in zip(self.ranks, turns, strict=True):
            rank.rounds.note_ended(turn, None)
        self.passed.add(number)


loads = given(
    st.lists(tensor_sizes(), min_size=1, max_size=3),
    st.integers(2, 5),
    st.one_of(st.none(), st.integers(1, 200_000)),
    st.integers(0, 2**32),
)


@settings(deadline=None)
@loads
def test_everything_arrives_in_order(sizes: list[list[int]], count: int, limit: int | None, seed: int) -> None:
    """Whatever happens first, every rank is given every op with its bytes, in the order of the plan."""
    world = World(sizes, count, limit, seed)
    world.run(lambda: all(len(rank.delivered) == len(rank.plan.ops) for rank in world.ranks))
    assert all(rank.is_over for rank in world.ranks)
    for rank in world.ranks:
        assert rank.rounds.bytes_read == rank.plan.nbytes
        own = sum(piece.nbytes for piece in rank.pieces if piece.owner == rank.number)
        assert rank.rounds.received_bytes == rank.plan.nbytes - own


@settings(deadline=None)
@loads
def test_one_that_leaves_ends_it_for_all(sizes: list[list[int]], count: int, limit: int | None, seed: int) -> None:
    """A rank leaves at any moment: the others get all it was given, then the error, and nothing stays under way."""
    world = World(sizes, count, limit, seed)
    leaver, *others = world.draw.sample(world.ranks, count)
    total = len(leaver.plan.ops)
    goal = world.draw.randrange(total + 1)
    world.run(lambda: len(leaver.delivered) == goal)
    leaver.rounds.stop()
    error = RankError("one has left")
    counts = [rank.rounds.freeze(None if rank is leaver else error) for rank in world.ranks]
    for rank in world.draw.sample(world.ranks, count):  # one hears of it long before another
        for _ in range(world.draw.randrange(60)):
            world.step()
        rank.rounds.finish_at(max(counts), counts)

    def is_settled() -> bool:
        served = all(len(rank.delivered) == total or rank.error is error for rank in others)
        return served and all(rank.rounds.wait_settled(0) is News.OVER for rank in world.ranks)

    world.run(is_settled)
    assert all(len(rank.turns) == max(counts) for rank in world.ranks)
    assert all(len(rank.delivered) >= goal for rank in others)


def test_a_failure_is_told_at_once() -> None:
    """The rank that fails tells its caller at once, though whole ops wait to be delivered."""
    world = World([[5000] * 8], 2, None)
    failing = world.ranks[0]
    world.run(lambda: len(world.passed) == 2)
    failing.rounds.fail(OSError("the disk is gone"))
    with pytest.raises(OSError, match="the disk is gone"):
        failing.rounds.wait_whole(0.0)
    assert failing.rounds.wait_news(0) is News.FAILED


def test_what_was_given_up_is_not_handed_out() -> None:
    """A broadcast that ends well only after all was given up was aborted, whatever its group says."""
    rank = World([[5000] * 8], 2, None).ranks[0]
    while not rank.turns:
        rank.read()
        rank.begin()
    count = rank.rounds.freeze(RankError("one has left"))
    rank.rounds.finish_at(count, [count, count])
    rank.rounds.abandon()
    rank.rounds.note_ended(rank.turns[0], None)
    with pytest.raises(RankError, match="one has left"):
        rank.rounds.wait_whole(0.0)


def test_a_broken_broadcast_stops_all_others() -> None:
    """After a broadcast has failed nothing further is begun, and its text is kept."""
    rank = World([[5000] * 8], 2, None).ranks[0]
    while len(rank.turns) < 1:
        rank.read()
        rank.begin()
    rank.rounds.note_ended(rank.turns[0], RuntimeError("Connection closed by peer\n at pair.cc"))
    assert rank.rounds.wait_news(0) is News.BROKEN
    assert rank.rounds.breakage == "Connection closed by peer"
    before = len(rank.turns)
    rank.read()
    rank.begin()
    assert len(rank.turns) == before
