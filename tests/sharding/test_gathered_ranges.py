"""How strips are read: which are read together, in which steps, and that figures of the plan are those of the reads."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from slipstream import Options
from slipstream.planning.gather import plan_gather
from slipstream.planning.policy import choose_strategy
from slipstream.reading.gather import find_pieces, find_runs
from slipstream.types import Gather, StorageFacts, Strategy, StrategyChoice, Strips, StripWay, Target
from tests.planning.plans import make_facts

DISK = make_facts(read_ahead_bytes=8 << 20)
STORE = make_facts(filesystem="https", volume="host", remote=True, over_http=True, read_ahead_bytes=None)
NFS = make_facts(filesystem="nfs4", remote=True)
MEMORY = make_facts(filesystem="tmpfs", in_memory=True)
MIB = 1 << 20


def gather(
    strips: Strips,
    facts: StorageFacts = DISK,
    options: Options | None = None,
    *,
    span_bytes: int = 8 * MIB,
    shared: bool = False,
    staged: bool = False,
) -> Gather:
    options = options or Options()
    choice = choice_for(facts, options, Target.DEVICE if staged else Target.HOST)
    return plan_gather(strips, facts, choice, options, span_bytes=span_bytes, shared=shared, staged=staged)


def choice_for(facts: StorageFacts, options: Options, target: Target) -> StrategyChoice:
    return choose_strategy(facts, 1 << 30, options, target)


def columns(rows: int, strip: int, row_bytes: int) -> Strips:
    return Strips(start=1000, rows=rows, row_bytes=row_bytes, blocks=((0, strip),))


@st.composite
def any_strips(draw: st.DrawFn) -> Strips:
    """Rows of one to four blocks, with gaps from one byte on."""
    position, blocks = draw(st.integers(0, 50)), []
    for _ in range(draw(st.integers(1, 4))):
        end = position + draw(st.integers(1, 60))
        blocks.append((position, end))
        position = end + draw(st.integers(1, 60))
    row_bytes = position + draw(st.integers(0, 50))
    return Strips(draw(st.integers(0, 5000)), draw(st.integers(1, 40)), row_bytes, tuple(blocks))


def wanted_offsets(strips: Strips) -> list[int]:
    """The blob offset of every wanted byte, in the order of the tensor's memory."""
    return [
        strips.start + row * strips.row_bytes + offset
        for row in range(strips.rows)
        for start, end in strips.blocks
        for offset in range(start, end)
    ]


@given(strips=any_strips(), data=st.data())
def test_pieces_cover_exactly_what_is_wanted(strips: Strips, data: st.DataObject) -> None:
    """Any part of the tensor's memory is made of pieces that lie where its bytes lie, one behind the other."""
    total = strips.rows * strips.width
    start = data.draw(st.integers(0, total - 1))
    end = data.draw(st.integers(start + 1, total))
    pieces = find_pieces(strips, start, end)
    offsets = [start + number for start, length, _ in pieces for number in range(length)]
    assert offsets == wanted_offsets(strips)[start:end]
    places = [place for _, _, place in pieces]
    lengths = [length for _, length, _ in pieces]
    assert min(lengths) > 0
    assert places == [sum(lengths[:number]) for number in range(len(lengths))]


@given(strips=any_strips(), gap_bytes=st.integers(0, 150))
def test_runs_join_what_is_near(strips: Strips, gap_bytes: int) -> None:
    """Neighbours no further apart than the gap are in one run, all others are not, and none is lost."""
    pieces = find_pieces(strips, 0, strips.rows * strips.width)
    runs = [list(run) for run in find_runs(pieces, gap_bytes)]
    assert [piece for run in runs for piece in run] == list(pieces)
    for run in runs:
        assert all(later[0] - earlier[0] - earlier[1] <= gap_bytes for earlier, later in pairwise(run))
    for left, right in pairwise(runs):
        assert right[0][0] - left[-1][0] - left[-1][1] > gap_bytes


@given(strips=any_strips(), gap_bytes=st.one_of(st.just("auto"), st.integers(0, 300)), span_bytes=st.integers(10, 3000))
def test_figures_are_those_of_the_reads(strips: Strips, gap_bytes: int, span_bytes: int) -> None:
    """source_bytes is the sum of the runs of all steps; none takes more than the span unless one row must."""
    planned = gather(strips, options=replace(Options(), gap_bytes=gap_bytes), span_bytes=span_bytes)
    total = strips.rows * strips.width
    steps = [(start, min(start + planned.step_bytes, total)) for start in range(0, total, planned.step_bytes)]
    runs = [run for start, end in steps for run in find_runs(find_pieces(strips, start, end), planned.gap_bytes)]
    lengths = [int(run.starts[-1] + run.lengths[-1] - run.starts[0]) for run in runs]
    assert sum(lengths) == planned.source_bytes
    assert max(lengths) <= span_bytes
    whole_rows = planned.step_bytes % strips.width == 0
    assert not whole_rows or len(runs) == planned.reads
    if planned.joins_all and whole_rows:
        assert len(runs) == len(steps)
    assert planned.source_bytes >= total


def test_one_decision_for_each_storage() -> None:
    """The same strips, 21 kB apart, are read one by one from a disk, and with their gaps from what is far away."""
    strips = columns(4096, 7168, 28_672)
    assert not gather(strips, DISK).joins_all
    assert gather(strips, DISK).source_bytes == 4096 * 7168
    assert not gather(strips, MEMORY).joins_all
    assert gather(strips, NFS).joins_all
    store = gather(strips, STORE)
    assert store.joins_all
    assert store.reads == 15  # 8 MiB hold 292 rows
    assert 4096 * 28_672 * 0.99 < store.source_bytes < 4096 * 28_672


def test_near_strips_are_joined_on_a_disk_too() -> None:
    """A gap of a page is read along, one of a byte more is not."""
    assert gather(columns(100, 4096, 8192)).joins_all
    assert not gather(columns(100, 4096, 8193)).joins_all


def test_far_strips_are_not_joined_for_a_store() -> None:
    """More than a megabyte between strips is left out of the request; each strip is one."""
    apart = gather(columns(10, 3 * MIB, 5 * MIB), STORE)
    assert (apart.joins_all, apart.reads, apart.source_bytes) == (False, 10, 30 * MIB)
    assert gather(columns(10, 4 * MIB, 5 * MIB), STORE, span_bytes=32 * MIB).joins_all


def test_the_gap_is_the_callers_to_choose() -> None:
    """Options.gap_bytes goes before what suits the storage."""
    strips = columns(4096, 7168, 28_672)
    assert gather(strips, DISK, Options(gap_bytes=1 << 20)).joins_all
    assert gather(strips, STORE, Options(gap_bytes=0)).source_bytes == 4096 * 7168


def test_reasons_name_strips_gaps_and_storage() -> None:
    """The reason has the number of strips, their length, how far they are apart, and what is done."""
    for words in ("4,096 strips of 7,168 bytes", "21,504 apart", "each is read by itself"):
        assert words in gather(columns(4096, 7168, 28_672)).reason
    for words in ("21,504 apart", "read along", "a store"):
        assert words in gather(columns(4096, 7168, 28_672), STORE).reason
    fused = Strips(0, 1, 10 * MIB, ((0, 1000), (5000, 6000), (9 * MIB, 10 * MIB)))
    assert "up to 4,096 bytes apart are read together" in gather(fused).reason
    long = Strips(0, 3, 10 * MIB, ((0, 4 * MIB), (4 * MIB + 10, 9 * MIB)))
    assert "more than one read may take" in gather(long, span_bytes=MIB).reason


def test_the_way_of_single_strips() -> None:
    """A disk gives them in sectors; where there is no disk, or the caller wants another way, each is read apart."""
    strips = columns(4096, 7168, 28_672)
    assert gather(strips, DISK).way is StripWay.SECTORS
    assert gather(strips, DISK, Options(strategy="direct")).way is StripWay.SECTORS
    for strategy in (Strategy.MAPPED, Strategy.BUFFERED):
        assert gather(strips, DISK, Options(strategy=strategy)).way is StripWay.APART
    for facts in (MEMORY, NFS, STORE):
        assert gather(strips, facts).way is StripWay.APART


def test_neighbours_on_the_host_share_the_page_cache() -> None:
    """Where other ranks on the host want the rest, whole rows of a disk come into the page cache, and it is told."""
    strips = columns(4096, 7168, 28_672)
    together = gather(strips, DISK, shared=True)
    assert (together.way, together.joins_all) == (StripWay.SHARED, True)
    assert "once for all ranks on this host" in together.reason
    for facts in (MEMORY, NFS, STORE):
        assert gather(strips, facts, shared=True) == gather(strips, facts)
    for options in (Options(strategy="direct"), Options(strategy="buffered"), Options(gap_bytes=0)):
        assert gather(strips, DISK, options, shared=True) == gather(strips, DISK, options)


def test_through_a_ring_strips_are_read_as_well_as_past_it() -> None:
    """A ring keeps files from being mapped, not from being shared by the ranks of a host, nor read in sectors."""
    strips = columns(4096, 7168, 28_672)
    assert gather(strips, DISK, staged=True).way is StripWay.SECTORS
    assert gather(strips, DISK, Options(strategy="gds"), staged=True).way is StripWay.SECTORS
    assert gather(strips, DISK, shared=True, staged=True).way is StripWay.SHARED
    for facts in (MEMORY, NFS, STORE):
        assert gather(strips, facts, shared=True, staged=True).way is StripWay.APART
    for options in (Options(strategy="direct"), Options(strategy="buffered"), Options(gap_bytes=0)):
        assert gather(strips, DISK, options, shared=True, staged=True).way is not StripWay.SHARED
