"""What has passed through a ring is what the reference implementation reads, whatever the ring is like."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import slipstream
from slipstream import Dtype, MemoryLimitError, Options
from slipstream.testing.checkpoints import write_safetensors
from slipstream.testing.late_copies import LateCopier
from tests.streaming.random_checkpoints import make_content, options, read_by_reference, sharded, write_checkpoint
from tests.streaming.test_equals_reference import check_tensor

FrameworkName = Literal["torch", "numpy"]
RINGS = st.sampled_from(["auto", 1 << 16, 100_000, 1 << 20])
SHAPES = [(4, 3), (), (0,), (3, 0, 2), (1,), (4, 2), (2, 0), (1500, 8), (5, 4), (300, 70)]


def check_stream(shards: list[Any], framework: FrameworkName, how: Options) -> None:
    """Streams the shards, dropping each tensor, and compares every one with the reference's."""
    with tempfile.TemporaryDirectory() as folder:
        uri = write_checkpoint(Path(folder), shards, "directory")
        references = read_by_reference(Path(folder), [name for shard in shards for name in shard])
        seen: list[str] = []
        with slipstream.stream(cast(Any, uri), framework=framework, options=how) as tensors:
            for name, tensor in tensors:
                check_tensor(tensor, references[name])
                seen.append(name)
                del tensor
            stats = tensors.stats()
    assert sorted(seen) == sorted(references)
    if how.memory_limit is not None and stats.ring_bytes:
        assert stats.ring_bytes + stats.peak_buffer_bytes <= how.memory_limit


@given(shards=sharded(), framework=st.sampled_from(["torch", "numpy"]), how=options(), ring=RINGS)
@settings(max_examples=60, deadline=None)
def test_to_the_host(shards: list[Any], framework: FrameworkName, how: Options, ring: Any) -> None:
    """Any checkpoint comes out right by any way of reading, through any ring."""
    check_stream(shards, framework, replace(how, staging=True, ring_bytes=ring))


@given(shards=sharded(), how=options(), ring=RINGS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_late_and_out_of_order(shards: list[Any], how: Options, ring: Any, late: list[LateCopier]) -> None:
    """The same where copies come late and in another order than the reads: no slot is read into too early."""
    check_stream(shards, "numpy", replace(how, staging=True, ring_bytes=ring))


@given(shards=sharded(), how=options(), ring=RINGS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_by_an_accelerator(shards: list[Any], how: Options, ring: Any, accelerated: None) -> None:
    """The same by what is done for a GPU: tensors moved apart in their slots, views of one allocation."""
    check_stream(shards, "torch", replace(how, ring_bytes=ring))


@st.composite
def limited_loads(draw: st.DrawFn) -> tuple[list[Any], Options]:
    """A checkpoint, and a limit that leaves its largest tensor room beside the ring, or nearly."""
    shards = draw(sharded())
    sizes = [len(tensor[2]) for shard in shards for tensor in shard.values()]
    least = max([1, *sizes])
    how = draw(options(st.integers(least, max(least, 3 * sum(sizes)) + 40_000)))
    return shards, replace(how, staging=True)


@given(limited=limited_loads(), framework=st.sampled_from(["torch", "numpy"]))
@settings(max_examples=60, deadline=None)
def test_within_a_limit(limited: tuple[list[Any], Options], framework: FrameworkName) -> None:
    """Ring and tensors together stay within memory_limit; what cannot fit is refused before anything is read."""
    shards, how = limited
    try:
        check_stream(shards, framework, how)
    except MemoryLimitError as error:
        assert "raise the limit" in str(error)  # noqa: PT017  # whether it is raised depends on what was drawn


@given(shards=sharded(), how=options(), share=st.floats(1.0, 3.0))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_within_a_limit_of_the_device(shards: list[Any], how: Options, share: float, accelerated: None) -> None:
    """Of a device no more is used than device_memory_limit, for a caller that drops each tensor."""
    sizes = [len(tensor[2]) for shard in shards for tensor in shard.values()]
    limit = int(max([1, *sizes]) * share)
    check_stream(shards, "torch", replace(how, device_memory_limit=limit))


@pytest.mark.parametrize("way", ["host", "late", "accelerated"])
@pytest.mark.parametrize("strategy", ["auto", "mapped", "direct", "buffered"])
@pytest.mark.parametrize("dtype", Dtype)
def test_every_dtype(dtype: Dtype, strategy: Any, way: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Each type comes right as scalar, empty, small, large and misaligned tensor, by every strategy."""
    if way != "host":
        request.getfixturevalue(way)
    shapes = [shape for shape in SHAPES if math.prod(shape) * dtype.bits % 8 == 0]
    tensors = {f"{shape}": (dtype, shape, make_content(dtype, shape, seed=7)) for shape in shapes}
    write_safetensors(tmp_path / "model.safetensors", {"odd": (Dtype.U8, (1,), b"\7"), **tensors})
    how = Options(chunk_bytes=4096, strategy=strategy, staging=True)
    found = slipstream.load(tmp_path, options=how)
    for name, reference in read_by_reference(tmp_path, ["odd", *tensors]).items():
        check_tensor(found[name], reference)


def test_copies_were_late(late: list[LateCopier], tmp_path: Path) -> None:
    """The tests above would mean nothing if copies were done in the order in which they were asked for."""
    write_safetensors(
        tmp_path / "a.safetensors", {f"t{number}": (Dtype.U8, (50_000,), bytes(50_000)) for number in range(40)}
    )
    slipstream.load(tmp_path, options=Options(staging=True, chunk_bytes=8192, ring_bytes=1 << 18))
    (copier,) = late
    assert copier.asked > 200
    assert copier.swapped > 20
