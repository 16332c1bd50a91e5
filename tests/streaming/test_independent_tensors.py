"""A delivered tensor is the caller's own: writing to it reaches no file, no other tensor and no later load."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import numpy
import pytest
import torch

import slipstream
from slipstream import Dtype, Options
from slipstream.testing.checkpoints import write_safetensors
from tests.streaming.random_checkpoints import make_content, tensor_bytes, write_flat

SIZES = {"a": 1, "b": 10, "c": 4096, "d": 0, "e": 70_001, "f": 3, "g": 9000}
EVERY_WAY = [
    Options(strategy=cast(Any, strategy), chunk_bytes=chunk_bytes, memory_limit=memory_limit)
    for strategy in ("mapped", "direct", "buffered")
    for chunk_bytes in (4096, 1 << 20)
    for memory_limit in (None, 1 << 20)
]


def describe(how: Options) -> str:
    """A test's name for a way of reading."""
    return f"{how.strategy}-{how.chunk_bytes}-{'limited' if how.memory_limit else 'unlimited'}"


@pytest.mark.parametrize("framework", ["torch", "numpy"])
@pytest.mark.parametrize("how", EVERY_WAY, ids=describe)
def test_writes_stay_in_their_tensor(how: Options, framework: Any, tmp_path: Path) -> None:
    """Filling one tensor after another changes none of the others, nor the file, nor a later load."""
    path = tmp_path / "a.safetensors"
    written = write_flat(path, SIZES)
    before = path.read_bytes()
    tensors = cast(dict[str, Any], slipstream.load(path, framework=framework, options=how))
    expected = dict(written)
    for name, tensor in tensors.items():
        tensor[:] = 0xA5
        expected[name] = b"\xa5" * SIZES[name]
        assert {other: tensor_bytes(found) for other, found in tensors.items()} == expected
    assert path.read_bytes() == before
    again = slipstream.load(path, framework=framework, options=how)
    assert {name: tensor_bytes(tensor) for name, tensor in again.items()} == written


@pytest.mark.parametrize("how", EVERY_WAY, ids=describe)
@pytest.mark.parametrize("odd_bytes", [0, 1])
def test_storage_is_exactly_the_tensor(odd_bytes: int, how: Options, tmp_path: Path) -> None:
    """A torch tensor's storage has its own bytes and no neighbour's, so that saving it saves no more."""
    path = tmp_path / "a.safetensors"
    contents = {
        str(dtype): (dtype, (4, 6), make_content(dtype, (4, 6), seed=number)) for number, dtype in enumerate(Dtype)
    }
    odd = {"odd": (Dtype.U8, (odd_bytes,), b"\0" * odd_bytes)}
    write_safetensors(path, {**odd, **contents, "scalar": (Dtype.F64, (), b"12345678"), "none": (Dtype.F64, (0,), b"")})
    for tensor in cast(dict[str, torch.Tensor], slipstream.load(path, framework="torch", options=how)).values():
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        assert tensor.storage_offset() == 0
        assert tensor.is_contiguous()
        assert not tensor.requires_grad
        assert tensor.data_ptr() % tensor.element_size() == 0


def test_torch_save_round_trip(tmp_path: Path) -> None:
    """A loaded state dict goes through torch.save and comes back with the same types, shapes and bytes."""
    contents = {
        str(dtype): (dtype, (4, 6), make_content(dtype, (4, 6), seed=number)) for number, dtype in enumerate(Dtype)
    }
    write_safetensors(tmp_path / "a.safetensors", {"odd": (Dtype.U8, (3,), b"odd"), **contents})
    loaded = cast(dict[str, torch.Tensor], slipstream.load(tmp_path, framework="torch"))
    file = io.BytesIO()
    torch.save(loaded, file)
    assert len(file.getvalue()) < 64 * 1024
    file.seek(0)
    again = torch.load(file)
    assert list(again) == list(loaded)
    for name, tensor in loaded.items():
        assert (again[name].dtype, again[name].shape) == (tensor.dtype, tensor.shape)
        assert tensor_bytes(again[name]) == tensor_bytes(tensor)


def test_torch_operations_work_on_delivered_tensors(tmp_path: Path) -> None:
    """Gradients, in-place arithmetic and sharing with NumPy work as on any tensor."""
    values = numpy.arange(1000, dtype="<f4")
    write_safetensors(tmp_path / "a.safetensors", {"a": (Dtype.F32, (10, 100), values.tobytes())})
    tensor = cast(torch.Tensor, slipstream.load(tmp_path, framework="torch")["a"])
    tensor.add_(1).requires_grad_()
    (gradient,) = torch.autograd.grad((tensor * 2).sum(), tensor)
    assert torch.equal(tensor.detach(), torch.arange(1, 1001, dtype=torch.float32).reshape(10, 100))
    assert torch.equal(gradient, torch.full((10, 100), 2.0))
    shared = tensor.detach().numpy()
    shared[0, 0] = -5
    assert tensor[0, 0] == -5


def test_numpy_arrays_are_ordinary(tmp_path: Path) -> None:
    """Arrays are C-contiguous, aligned, writable and of native byte order."""
    contents = {str(dtype): (dtype, (4, 6), make_content(dtype, (4, 6), seed=1)) for dtype in Dtype}
    write_safetensors(tmp_path / "a.safetensors", {"odd": (Dtype.U8, (3,), b"odd"), **contents})
    for array in slipstream.load(tmp_path, framework="numpy").values():
        assert isinstance(array, numpy.ndarray)
        assert type(array) is numpy.ndarray
        assert array.flags.c_contiguous
        assert array.flags.aligned
        assert array.flags.writeable
        assert array.dtype.isnative


def test_two_loads_at_once_are_apart(tmp_path: Path) -> None:
    """Two streams of one file that run side by side share no memory."""
    path = tmp_path / "a.safetensors"
    written = write_flat(path, {f"t{number}": 5000 for number in range(20)})
    how = Options(chunk_bytes=8192)
    with slipstream.stream(path, options=how) as first, slipstream.stream(path, options=how) as second:
        held: list[tuple[str, Any]] = []
        for (_name, tensor), other in zip(first, second, strict=True):
            tensor[:] = 0
            held.append(other)
    assert {name: tensor_bytes(tensor) for name, tensor in held} == written
