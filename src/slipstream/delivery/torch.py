"""PyTorch tensors on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import torch

from slipstream.delivery.arrays import explain_shape, stored_shape, view_array
from slipstream.errors import UsageError
from slipstream.reading.buffers import Region
from slipstream.types import DTYPE_BITS, Dtype, TensorInfo

# PyTorch has no six-bit types: they come as the bytes of the file. A PyTorch too old for a type lacks it here.
_DTYPE_NAMES: Mapping[Dtype, str] = {
    Dtype.BOOL: "bool",
    Dtype.F4: "float4_e2m1fn_x2",
    Dtype.F6_E2M3: "uint8",
    Dtype.F6_E3M2: "uint8",
    Dtype.U8: "uint8",
    Dtype.I8: "int8",
    Dtype.F8_E5M2: "float8_e5m2",
    Dtype.F8_E4M3: "float8_e4m3fn",
    Dtype.F8_E8M0: "float8_e8m0fnu",
    Dtype.F8_E4M3FNUZ: "float8_e4m3fnuz",
    Dtype.F8_E5M2FNUZ: "float8_e5m2fnuz",
    Dtype.I16: "int16",
    Dtype.U16: "uint16",
    Dtype.F16: "float16",
    Dtype.BF16: "bfloat16",
    Dtype.I32: "int32",
    Dtype.U32: "uint32",
    Dtype.F32: "float32",
    Dtype.C64: "complex64",
    Dtype.F64: "float64",
    Dtype.I64: "int64",
    Dtype.U64: "uint64",
}
_DTYPES: Mapping[Dtype, torch.dtype] = {
    dtype: getattr(torch, name) for dtype, name in _DTYPE_NAMES.items() if hasattr(torch, name)
}

# Through NumPy, because that is the quickest way to a tensor with a storage of exactly its own bytes
# (2.5 us against 10.5 us for torch.frombuffer and view); as integers, so that NumPy need not know the type.
_CARRIERS: Mapping[Dtype, numpy.dtype[Any]] = {
    dtype: numpy.dtype({1: "u1", 2: "<i2", 4: "<i4", 8: "<i8"}[torch_dtype.itemsize])
    for dtype, torch_dtype in _DTYPES.items()
}
_USUAL = {dtype: (_CARRIERS[dtype], _DTYPES[dtype]) for dtype in _DTYPES if DTYPE_BITS[dtype] >= 8}
_MOST_NUMPY_DIMENSIONS = 32


class TorchFramework:
    """Delivers torch.Tensor on the CPU, contiguous and writable, each with a storage of its own size."""

    def view_tensors(self, tensors: Sequence[TensorInfo], region: Region) -> list[tuple[str, torch.Tensor]]:
        """See Framework. One loop of few bytecodes for the usual tensors, because it runs 100,000 times a second."""
        view, base = region.view, region.base
        pairs: list[tuple[str, torch.Tensor]] = []
        for info in tensors:
            name, dtype, shape, _, start, end = info
            usual = _USUAL.get(dtype)
            if usual is None or start == end or len(shape) > _MOST_NUMPY_DIMENSIONS:
                tensor = _view_tensor(info, region)
            else:
                tensor = torch.from_numpy(numpy.ndarray(shape, usual[0], view, start - base)).view(usual[1])
            pairs.append((name, tensor))
        return pairs


def torch_dtype(info: TensorInfo) -> torch.dtype:
    """PyTorch's type for a tensor.

    Raises:
        UsageError: this PyTorch has none.
    """
    dtype = _DTYPES.get(info.dtype)
    if dtype is None:
        name = _DTYPE_NAMES[info.dtype]
        raise UsageError(
            f"the tensor {info.name!r} needs torch.{name}, which PyTorch {torch.__version__} lacks: upgrade it"
        )
    return dtype


def _view_tensor(info: TensorInfo, region: Region) -> torch.Tensor:
    dtype = torch_dtype(info)
    try:
        if not info.nbytes:
            return torch.empty(stored_shape(info), dtype=dtype)  # its other dimensions may be too large for NumPy
        if len(info.shape) > _MOST_NUMPY_DIMENSIONS:
            flat = info._replace(shape=(info.elements,))
            return (
                torch.from_numpy(view_array(flat, region, _CARRIERS[info.dtype])).view(dtype).view(stored_shape(info))
            )
        return torch.from_numpy(view_array(info, region, _CARRIERS[info.dtype])).view(dtype)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise explain_shape(info, "PyTorch", error) from error
