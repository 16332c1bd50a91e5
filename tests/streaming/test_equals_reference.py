"""Whatever is read, and however: the tensors are those that the reference implementation reads."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import ml_dtypes
import numpy
import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import slipstream
from slipstream import Dtype, Options
from slipstream.testing.checkpoints import write_safetensors
from tests.streaming.random_checkpoints import (
    Form,
    Reference,
    forms,
    make_content,
    options,
    read_by_reference,
    selections,
    sharded,
    tensor_bytes,
    write_checkpoint,
)

FrameworkName = Literal["torch", "numpy"]

TORCH_DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "F4": torch.float4_e2m1fn_x2,
    "F6_E2M3": torch.uint8,
    "F6_E3M2": torch.uint8,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "C64": torch.complex64,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}
NUMPY_DTYPES: dict[str, Any] = {
    "BOOL": numpy.bool_,
    "F4": numpy.uint8,
    "F6_E2M3": numpy.uint8,
    "F6_E3M2": numpy.uint8,
    "U8": numpy.uint8,
    "I8": numpy.int8,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "I16": numpy.int16,
    "U16": numpy.uint16,
    "F16": numpy.float16,
    "BF16": ml_dtypes.bfloat16,
    "I32": numpy.int32,
    "U32": numpy.uint32,
    "F32": numpy.float32,
    "C64": numpy.complex64,
    "F64": numpy.float64,
    "I64": numpy.int64,
    "U64": numpy.uint64,
}


def expected_shape(reference: Reference) -> tuple[int, ...]:
    """The shape that is delivered: that of the header, save for elements that are packed."""
    shape = reference.shape
    if reference.dtype == "F4" and shape and shape[-1] % 2 == 0:
        return (*shape[:-1], shape[-1] // 2)
    return (len(reference.content),) if reference.dtype in ("F4", "F6_E2M3", "F6_E3M2") else shape


def check_tensor(tensor: object, reference: Reference) -> None:
    """Compares type, shape and bytes."""
    if isinstance(tensor, torch.Tensor):
        assert tensor.dtype is TORCH_DTYPES[reference.dtype]
        assert tensor.device.type == "cpu"
    else:
        assert isinstance(tensor, numpy.ndarray)
        assert tensor.dtype == numpy.dtype(NUMPY_DTYPES[reference.dtype])
        assert tensor.flags.aligned
    assert tuple(tensor.shape) == expected_shape(reference)
    assert tensor_bytes(tensor) == reference.content


@given(data=st.data(), shards=sharded(), form=forms(), how=options(), framework=st.sampled_from(["torch", "numpy"]))
@settings(max_examples=80, deadline=None)
def test_load_equals_the_reference_reader(
    data: st.DataObject, shards: list[Any], form: Form, how: Options, framework: FrameworkName
) -> None:
    """A random checkpoint, in any form, selection and way of reading, loads as the reference reads it."""
    with tempfile.TemporaryDirectory() as folder:
        uri = write_checkpoint(Path(folder), shards, form)
        names, wanted = data.draw(selections([name for shard in shards for name in shard]))
        references = read_by_reference(Path(folder), wanted)
        found = slipstream.load(cast(Any, uri), framework=framework, names=names, options=how)
        assert set(found) == wanted
        for name, reference in references.items():
            check_tensor(found[name], reference)


@st.composite
def limited_loads(draw: st.DrawFn) -> tuple[list[Any], Options]:
    """A checkpoint and options whose limit is at least its largest tensor, at most all of it twice."""
    shards = draw(sharded())
    sizes = [len(tensor[2]) for shard in shards for tensor in shard.values()]
    least = max([1, *sizes])
    return shards, draw(options(st.integers(least, max(least, 2 * sum(sizes)))))


@given(limited=limited_loads(), framework=st.sampled_from(["torch", "numpy"]))
@settings(max_examples=80, deadline=None)
def test_limited_stream_equals_the_reference_reader(
    limited: tuple[list[Any], Options], framework: FrameworkName
) -> None:
    """A stream under a memory limit hands every tensor out, right, once, to a caller that drops each."""
    shards, how = limited
    with tempfile.TemporaryDirectory() as folder:
        uri = write_checkpoint(Path(folder), shards, "directory")
        references = read_by_reference(Path(folder), [name for shard in shards for name in shard])
        seen: list[str] = []
        with slipstream.stream(cast(Any, uri), framework=framework, options=how) as tensors:
            for name, tensor in tensors:
                check_tensor(tensor, references[name])
                seen.append(name)
                del tensor
        assert sorted(seen) == sorted(references)
        assert how.memory_limit is not None
        assert tensors.stats().peak_buffer_bytes <= how.memory_limit


@pytest.mark.parametrize("framework", ["torch", "numpy"])
@pytest.mark.parametrize("strategy", ["mapped", "direct", "buffered"])
@pytest.mark.parametrize("dtype", Dtype)
def test_every_dtype_with_every_strategy(dtype: Dtype, strategy: str, framework: FrameworkName, tmp_path: Path) -> None:
    """Each type comes back right as scalar, empty, small, large and misaligned tensor."""
    shapes: list[tuple[int, ...]] = [(4, 3), (), (0,), (3, 0, 2), (1,), (4, 2), (2, 0), (1500, 8), (5, 4)]
    shapes = [shape for shape in shapes if math.prod(shape) * dtype.bits % 8 == 0]
    tensors = {f"{shape}": (dtype, shape, make_content(dtype, shape, seed=7)) for shape in shapes}
    odd = (Dtype.U8, (1,), b"\7")
    write_safetensors(tmp_path / "model.safetensors", {"odd": odd, **tensors})
    how = slipstream.Options(chunk_bytes=4096, strategy=cast(Any, strategy))
    found = slipstream.load(tmp_path, framework=framework, options=how)
    for name, reference in read_by_reference(tmp_path, ["odd", *tensors]).items():
        check_tensor(found[name], reference)


BY_REFERENCE_TOO = [
    (framework, dtype)
    for framework in ("torch", "numpy")
    for dtype in Dtype
    if not dtype.startswith("F6_") and (framework == "torch" or not dtype.startswith(("F4", "F8")))
]


@pytest.mark.parametrize(("framework", "dtype"), BY_REFERENCE_TOO)
def test_same_type_and_shape_as_the_reference_delivers(framework: FrameworkName, dtype: Dtype, tmp_path: Path) -> None:
    """Where the reference can deliver a type itself, slipstream delivers the same type and shape."""
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": (dtype, (3, 4), make_content(dtype, (3, 4), seed=1))})
    with safetensors.safe_open(path, "pt" if framework == "torch" else "numpy") as opened:
        reference: Any = opened.get_tensor("a")
    found = slipstream.load(path, framework=framework)["a"]
    assert (found.dtype, found.shape) == (reference.dtype, reference.shape)
    assert tensor_bytes(found) == tensor_bytes(reference)


@pytest.mark.parametrize("dimensions", [8, 31, 32, 33, 64])
@pytest.mark.parametrize("dtype", [Dtype.F32, Dtype.F4, Dtype.BOOL])
def test_many_dimensions(dtype: Dtype, dimensions: int, tmp_path: Path) -> None:
    """Tensors of more dimensions than NumPy once had come back in PyTorch with all of them."""
    shape = (*[1] * (dimensions - 2), 2, 4)
    write_safetensors(tmp_path / "a.safetensors", {"a": (dtype, shape, make_content(dtype, shape, seed=2))})
    found = slipstream.load(tmp_path, framework="torch")
    check_tensor(found["a"], read_by_reference(tmp_path, ["a"])["a"])


@pytest.mark.parametrize("shape", [(2**40, 0), (0, 2**62), (2**31, 0, 2**31)])
def test_zero_sized_tensors_of_huge_dimensions(shape: Sequence[int], tmp_path: Path) -> None:
    """A tensor without elements keeps its shape, however large its other dimensions are."""
    write_safetensors(tmp_path / "a.safetensors", {"a": (Dtype.F32, shape, b"")})
    assert tuple(slipstream.load(tmp_path, framework="torch")["a"].shape) == tuple(shape)


@pytest.mark.parametrize("strategy", ["mapped", "direct", "buffered"])
@pytest.mark.parametrize("tail", [0, 1, 511, 4095])
def test_last_byte_around_a_page_end(tail: int, strategy: str, tmp_path: Path) -> None:
    """The last bytes of a file come whole, whether it ends at a page's end or anywhere within one."""
    sizes = {"a": 3 * 4096, "b": 4096 + tail}
    tensors = {name: (Dtype.U8, (size,), make_content(Dtype.U8, (size,), seed=size)) for name, size in sizes.items()}
    path = tmp_path / "a.safetensors"
    header = write_safetensors(path, tensors, {"padding": ""}) - sum(sizes.values())
    write_safetensors(path, tensors, {"padding": "x" * (4096 - header)})  # so that the data begins at a page
    assert path.stat().st_size == 4096 + sum(sizes.values())
    how = slipstream.Options(chunk_bytes=4096, strategy=cast(Any, strategy))
    found = slipstream.load(path, framework="numpy", options=how)
    for name, reference in read_by_reference(tmp_path, sizes).items():
        check_tensor(found[name], reference)


@pytest.mark.parametrize("strategy", ["mapped", "direct", "buffered"])
def test_large_misaligned_tensors(strategy: str, tmp_path: Path) -> None:
    """A tensor of more than a huge page that must be moved to align it comes whole, whatever its length is."""
    count = (2 << 20) // 4 + 1025
    tensors = {"odd": (Dtype.U8, (1,), b"o"), "a": (Dtype.F32, (count,), make_content(Dtype.F32, (count,), seed=1))}
    write_safetensors(tmp_path / "a.safetensors", tensors)
    found = slipstream.load(tmp_path, framework="numpy", options=slipstream.Options(strategy=cast(Any, strategy)))
    check_tensor(found["a"], read_by_reference(tmp_path, ["a"])["a"])
