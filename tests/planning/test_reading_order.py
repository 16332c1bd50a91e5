"""The order of reading: as stored on one volume, in turns between what shares no bandwidth."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Hashable

from hypothesis import given
from hypothesis import strategies as st

from slipstream import Options, ReadPlan
from slipstream.planning.build import plan_reads
from slipstream.planning.coalesce import coalesce_tensors
from slipstream.planning.order import order_ops
from slipstream.types import ReadOp, StorageFacts
from tests.planning.plans import make_checkpoint, make_facts, make_tensors, storage_facts, tensor_sizes


@st.composite
def planned_blobs(draw: st.DrawFn) -> tuple[list[list[ReadOp]], list[StorageFacts | None]]:
    """Ranges of several blobs, and where each lies; None for a blob of which nothing is read."""
    ops = [
        coalesce_tensors(make_tensors(sizes, blob), most_bytes=draw(st.integers(1, 5000)), limited=False)
        for blob, sizes in enumerate(draw(st.lists(tensor_sizes(), max_size=6)))
    ]
    facts = draw(st.lists(storage_facts(), min_size=len(ops), max_size=len(ops)))
    return ops, [fact if blob_ops else None for blob_ops, fact in zip(ops, facts, strict=True)]


def lane_of(blob: int, facts: StorageFacts | None) -> Hashable:
    """What a blob shares its bandwidth with."""
    assert facts is not None
    return blob if facts.remote else facts.volume


@given(planned=planned_blobs())
def test_every_range_is_read_once(planned: tuple[list[list[ReadOp]], list[StorageFacts | None]]) -> None:
    """Ordering neither loses nor repeats a range, and keeps a blob's ranges in their order."""
    ops_by_blob, facts = planned
    ordered = order_ops(ops_by_blob, facts)
    assert Counter(ordered) == Counter(op for ops in ops_by_blob for op in ops)
    for blob, ops in enumerate(ops_by_blob):
        assert [op for op in ordered if op.blob == blob] == ops


@given(planned=planned_blobs())
def test_one_volume_is_read_as_stored(planned: tuple[list[list[ReadOp]], list[StorageFacts | None]]) -> None:
    """The blobs of one local volume are read one after the other."""
    ops_by_blob, facts = planned
    by_lane: dict[Hashable, list[int]] = defaultdict(list)
    for op in order_ops(ops_by_blob, facts):
        by_lane[lane_of(op.blob, facts[op.blob])].append(op.blob)
    for blobs in by_lane.values():
        assert blobs == sorted(blobs)


@given(planned=planned_blobs())
def test_volumes_take_turns(planned: tuple[list[list[ReadOp]], list[StorageFacts | None]]) -> None:
    """At any point, of two volumes that still have something to read neither is ahead by more than one range."""
    ops_by_blob, facts = planned
    ordered = order_ops(ops_by_blob, facts)
    left = Counter(lane_of(op.blob, facts[op.blob]) for op in ordered)
    done: Counter[Hashable] = Counter()
    for op in ordered:
        lane = lane_of(op.blob, facts[op.blob])
        done[lane] += 1
        left[lane] -= 1
        waiting = [done[other] for other in left if left[other] or other == lane]
        assert max(waiting) - min(waiting) <= 1


def test_two_disks_and_a_share() -> None:
    """Two local volumes and two remote blobs make four lanes."""
    ops = [coalesce_tensors(make_tensors([10, 10], blob), most_bytes=10, limited=False) for blob in range(5)]
    nfs = make_facts(volume="0:60", remote=True)
    facts = [make_facts(volume="8:1"), make_facts(volume="8:1"), make_facts(volume="8:2"), nfs, nfs]
    assert [op.blob for op in order_ops(ops, facts)] == [0, 2, 3, 4, 0, 2, 3, 4, 1, 1]


@st.composite
def plans(draw: st.DrawFn) -> tuple[ReadPlan, set[str], list[StorageFacts | None]]:
    """A plan of some tensors of a random checkpoint, their names, and the facts it was made of."""
    checkpoint = make_checkpoint(draw(st.lists(tensor_sizes(), min_size=1, max_size=5)))
    names = [tensor.name for tensor in checkpoint.tensors]
    wanted = draw(st.sets(st.sampled_from(names))) if names else set()
    selected = [tensor for tensor in checkpoint.tensors if tensor.name in wanted]
    used = {tensor.blob for tensor in selected}
    facts = [draw(storage_facts()) if blob in used else None for blob in range(len(checkpoint.blobs))]
    least = max([1, *(tensor.nbytes for tensor in selected)])
    options = draw(
        st.builds(
            Options,
            chunk_bytes=st.integers(4096, 1 << 20),
            memory_limit=st.one_of(st.none(), st.integers(least, least * 20)),
            concurrency=st.one_of(st.just("auto"), st.integers(1, 64)),
        )
    )
    return plan_reads(checkpoint, selected, facts, options), wanted, facts


@given(planned=plans())
def test_a_plan_covers_every_selected_byte_once(
    planned: tuple[ReadPlan, set[str], list[StorageFacts | None]],
) -> None:
    """Whatever is selected from however many blobs on whatever volumes: each byte of it is read once, no other is."""
    plan, wanted, facts = planned
    covered = sorted((op.blob, op.start, op.end) for op in plan.ops if op.nbytes)
    for (blob, _, end), (other, start, _) in itertools.pairwise(covered):
        assert blob < other or end <= start
    selected = [tensor for tensor in plan.checkpoint.tensors if tensor.name in wanted]
    assert sorted(tensor for op in plan.ops for tensor in op.tensors) == sorted(selected)
    assert plan.nbytes == sum(end - start for _, start, end in covered) == sum(t.nbytes for t in selected)
    assert [choice is None for choice in plan.choices] == [fact is None for fact in facts]
    assert plan.concurrency >= 1


@given(planned=plans())
def test_every_range_of_a_limited_plan_fits(planned: tuple[ReadPlan, set[str], list[StorageFacts | None]]) -> None:
    """Under a limit no range takes more than the limit, the copies of its tensors included."""
    plan, _, _ = planned
    if plan.memory_limit is not None:
        assert all(op.lease_bytes <= plan.memory_limit for op in plan.ops)
