"""The values of arrays: every bit pattern of the small types means the same in NumPy as in PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy
import pytest
import torch

import slipstream
from slipstream import Dtype
from slipstream.testing.checkpoints import write_safetensors

SMALL_FLOATS = [
    Dtype.F8_E5M2,
    Dtype.F8_E4M3,
    Dtype.F8_E8M0,
    Dtype.F8_E4M3FNUZ,
    Dtype.F8_E5M2FNUZ,
    Dtype.F16,
    Dtype.BF16,
]


@pytest.mark.parametrize("dtype", SMALL_FLOATS)
def test_every_small_float_has_one_meaning(dtype: Dtype, tmp_path: Path) -> None:
    """Each bit pattern is the same number in both frameworks, a NaN where it is one."""
    count = 2**dtype.bits
    content = numpy.arange(count, dtype=f"<u{dtype.bits // 8}").tobytes()
    write_safetensors(tmp_path / "a.safetensors", {"a": (dtype, (count,), content)})
    array = slipstream.load(tmp_path, framework="numpy")["a"]
    tensor = slipstream.load(tmp_path, framework="torch")["a"]
    with numpy.errstate(invalid="ignore"):
        by_numpy = cast(Any, array).astype(numpy.float32)
    numpy.testing.assert_array_equal(by_numpy, cast(torch.Tensor, tensor).to(torch.float32).numpy())


@pytest.mark.parametrize(
    ("dtype", "numpy_dtype", "values"),
    [
        (Dtype.BOOL, "?", [True, False, True]),
        (Dtype.I8, "<i1", [-128, 0, 127]),
        (Dtype.U8, "<u1", [0, 1, 255]),
        (Dtype.I16, "<i2", [-(2**15), -1, 2**15 - 1]),
        (Dtype.U16, "<u2", [0, 256, 2**16 - 1]),
        (Dtype.I32, "<i4", [-(2**31), 65_536, 2**31 - 1]),
        (Dtype.U32, "<u4", [0, 65_536, 2**32 - 1]),
        (Dtype.I64, "<i8", [-(2**63), 2**32, 2**63 - 1]),
        (Dtype.U64, "<u8", [0, 2**32, 2**64 - 1]),
        (Dtype.F32, "<f4", [0.5, -2.0, 2.0**100]),
        (Dtype.F64, "<f8", [0.1, -2.0, 1e300]),
        (Dtype.C64, "<c8", [0.5 + 2j, -1j, 3.0]),
    ],
)
def test_values(dtype: Dtype, numpy_dtype: str, values: list[Any], tmp_path: Path) -> None:
    """Little-endian values of the file are the values that either framework shows."""
    content = numpy.array(values, dtype=numpy_dtype).tobytes()
    write_safetensors(tmp_path / "a.safetensors", {"odd": (Dtype.U8, (3,), b"odd"), "a": (dtype, (3,), content)})
    assert slipstream.load(tmp_path, framework="numpy")["a"].tolist() == values
    found = slipstream.load(tmp_path, framework="torch")["a"].tolist()
    assert found == values


@pytest.mark.parametrize(
    ("dtype", "shape", "delivered"),
    [
        (Dtype.F4, (2, 6), (2, 3)),
        (Dtype.F4, (2,), (1,)),
        (Dtype.F4, (3, 5, 2), (3, 5, 1)),
        (Dtype.F4, (2, 3), (3,)),
        (Dtype.F4, (2, 0), (2, 0)),
        (Dtype.F4, (0, 3), (0,)),
        (Dtype.F6_E2M3, (2, 2), (3,)),
        (Dtype.F6_E2M3, (4,), (3,)),
        (Dtype.F6_E3M2, (2, 3, 4), (18,)),
        (Dtype.F6_E3M2, (0, 4), (0,)),
    ],
)
@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_packed_types_come_as_stored(
    framework: Any, dtype: Dtype, shape: tuple[int, ...], delivered: tuple[int, ...], tmp_path: Path
) -> None:
    """F4 comes with its last dimension halved where it can be, F6 flat, both as the bytes of the file."""
    content = bytes(range(1, numpy.prod(delivered, dtype=int) + 1))
    write_safetensors(tmp_path / "a.safetensors", {"a": (dtype, shape, content)})
    found = cast(Any, slipstream.load(tmp_path, framework=framework)["a"])
    assert tuple(found.shape) == delivered
    assert found.itemsize == 1
    stored = found.view(torch.uint8).numpy() if framework == "torch" else found
    assert stored.dtype == numpy.uint8
    assert stored.tobytes() == content
    (info,) = slipstream.inspect(tmp_path).tensors
    assert (info.dtype, info.shape) == (dtype, shape)
