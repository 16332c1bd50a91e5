"""The plan of a load through a ring: pure arithmetic, so every byte once, and nothing that does not fit into a slot."""

from __future__ import annotations

import itertools
import mmap
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream import Dtype, MemoryLimitError, Options, ReadPlan, TensorInfo, UsageError
from slipstream.planning.build import plan_reads
from slipstream.planning.landing import ALIGNMENT, CASTABLE, packed_start, place_tensors
from slipstream.types import Strategy, Target
from tests.planning.plans import MIB, make_checkpoint, make_facts, make_tensors, tensor_sizes

PAGE = mmap.PAGESIZE
CASTS = st.sampled_from([None, Dtype.BF16, Dtype.F32, Dtype.F64])


@st.composite
def tensors_of_any_type(draw: st.DrawFn) -> list[TensorInfo]:
    """Neighbours of mixed types and sizes."""
    infos, start = [], draw(st.integers(0, 5000))
    for number, elements in enumerate(draw(st.lists(st.integers(0, 3000), min_size=1, max_size=20))):
        dtype = draw(st.sampled_from([Dtype.U8, Dtype.F16, Dtype.BF16, Dtype.F32, Dtype.F64, Dtype.I64]))
        end = start + elements * dtype.bits // 8
        infos.append(TensorInfo(f"t{number}", dtype, (elements,), 0, start, end))
        start = end
    return infos


@given(infos=tensors_of_any_type(), cast=CASTS)
def test_places_are_aligned_and_apart(infos: list[TensorInfo], cast: Dtype | None) -> None:
    """Each tensor stands at a multiple of 256 bytes, whole, in its type, and overlaps no other."""
    places = place_tensors(infos, cast)
    assert all(place.start % ALIGNMENT == 0 for place in places)
    assert all(left.end <= right.start for left, right in itertools.pairwise(places))
    for info, place in zip(infos, places, strict=True):
        casts = cast is not None and info.dtype in CASTABLE
        assert place.dtype is (cast if casts else info.dtype)
        assert (place.name, place.shape) == (info.name, info.shape)
        assert place.nbytes == info.elements * place.dtype.bits // 8


@given(infos=tensors_of_any_type(), cast=CASTS)
def test_packing_moves_towards_the_end(infos: list[TensorInfo], cast: Dtype | None) -> None:
    """In a slot no tensor moves to where a tensor before it is or goes: the last may be moved first, in place."""
    places = place_tensors(infos, cast)
    if len({(info.dtype, place.dtype) for info, place in zip(infos, places, strict=True) if info is not place}) > 1:
        infos, places = infos[:1], places[:1]  # what is cast is joined with its own type alone
    starts = [packed_start(info, place) for info, place in zip(infos, places, strict=True)]
    for info, start in zip(infos, starts, strict=True):
        assert start >= info.start - infos[0].start
    ends = [start + info.nbytes for info, start in zip(infos, starts, strict=True)]
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))


@st.composite
def staged_plans(draw: st.DrawFn) -> tuple[ReadPlan, Options]:
    """A plan of any checkpoint through any ring, to host or device."""
    checkpoint = make_checkpoint(draw(st.lists(tensor_sizes(), min_size=1, max_size=3)))
    options = Options(
        staging=True,
        chunk_bytes=draw(st.sampled_from([4096, 10_000, 1 << 17, 8 << 20])),
        ring_bytes=draw(st.sampled_from(["auto", 1 << 16, 1 << 20])),
        concurrency=draw(st.sampled_from(["auto", 1, 40, 200])),
        strategy=draw(st.sampled_from(["auto", "mapped", "direct", "buffered"])),
    )
    facts = [make_facts(over_http=draw(st.booleans())) for _ in checkpoint.blobs]
    target = draw(st.sampled_from(Target))
    return plan_reads(checkpoint, checkpoint.tensors, facts, options, target, cast=draw(CASTS)), options


@given(planned=staged_plans())
def test_every_byte_once_and_every_chunk_in_a_slot(planned: tuple[ReadPlan, Options]) -> None:
    """Cutting the ops into chunks reads each byte once, and each chunk fits a slot with the pages around it."""
    plan, options = planned
    staging = plan.staging
    assert staging is not None
    assert sorted(tensor.name for op in plan.ops for tensor in op.tensors) == sorted(
        tensor.name for tensor in plan.checkpoint.tensors
    )
    for op in plan.ops:
        choice = plan.choices[op.blob]
        assert choice is not None
        assert choice.strategy is not Strategy.MAPPED
        start = op.start
        while start < op.end:
            end = op.end_chunk(start, choice.chunk_bytes)
            assert start < end <= op.end
            assert (end - op.start) % op.piece_bytes == 0
            assert -(-end // PAGE) * PAGE - start // PAGE * PAGE <= staging.slot_bytes
            start = end
        if len(op.tensors) > 1:
            places = place_tensors(op.tensors, staging.cast)
            packed = packed_start(op.tensors[-1], places[-1]) + op.tensors[-1].nbytes
            assert ALIGNMENT + PAGE + packed <= staging.slot_bytes
    assert plan.concurrency <= staging.slots
    assert plan.most_concurrency <= staging.slots
    if options.ring_bytes != "auto":
        assert staging.ring_bytes <= options.ring_bytes


def plan_one(options: Options, target: Target = Target.DEVICE, **more: Any) -> ReadPlan:
    checkpoint = make_checkpoint([[3 * MIB] * 40])
    return plan_reads(checkpoint, checkpoint.tensors, [make_facts()], options, target, **more)


def test_usual_rings() -> None:
    """256 MiB for files; up to 1 GiB where many connections are read from; what a given concurrency needs."""
    staging = plan_one(Options()).staging
    assert staging is not None
    assert 240 << 20 < staging.ring_bytes <= 256 << 20
    checkpoint = make_checkpoint([[3 * MIB] * 40])
    http = plan_reads(checkpoint, checkpoint.tensors, [make_facts(over_http=True)], Options(), Target.DEVICE)
    assert http.staging is not None
    assert 900 << 20 < http.staging.ring_bytes <= 1 << 30
    assert http.most_concurrency > 100
    assert plan_one(Options(concurrency=60)).concurrency == 60
    assert plan_one(Options(concurrency=60, ring_bytes=64 << 20)).concurrency < 10


def test_who_is_staged() -> None:
    """Devices always, the host only where that is asked for, or where something is cast."""
    assert plan_one(Options(), Target.HOST).staging is None
    assert plan_one(Options(staging=True), Target.HOST).staging is not None
    assert plan_one(Options(), Target.HOST, cast=Dtype.BF16).staging is not None
    with pytest.raises(UsageError, match="staging=False"):
        plan_one(Options(staging=False))


def test_limits_of_host_and_device() -> None:
    """To a device memory_limit bounds the ring, and device_memory_limit the tensors; on the host both are one."""
    plan = plan_one(Options(memory_limit=32 << 20, device_memory_limit=50 << 20))
    assert plan.staging is not None
    assert plan.staging.ring_bytes <= 32 << 20
    assert (plan.memory_limit, plan.limited_by) == (50 << 20, "device_memory_limit")
    plan = plan_one(Options(memory_limit=64 << 20, staging=True), Target.HOST)
    assert plan.staging is not None
    assert plan.memory_limit == (64 << 20) - plan.staging.ring_bytes
    assert plan.limited_by == "memory_limit"
    assert plan_one(Options(device_memory_limit=1 << 30)).memory_limit is None  # everything is within it


@pytest.mark.parametrize(
    ("options", "target", "words"),
    [
        (Options(memory_limit=8000), Target.DEVICE, ["slot", "memory_limit"]),
        (Options(memory_limit=12_000, staging=True), Target.HOST, ["beside the ring", "raise the limit"]),
        (Options(device_memory_limit=2 * MIB), Target.DEVICE, ["device_memory_limit", "names="]),
        (Options(memory_limit=3 * MIB, staging=True), Target.HOST, ["for the ring", "names="]),
    ],
)
def test_limits_without_room(options: Options, target: Target, words: list[str]) -> None:
    """A limit that leaves no room for a slot or a tensor is refused, with its name and the way out."""
    with pytest.raises(MemoryLimitError) as caught:
        plan_one(options, target)
    for word in words:
        assert word in str(caught.value)


def test_only_what_may_be_dropped_is_bounded() -> None:
    """Reading gets ahead of a caller on a device by a GiB at most, unless he keeps everything anyway."""
    for keeps, most in ((False, 1 << 30), (True, None)):
        staging = plan_one(Options(), keeps=keeps).staging
        assert staging is not None
        assert staging.most_ahead_bytes == most
    host = plan_one(Options(staging=True), Target.HOST).staging
    assert host is not None
    assert host.most_ahead_bytes is None


def test_gds_is_for_devices() -> None:
    """GPUDirect Storage is refused for the host, taken for a device, and chosen where a probe found it faster."""
    with pytest.raises(UsageError, match="cuda"):
        plan_one(Options(strategy="gds"), Target.HOST)
    (choice,) = plan_one(Options(strategy="gds")).choices
    assert choice is not None
    assert choice.strategy is Strategy.GDS
    checkpoint = make_checkpoint([[3 * MIB] * 40])
    for gain, strategy in ((None, Strategy.DIRECT), (0.0, Strategy.DIRECT), (1.5, Strategy.GDS)):
        facts = [make_facts(gds_gain=gain)]
        (choice,) = plan_reads(checkpoint, checkpoint.tensors, facts, Options(), Target.DEVICE).choices
        assert choice is not None
        assert choice.strategy is strategy


def test_a_piece_is_never_cut() -> None:
    """A chunk ends at a whole element, or holds one where its window does not."""
    (info,) = make_tensors([8 * 1000])
    checkpoint = make_checkpoint([[3, 8 * 1000]])
    assert info.dtype is Dtype.F64
    plan = plan_reads(
        checkpoint, checkpoint.tensors[1:], [make_facts()], Options(chunk_bytes=4096), Target.HOST, cast=Dtype.F32
    )
    (op,) = plan.ops
    assert op.piece_bytes == 8
    assert op.start % 8 == 3
    assert op.end_chunk(op.start, 4096) == 4096 - (4096 - op.start) % 8
    assert op.end_chunk(op.start, op.start + 5) == op.start + 8
