"""A rank gets the slices of the whole tensors, however they are read, and all ranks together the whole."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import slipstream
from slipstream import Cut, Dtype, Options, Shard, UsageError
from slipstream.testing.checkpoints import write_safetensors
from slipstream.testing.range_faults import CloseEarly, Reset, Stall
from slipstream.testing.range_schedule import Faults, When
from slipstream.testing.range_server import RangeServer
from tests.sharding.slicing import Part, Whole, cut_up, cuts, find_indexes, wholes
from tests.streaming.random_checkpoints import tensor_bytes

FrameworkName = Literal["torch", "numpy"]
FIRST_LOOK_BYTES = 96 << 10
QUICK = Options(chunk_bytes=4096, concurrency=4, hedge=False, attempts=4, first_byte_timeout_s=5.0, stall_timeout_s=5.0)


class Sample(NamedTuple):
    """A checkpoint, and how each tensor is divided."""

    tensors: Mapping[str, Whole]
    rules: Mapping[str, Cut | None]
    world_size: int

    def expected(self, rank: int) -> dict[str, Part]:
        """What a rank must get."""
        return {name: self._part(name, rank) for name in self.tensors}

    def _part(self, name: str, rank: int) -> Part:
        whole, cut = self.tensors[name], self.rules[name]
        if cut is None:
            return Part(whole.shape, whole.content)
        indexes = find_indexes(whole.shape[cut.dim], cut, rank, self.world_size)
        return cut_up(whole, cut.dim % len(whole.shape), indexes)

    def write(self, path: Path) -> None:
        write_safetensors(path, dict(self.tensors))

    def shard(self, rank: int, ranks_per_host: int | None = None) -> Shard:
        return Shard(rank, self.world_size, self.rules, ranks_per_host=ranks_per_host)


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """A few tensors of any type, whole or divided along any dimension."""
    world_size = draw(st.integers(1, 5))
    tensors: dict[str, Whole] = {}
    rules: dict[str, Cut | None] = {}
    for number in range(draw(st.integers(1, 5))):
        whole = draw(wholes())
        cut = draw(st.none() | cuts(whole.shape, world_size))
        name = f"t{'x' * number}"
        tensors[name], rules[name] = whole, cut
    sample = Sample(tensors, rules, world_size)
    for name in tensors:  # what cannot be divided into whole bytes is for test_divided_tensors.py
        if any(sample.expected(rank)[name].content is None for rank in range(world_size)):
            rules[name] = None
    return sample


def stored_shape(whole: Whole, part: Part) -> tuple[int, ...]:
    """The shape that is delivered, in which elements of 4 bits count by twos, and of 6 bits as bytes."""
    assert part.content is not None
    if whole.dtype is Dtype.F4 and part.shape and part.shape[-1] % 2 == 0:
        return (*part.shape[:-1], part.shape[-1] // 2)
    return (len(part.content),) if whole.dtype.bits < 8 else part.shape


def check_parts(found: Mapping[str, Any], sample: Sample, rank: int) -> None:
    expected = sample.expected(rank)
    assert set(found) == set(expected)
    for name, part in expected.items():
        assert tensor_bytes(found[name]) == part.content
        assert tuple(found[name].shape) == stored_shape(sample.tensors[name], part)
        if isinstance(found[name], numpy.ndarray):
            assert found[name].flags.aligned


def options() -> st.SearchStrategy[Options]:
    """Any way of reading."""
    return st.builds(
        Options,
        concurrency=st.sampled_from(["auto", 1, 3]),
        chunk_bytes=st.sampled_from([4096, 5000, 65_536]),
        strategy=st.sampled_from(["auto", "mapped", "direct", "buffered"]),
        gap_bytes=st.sampled_from(["auto", 0, 7, 300, 1 << 20]),
        memory_limit=st.sampled_from([None, 400_000]),
        hedge=st.just(False),
    )


@given(sample=samples(), how=options(), framework=st.sampled_from(["torch", "numpy"]), ranks_per_host=st.integers(1, 2))
@settings(max_examples=160, deadline=None)
def test_files(sample: Sample, how: Options, framework: FrameworkName, ranks_per_host: int) -> None:
    """From files every rank gets its slices, by every strategy, with every gap, alone on its host or not."""
    with tempfile.TemporaryDirectory() as folder:
        sample.write(Path(folder) / "a.safetensors")
        for rank in range(sample.world_size):
            shard = sample.shard(rank, ranks_per_host)
            with slipstream.stream(folder, shard=shard, framework=framework, options=how) as stream:
                found = {name: tensor_bytes(tensor) for name, tensor in stream}
            assert found == {name: part.content for name, part in sample.expected(rank).items()}
            if how.memory_limit is None:
                loaded = slipstream.load(folder, shard=shard, framework=framework, options=how)
                check_parts(loaded, sample, rank)


@given(sample=samples(), how=options())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_range_server(sample: Sample, how: Options, range_root: Path, range_server: RangeServer) -> None:
    """Over HTTP too; and the server has sent the bytes that the plan tells of, and the header, and no byte more."""
    sample.write(range_root / "random.safetensors")
    url = range_server.url("random.safetensors")
    size = (range_root / "random.safetensors").stat().st_size
    for rank in range(sample.world_size):
        range_server.reset()
        shard = sample.shard(rank)
        with slipstream.stream(url, shard=shard, framework="numpy", options=how) as stream:
            found = {name: tensor_bytes(tensor) for name, tensor in stream}
            stats = stream.stats()
        assert found == {name: part.content for name, part in sample.expected(rank).items()}
        sent = sum(request.body_bytes for request in range_server.requests)
        assert sent == stats.source_bytes + min(size, FIRST_LOOK_BYTES)
        assert stats.source_bytes == slipstream.plan(url, shard=shard, options=how).source_bytes
        assert stats.bytes == sum(len(data) for data in found.values())


COLUMNS = Whole(Dtype.BF16, (300, 128), numpy.random.default_rng(0).bytes(300 * 128 * 2))
FUSED = Whole(Dtype.F32, (96, 50), numpy.random.default_rng(1).bytes(96 * 50 * 4))
ROWS = Whole(Dtype.U8, (1000, 33), numpy.random.default_rng(2).bytes(33_000))
WHOLE = Whole(Dtype.I64, (17,), numpy.random.default_rng(3).bytes(136))
SAMPLE = Sample(
    {"columns": COLUMNS, "fused": FUSED, "rows": ROWS, "whole": WHOLE},
    {"columns": Cut(dim=1), "fused": Cut(dim=0, parts=(2, 1, 1), unit=4), "rows": Cut(), "whole": None},
    3,
)


def test_ranks_put_together_are_the_whole(tmp_path: Path) -> None:
    """Concatenating the ranks' pieces along the cut dimension gives the tensor that torch reads, in torch itself."""
    SAMPLE.write(tmp_path / "a.safetensors")
    whole = slipstream.load(tmp_path, framework="torch")
    parts = [slipstream.load(tmp_path, framework="torch", shard=SAMPLE.shard(rank)) for rank in range(3)]
    for name, dim in (("columns", 1), ("rows", 0)):
        pieces = [part[name] for part in parts]
        reference = whole[name]
        assert isinstance(reference, torch.Tensor)
        together = torch.cat([piece for piece in pieces if isinstance(piece, torch.Tensor)], dim)
        assert torch.equal(together.view(torch.uint8), reference.view(torch.uint8))


def test_the_pieces_are_the_callers_own(tmp_path: Path) -> None:
    """A piece is contiguous, has a storage of its own bytes alone, lives after the stream, and may be written to."""
    SAMPLE.write(tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()
    found = slipstream.load(tmp_path, framework="torch", shard=SAMPLE.shard(1))
    for tensor in found.values():
        assert isinstance(tensor, torch.Tensor)
        assert tensor.is_contiguous()
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
        tensor.view(torch.uint8).fill_(7)
    assert (tmp_path / "a.safetensors").read_bytes() == before


@pytest.mark.parametrize("gap_bytes", [0, 1 << 20])
@pytest.mark.parametrize(
    "faults",
    [
        Faults(Reset(2_000, when=When(after=1, first_attempts=2, probability=0.4))),
        Faults(CloseEarly(1_000, when=When(after=1, probability=0.3))),
    ],
    ids=["reset", "closed early"],
)
def test_broken_ranges_are_healed(faults: Faults, gap_bytes: int, range_root: Path, range_server: RangeServer) -> None:
    """What breaks while strips are received is asked for again from where it broke, and the slices are right."""
    SAMPLE.write(range_root / "broken.safetensors")
    range_server.set_faults(faults)
    how = Options(chunk_bytes=8192, concurrency=4, hedge=False, attempts=20, retries=5000, gap_bytes=gap_bytes)
    url = range_server.url("broken.safetensors")
    with slipstream.stream(url, framework="numpy", shard=SAMPLE.shard(2), options=how) as stream:
        found = dict(stream)
        assert stream.stats().retries
    check_parts(found, SAMPLE, 2)


@pytest.mark.parametrize("gap_bytes", [0, 1 << 20])
def test_stragglers_are_overtaken(gap_bytes: int, range_root: Path, range_server: RangeServer) -> None:
    """A stalled read of strips is made a second time, and what the first one had brought does no harm."""
    SAMPLE.write(range_root / "stalled.safetensors")
    range_server.set_faults(Faults(Stall(500, when=When(numbers=(15, 18)))))
    how = Options(chunk_bytes=4096, concurrency=4, gap_bytes=gap_bytes, first_byte_timeout_s=60.0, stall_timeout_s=60.0)
    url = range_server.url("stalled.safetensors")
    with slipstream.stream(url, framework="numpy", shard=SAMPLE.shard(0), options=how) as stream:
        found = dict(stream)
        assert stream.stats().hedged >= 2
    check_parts(found, SAMPLE, 0)


def test_names_and_shard_together(tmp_path: Path) -> None:
    """names= selects before shard= divides: only what is selected needs a rule."""
    SAMPLE.write(tmp_path / "a.safetensors")
    shard = Shard(1, 3, {"columns": 1})
    found = slipstream.load(tmp_path, framework="numpy", shard=shard, names="columns")
    assert {name: tensor_bytes(tensor) for name, tensor in found.items()} == {
        "columns": SAMPLE.expected(1)["columns"].content
    }
    with pytest.raises(UsageError, match="fused"):
        slipstream.load(tmp_path, framework="numpy", shard=shard)


def test_a_rank_with_nothing_of_a_tensor_gets_it_empty(tmp_path: Path) -> None:
    """Where there are more ranks than rows, the last ranks get tensors with no rows, of the right type and shape."""
    write_safetensors(tmp_path / "a.safetensors", {"x": ("F32", (2, 3), bytes(24))})
    for rank in range(4):
        (tensor,) = slipstream.load(tmp_path, framework="numpy", shard=Shard(rank, 4, {"*": 0})).values()
        assert tensor.shape == ((1, 3) if rank < 2 else (0, 3))
        (column,) = slipstream.load(tmp_path, framework="torch", shard=Shard(rank, 4, {"*": 1})).values()
        assert tuple(column.shape) == ((2, 1) if rank < 3 else (2, 0))


def test_load_into_a_rank_s_module(tmp_path: Path) -> None:
    """A module with a rank's shapes is filled with the rank's pieces; one with whole shapes is refused."""
    weights = numpy.arange(48, dtype=numpy.float32)
    write_safetensors(
        tmp_path / "a.safetensors",
        {"weight": ("F32", (6, 8), weights.tobytes()), "bias": ("F32", (6,), weights[:6].tobytes())},
    )
    rules = {"weight": 1, "bias": None}
    module = torch.nn.Linear(4, 6)
    slipstream.load_into(module, tmp_path, shard=Shard(1, 2, rules))
    assert torch.equal(module.weight.detach(), torch.from_numpy(weights.reshape(6, 8)[:, 4:].copy()))
    with pytest.raises(slipstream.ModuleMismatchError, match="weight"):
        slipstream.load_into(torch.nn.Linear(8, 6), tmp_path, shard=Shard(1, 2, rules))
