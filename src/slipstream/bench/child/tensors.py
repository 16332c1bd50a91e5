"""Torch tensors and numpy arrays, looked at alike: bytes, and dtype and shape as the safetensors format has them."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

_PAGE_BYTES = 4096
# By the names of torch, numpy and ml_dtypes, which agree but for the last two rows.
_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "float4_e2m1fn_x2": "F4",
    "float4_e2m1fn": "F4",
}


def is_torch(tensor: Any) -> bool:
    """Whether it is a tensor of torch, which is not imported for that."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(tensor, torch.Tensor)


def touch(tensor: Any) -> int:
    """Reads one byte of every page of a tensor in host memory, so that each must be there."""
    if is_torch(tensor) and tensor.device.type != "cpu":
        return 0
    data = as_bytes(tensor)
    return int(data[::_PAGE_BYTES].sum()) + int(data[-1]) if data.size else 0


def as_bytes(tensor: Any) -> Any:
    """The bytes of a tensor, in order, as a one-dimensional array of uint8; from a GPU they are copied."""
    if is_torch(tensor):
        import torch

        return tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)


def dtype_name(tensor: Any) -> str:
    """The tensor's dtype, by the name that the format has for it; else by its own."""
    own = str(tensor.dtype).rpartition(".")[2]
    return _DTYPES.get(own, own)


def shape_of(tensor: Any) -> list[int]:
    """The tensor's shape, in elements: torch counts pairs of the packed F4."""
    shape = [int(size) for size in tensor.shape]
    if is_torch(tensor) and dtype_name(tensor) == "F4" and shape:
        shape[-1] *= 2
    return shape
