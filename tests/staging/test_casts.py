"""dtype=: floating-point tensors come in the type that was asked for, with the values that PyTorch's own cast gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy
import pytest
import torch

import slipstream
from slipstream import Dtype, Options, UsageError
from slipstream.testing.checkpoints import write_safetensors
from slipstream.testing.late_copies import LateCopier
from tests.streaming.random_checkpoints import make_bytes, make_content, tensor_bytes

CAST = {
    Dtype.F64: torch.float64,
    Dtype.F32: torch.float32,
    Dtype.F16: torch.float16,
    Dtype.BF16: torch.bfloat16,
}
SHAPES = [(), (3,), (0, 2), (700, 9), (2000, 33)]
WAYS = ["host", "late", "accelerated"]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """Each way to where tensors stand."""
    if request.param != "host":
        request.getfixturevalue(request.param)
    return str(request.param)


def write_all(path: Path, *, odd: bool) -> None:
    """Every type, in small and large tensors; misaligned, where `odd`."""
    tensors: dict[str, tuple[Dtype, tuple[int, ...], bytes]] = {"odd": (Dtype.U8, (1,), b"o")} if odd else {}
    for dtype in Dtype:
        for shape in SHAPES:
            if int(numpy.prod(shape)) * dtype.bits % 8 == 0:
                tensors[f"{dtype}.{shape}"] = dtype, shape, make_content(dtype, shape, seed=len(tensors))
    write_safetensors(path, tensors)


def same_values(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two tensors are equal in type, shape and values; any NaN is like another."""
    if left.dtype is not right.dtype or left.shape != right.shape:
        return False
    return left.numel() == 0 or torch.equal(*(torch.nan_to_num(each.double(), nan=0.5) for each in (left, right)))


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("limit", [None, 900_000])
@pytest.mark.parametrize("wanted", CAST.values(), ids=str)
def test_values(way: str, wanted: torch.dtype, limit: int | None, odd: bool, tmp_path: Path) -> None:
    """Each floating-point tensor of 16 bits and more is cast as PyTorch casts it; all others keep every byte."""
    write_all(tmp_path / "a.safetensors", odd=odd)
    stored = cast(dict[str, torch.Tensor], slipstream.load(tmp_path))
    how = Options(chunk_bytes=16_384, memory_limit=None if way == "accelerated" else limit, device_memory_limit=limit)
    seen = set()
    with slipstream.stream(tmp_path, dtype=wanted, options=how) as tensors:
        for name, tensor in tensors:
            assert isinstance(tensor, torch.Tensor)
            if stored[name].dtype in CAST.values():
                assert same_values(tensor, stored[name].to(wanted)), name
            else:
                assert tensor_bytes(tensor) == tensor_bytes(stored[name]), name
                assert tensor.dtype is stored[name].dtype
            seen.add(name)
            del tensor
    assert seen == stored.keys()


@pytest.mark.parametrize("wanted", ["float64", "float32", "float16", "bfloat16"])
def test_values_of_arrays(wanted: str, tmp_path: Path) -> None:
    """NumPy's arrays are cast to the same values."""
    write_all(tmp_path / "a.safetensors", odd=True)
    tensors = cast(dict[str, torch.Tensor], slipstream.load(tmp_path, dtype=wanted))
    arrays = slipstream.load(tmp_path, dtype=wanted, framework="numpy")
    for name, tensor in tensors.items():
        array = cast(Any, arrays[name])
        if tensor.dtype in CAST.values():
            assert array.dtype == numpy.dtype(getattr(ml_dtypes, wanted, wanted))
            with numpy.errstate(invalid="ignore"):
                wide = torch.from_numpy(array.astype(numpy.float64))
            assert same_values(wide, tensor.double()), name


@pytest.mark.parametrize(
    "given",
    [
        "bfloat16",
        "torch.bfloat16",
        "BF16",
        Dtype.BF16,
        torch.bfloat16,
        ml_dtypes.bfloat16,
        numpy.dtype(ml_dtypes.bfloat16),
    ],
    ids=str,
)
def test_names_of_a_type(given: Any, tmp_path: Path) -> None:
    """A type may be named as PyTorch, NumPy or the format do."""
    write_safetensors(tmp_path / "a.safetensors", {"a": (Dtype.F32, (4,), make_bytes(16, seed=1))})
    assert slipstream.load(tmp_path, dtype=given, framework="torch")["a"].dtype is torch.bfloat16


@pytest.mark.parametrize("given", ["int8", torch.int32, "float8_e4m3fn", torch.float8_e5m2, "", "F4", 3, numpy.int64])
def test_types_that_nothing_is_cast_to(given: Any, tmp_path: Path) -> None:
    """Another type is wrong usage, with those that there are."""
    write_safetensors(tmp_path / "a.safetensors", {"a": (Dtype.F32, (4,), make_bytes(16, seed=1))})
    for ask in (slipstream.load, slipstream.stream, slipstream.plan):
        with pytest.raises(UsageError, match="bfloat16"):
            cast(Any, ask)(tmp_path, dtype=given)


def test_nothing_to_cast_needs_no_ring(tmp_path: Path) -> None:
    """Where every tensor has the type already, or none is cast, bytes are read into their place as ever."""
    write_safetensors(tmp_path / "a.safetensors", {"a": (Dtype.F16, (4,), bytes(8)), "b": (Dtype.I64, (1,), bytes(8))})
    with slipstream.stream(tmp_path, dtype="float16") as tensors:
        assert len(dict(tensors)) == 2
        assert tensors.stats().ring_bytes == 0
    assert slipstream.plan(tmp_path, dtype="float16").staging is None
    assert slipstream.plan(tmp_path, dtype="float32").staging is not None


def test_a_cast_against_the_options(tmp_path: Path) -> None:
    """staging=False and a cast contradict each other, which is said before anything is read."""
    write_safetensors(tmp_path / "a.safetensors", {"a": (Dtype.F32, (4,), bytes(16))})
    with pytest.raises(UsageError, match="staging=False"):
        slipstream.load(tmp_path, dtype="float16", options=Options(staging=False))


def test_memory_of_a_cast(tmp_path: Path) -> None:
    """Casting F32 to BF16 takes half of the checkpoint's memory and a ring, not one and a half of it."""
    count = 500_000
    names = [f"t{number}" for number in range(8)]
    write_safetensors(tmp_path / "a.safetensors", {name: (Dtype.F32, (count,), bytes(4 * count)) for name in names})
    with slipstream.stream(tmp_path, dtype="bfloat16", options=Options(ring_bytes=1 << 20)) as tensors:
        kept = dict(tensors)
        stats = tensors.stats()
    assert len(kept) == len(names)
    assert stats.peak_buffer_bytes == len(names) * count * 2
    assert stats.ring_bytes <= 1 << 20
    assert stats.bytes == len(names) * count * 4  # what was read


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_into_a_module(way: str, device: str, tmp_path: Path) -> None:
    """load_into casts on the way: a module on the meta device gets that type, another one keeps its own."""
    source = torch.nn.Linear(30, 20)
    state = {name: value.detach() for name, value in source.state_dict().items()}
    contents = {name: (Dtype.F32, tuple(value.shape), tensor_bytes(value)) for name, value in state.items()}
    write_safetensors(tmp_path / "a.safetensors", contents)
    module = torch.nn.Linear(30, 20, device=device)
    slipstream.load_into(module, tmp_path, dtype=torch.bfloat16)
    rounded = {name: value.to(torch.bfloat16) for name, value in source.state_dict().items()}
    for name, value in module.state_dict().items():
        assert value.dtype is (torch.bfloat16 if device == "meta" else torch.float32)
        assert torch.equal(value.to(torch.bfloat16), rounded[name])


def test_own_threads_of_pytorch_stay_out(tmp_path: Path) -> None:
    """Casting in slipstream's threads starts none of PyTorch's: these are as many as processors, for each of them."""
    write_safetensors(tmp_path / "a.safetensors", {"a": (Dtype.F32, (1_000_000,), make_bytes(4_000_000, seed=1))})
    program = (
        "import os, sys, time, torch, slipstream\n"
        "torch.set_num_threads(8)\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "slipstream.load(sys.argv[1], dtype='bfloat16')\n"
        "deadline = time.monotonic() + 10\n"
        "while (more := len(os.listdir('/proc/self/task')) - before) and time.monotonic() < deadline:\n"
        "    time.sleep(0.01)\n"  # a thread that was joined is listed a moment longer
        "print(more)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == "0"


def test_late_casts_were_late(late: list[LateCopier], tmp_path: Path) -> None:
    """Casts are put off as copies are."""
    write_safetensors(tmp_path / "a.safetensors", {"a": (Dtype.F32, (300_000,), make_bytes(1_200_000, seed=1))})
    slipstream.load(tmp_path, dtype="float16", options=Options(chunk_bytes=8192))
    assert late[0].asked > 100
