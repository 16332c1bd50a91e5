"""Where the tensors of an op come to stand once they have passed through the ring. Pure arithmetic.

blob      ...[ a ][b][  c  ]...                as the file has them, at any offset
slot         [ a ]....[b]......[  c  ]         moved apart, so that one copy takes them all
memory       [ a ]....[b]......[  c  ]         each at a multiple of 256 bytes; narrower, where they are cast
"""

from __future__ import annotations

from collections.abc import Sequence

from slipstream.types import DTYPE_BITS, Dtype, TensorInfo

# What cudaMalloc guarantees (CUDA C++ Programming Guide, "Device Memory Accesses"), so that kernels may rely on it.
ALIGNMENT = 256

CASTABLE = frozenset((Dtype.F64, Dtype.F32, Dtype.F16, Dtype.BF16))
"""What is cast, and to what. Smaller types are quantized: without their scales their values mean nothing."""


def landed_dtype(info: TensorInfo, cast: Dtype | None) -> Dtype:
    """The type that a tensor has once it has landed."""
    return cast if cast is not None and info.dtype in CASTABLE else info.dtype


def place_tensors(tensors: Sequence[TensorInfo], cast: Dtype | None) -> tuple[TensorInfo, ...]:
    """The tensors as they come to stand: their types there, and offsets in the memory that they share."""
    places: list[TensorInfo] = []
    offset = 0
    for info in tensors:
        dtype = landed_dtype(info, cast)
        nbytes = info.nbytes if dtype is info.dtype else info.nbytes * DTYPE_BITS[dtype] // DTYPE_BITS[info.dtype]
        places.append(info._replace(dtype=dtype, start=offset, end=offset + nbytes))
        offset += -(-nbytes // ALIGNMENT) * ALIGNMENT
    return tuple(places)


def packed_start(info: TensorInfo, place: TensorInfo) -> int:
    """Where a tensor is moved to in its slot, from the first one on: there each is as wide as in the blob."""
    return place.start * DTYPE_BITS[info.dtype] // DTYPE_BITS[place.dtype]


def packed_bytes(info: TensorInfo, cast: Dtype | None) -> int:
    """How much of a slot a tensor takes, with the gap behind it."""
    wide, narrow = DTYPE_BITS[info.dtype], DTYPE_BITS[landed_dtype(info, cast)]
    if wide == narrow:
        return -(-info.nbytes // ALIGNMENT) * ALIGNMENT
    return -(-(info.nbytes * narrow // wide) // ALIGNMENT) * ALIGNMENT * wide // narrow
