"""shard= through a ring: what a rank gets is the slice of the whole tensor, cast, however it got there."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import slipstream
from slipstream import Cut, Dtype, MemoryLimitError, Options, Shard
from slipstream.testing.checkpoints import write_safetensors
from slipstream.testing.late_copies import LateCopier
from slipstream.testing.range_faults import CloseEarly, Hold, Reset, Stall
from slipstream.testing.range_schedule import Faults, When
from slipstream.testing.range_server import RangeServer
from tests.endings.leaks import see_footprint, wait_nothing_left
from tests.sharding.slicing import Whole
from tests.sharding.test_sharded_loads import FIRST_LOOK_BYTES, SAMPLE, Sample, options, samples
from tests.sharding.test_strips_under_limits import COUNT, HALF, write_columns
from tests.staging.conftest import accelerated as accelerated
from tests.staging.conftest import late as late
from tests.staging.test_casts import CAST, same_values
from tests.streaming.random_checkpoints import make_content, tensor_bytes

PAGE = 4096
SMALL = Options(staging=True, ring_bytes=200_000, chunk_bytes=8192, concurrency=4, hedge=False)
WANTED = st.sampled_from([None, *CAST.values()])
RINGS = st.sampled_from(["auto", 1 << 16, 100_000])
ANY_WAY = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=["host", "late", "accelerated"])
def way(request: pytest.FixtureRequest) -> str:
    """Each way to where tensors stand."""
    if request.param != "host":
        request.getfixturevalue(request.param)
    return str(request.param)


def check(found: Mapping[str, Any], sample: Sample, rank: int, wanted: torch.dtype | None) -> None:
    """Compares what a rank got with its slices, cast by PyTorch where that is asked for."""
    expected = sample.expected(rank)
    assert set(found) == set(expected)
    for name, part in expected.items():
        stored = CAST.get(sample.tensors[name].dtype)
        assert part.content is not None
        if wanted is None or stored is None:
            assert tensor_bytes(found[name]) == part.content, name
        elif part.content:
            reference = torch.frombuffer(bytearray(part.content), dtype=stored).reshape(part.shape)
            assert same_values(found[name], reference.to(wanted)), name
        else:
            assert (tuple(found[name].shape), found[name].dtype) == (part.shape, wanted)


def take(uri: Any, shard: Shard, wanted: torch.dtype | None, how: Options) -> tuple[dict[str, Any], Any]:
    """Streams a rank's part, without holding a tensor while the next one is read; and its figures."""
    found: dict[str, Any] = {}
    with slipstream.stream(uri, shard=shard, dtype=wanted, framework="torch", options=how) as stream:
        for name, tensor in stream:
            found[name] = cast(torch.Tensor, tensor).clone()
            del tensor
        return found, stream.stats()


@given(sample=samples(), how=options(), ring=RINGS, wanted=WANTED, ranks_per_host=st.integers(1, 2))
@ANY_WAY
def test_files(
    sample: Sample, how: Options, ring: Any, wanted: torch.dtype | None, ranks_per_host: int, way: str
) -> None:
    """From files, by every strategy and way of strips, with any ring, cast or not; within a limit on host memory."""
    how = replace(how, staging=True, ring_bytes=ring)
    with tempfile.TemporaryDirectory() as folder:
        sample.write(Path(folder) / "a.safetensors")
        for rank in range(sample.world_size):
            found, stats = take(folder, sample.shard(rank, ranks_per_host), wanted, how)
            check(found, sample, rank, wanted)
            assert stats.ring_bytes > 0 or stats.bytes == 0
            if how.memory_limit is not None and way != "accelerated":
                assert stats.ring_bytes + stats.peak_buffer_bytes <= how.memory_limit


@given(sample=samples(), how=options(), wanted=WANTED)
@ANY_WAY
def test_range_server(
    sample: Sample,
    how: Options,
    wanted: torch.dtype | None,
    way: str,
    range_root: Path,
    range_server: RangeServer,
) -> None:
    """Over HTTP too; and no byte more is sent than a load without a ring asks for."""
    sample.write(range_root / "staged.safetensors")
    url, size = range_server.url("staged.safetensors"), (range_root / "staged.safetensors").stat().st_size
    how = replace(how, staging=True)
    for rank in range(sample.world_size):
        range_server.reset()
        found, stats = take(url, sample.shard(rank), wanted, how)
        check(found, sample, rank, wanted)
        sent = sum(request.body_bytes for request in range_server.requests)
        assert sent == stats.source_bytes + min(size, FIRST_LOOK_BYTES)


@pytest.mark.parametrize("gap_bytes", [0, 1 << 20])
@pytest.mark.parametrize(
    "faults",
    [
        Faults(Reset(2_000, when=When(after=1, first_attempts=2, probability=0.4))),
        Faults(CloseEarly(1_000, when=When(after=1, probability=0.3))),
    ],
    ids=["reset", "closed early"],
)
def test_broken_ranges_are_healed(
    faults: Faults, gap_bytes: int, way: str, range_root: Path, range_server: RangeServer
) -> None:
    """What breaks while strips come into a slot is asked for again, and the slices are right."""
    SAMPLE.write(range_root / "broken.safetensors")
    range_server.set_faults(faults)
    how = replace(SMALL, attempts=20, retries=5000, gap_bytes=gap_bytes)
    found, stats = take(range_server.url("broken.safetensors"), SAMPLE.shard(2), torch.bfloat16, how)
    assert stats.retries
    check(found, SAMPLE, 2, torch.bfloat16)


@pytest.mark.parametrize("gap_bytes", [0, 1 << 20])
def test_stragglers_are_overtaken(gap_bytes: int, way: str, range_root: Path, range_server: RangeServer) -> None:
    """A stalled read of strips is made a second time in the slot of the first, and every byte is right."""
    SAMPLE.write(range_root / "stalled.safetensors")
    range_server.set_faults(Faults(Stall(500, when=When(numbers=(15, 18)))))
    how = replace(
        SMALL, chunk_bytes=4096, hedge=True, gap_bytes=gap_bytes, first_byte_timeout_s=60.0, stall_timeout_s=60.0
    )
    found, stats = take(range_server.url("stalled.safetensors"), SAMPLE.shard(0), None, how)
    assert stats.hedged >= 2
    check(found, SAMPLE, 0, None)


# Rows that are longer than a slot, so that they are read in pieces.
LONG = Sample({"long": Whole(Dtype.F64, (3, 6000), make_content(Dtype.F64, (3, 6000), 5))}, {"long": Cut(dim=1)}, 2)


@pytest.mark.parametrize("chunk_bytes", [4096, 5001, 8192])
def test_rows_longer_than_a_slot(chunk_bytes: int, way: str, tmp_path: Path) -> None:
    """A long row is read in pieces that fit a slot and end at whole elements, so that each can be cast by itself."""
    LONG.write(tmp_path / "a.safetensors")
    how = replace(SMALL, chunk_bytes=chunk_bytes, ring_bytes=1 << 16)
    plan = slipstream.plan(tmp_path, shard=LONG.shard(1), dtype="float32", options=how)
    (op,) = plan.ops
    assert plan.staging is not None
    assert op.gather is not None
    assert op.landing_bytes == op.nbytes // 2
    ends = [op.start]
    while ends[-1] < op.end:
        ends.append(op.end_chunk(ends[-1], 1))
    assert len(ends) >= 10
    for start, end in itertools.pairwise(ends):
        assert (end - op.start) % 8 == 0
        assert -(-end // PAGE) * PAGE - start // PAGE * PAGE <= plan.staging.slot_bytes
    for rank in range(2):
        found, _ = take(tmp_path, LONG.shard(rank), torch.float32, how)
        check(found, LONG, rank, torch.float32)


def test_copies_of_strips_were_late(late: list[LateCopier], tmp_path: Path) -> None:
    """The tests above would mean nothing if copies were done in the order in which they were asked for."""
    write_columns(tmp_path / "a.safetensors")
    slipstream.load(tmp_path, shard=HALF, options=SMALL)
    (copier,) = late
    assert copier.asked > 100
    assert copier.swapped > 10


@pytest.mark.parametrize("gap_bytes", [0, 1 << 20])
@pytest.mark.parametrize("strategy", ["mapped", "direct", "buffered"])
def test_one_limit_for_ring_scratch_and_tensors(strategy: Any, gap_bytes: int, tmp_path: Path) -> None:
    """Ring, what is read along with columns, and tensors stay within memory_limit together, and everything comes."""
    expected = write_columns(tmp_path / "a.safetensors")
    limit = 4 << 20
    how = Options(staging=True, memory_limit=limit, strategy=strategy, gap_bytes=gap_bytes, concurrency=8)
    found, stats = take(tmp_path, HALF, None, how)
    assert {name: tensor_bytes(tensor) for name, tensor in found.items()} == expected
    assert stats.ring_bytes + stats.peak_buffer_bytes <= limit


def test_the_limit_says_what_it_is_for(tmp_path: Path) -> None:
    """A piece that fits into the limit, but not beside ring and scratch, is refused with all three figures."""
    write_columns(tmp_path / "a.safetensors")
    with pytest.raises(MemoryLimitError, match="640,000") as caught:
        slipstream.plan(tmp_path, shard=HALF, options=Options(staging=True, memory_limit=1_000_000))
    for words in ("memory_limit=1,000,000", "for what is read along with columns", "for the ring", "raise the limit"):
        assert words in str(caught.value)
    with pytest.raises(MemoryLimitError, match="no room for a tensor beside what is read along with columns"):
        slipstream.plan(tmp_path, shard=HALF, options=Options(staging=True, memory_limit=30_000))


def test_load_counts_what_lands(tmp_path: Path) -> None:
    """load() of a rank's part fits a limit that its bytes fit into once they are cast, and only then."""
    data = make_content(Dtype.F64, (64, 20_000), 1)
    write_safetensors(tmp_path / "a.safetensors", {"t": (Dtype.F64, (64, 20_000), data)})
    how = Options(chunk_bytes=64 << 10, ring_bytes=1 << 20, memory_limit=4 << 20)
    found = slipstream.load(tmp_path, shard=HALF, dtype="float16", options=how)
    whole = torch.frombuffer(bytearray(data), dtype=torch.float64).reshape(64, 20_000)
    assert same_values(cast(torch.Tensor, found["t"]), whole[:, 10_000:].to(torch.float16))
    with pytest.raises(MemoryLimitError, match="5,120,000"):
        slipstream.load(tmp_path, shard=HALF, options=replace(how, staging=True))


def _leave_at_once(stream: slipstream.TensorStream) -> None:
    stream.close()


def _leave_after_one(stream: slipstream.TensorStream) -> None:
    next(stream)
    stream.close()


def _exhaust(stream: slipstream.TensorStream) -> None:
    assert sum(1 for _ in stream) == COUNT


@pytest.mark.parametrize("leave", [_leave_at_once, _leave_after_one, _exhaust])
@pytest.mark.parametrize("gap_bytes", [0, 1 << 20, "auto"])
@pytest.mark.parametrize("copies", ["at once", "late"])
def test_nothing_is_left(
    copies: str,
    gap_bytes: Any,
    leave: Callable[[slipstream.TensorStream], None],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """However a caller leaves, ring, scratch, threads and descriptors are gone."""
    if copies == "late":
        request.getfixturevalue("late")
    write_columns(tmp_path / "a.safetensors")
    shard = Shard(1, 2, {"*": 1}, ranks_per_host=2)
    slipstream.load(tmp_path, shard=HALF, framework="numpy", names="t0", options=SMALL)  # what is imported stays
    before = see_footprint(tmp_path)
    leave(slipstream.stream(tmp_path, shard=shard, framework="numpy", options=replace(SMALL, gap_bytes=gap_bytes)))
    wait_nothing_left(before, tmp_path)


def test_leaving_while_a_server_holds_back(
    way: str, range_root: Path, range_server: RangeServer, tmp_path: Path
) -> None:
    """Closing a stream whose strips a server holds back ends at once, also for reads that wait for slot or scratch."""
    write_columns(range_root / "held.safetensors")
    range_server.set_faults(Faults(Hold(when=When(after=1))))
    how = replace(SMALL, chunk_bytes=64 << 10, memory_limit=4 << 20, concurrency=16, first_byte_timeout_s=60.0)
    stream = slipstream.stream(range_server.url("held.safetensors"), shard=HALF, options=how)
    range_server.wait_held(2)
    stream.close()
    range_server.set_faults(Faults())
    for _ in range(20):  # a request that was on its way when the stream was closed is held after a first release
        range_server.release()
        with contextlib.suppress(TimeoutError):
            range_server.wait_open_connections(0, timeout_s=1.0)
            break
    range_server.wait_open_connections(0)
