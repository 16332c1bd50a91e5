"""NumPy arrays, with ml_dtypes for the types that NumPy itself lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy

from slipstream.delivery.base import explain_shape
from slipstream.reading.buffers import Region
from slipstream.types import Dtype, TensorInfo

# The packed types come as the bytes of the file: ml_dtypes keeps one element per byte, the format two
# (F4) or four in three bytes (F6).
_DTYPES: Mapping[Dtype, numpy.dtype[Any]] = {
    Dtype.BOOL: numpy.dtype(numpy.bool_),
    Dtype.F4: numpy.dtype(numpy.uint8),
    Dtype.F6_E2M3: numpy.dtype(numpy.uint8),
    Dtype.F6_E3M2: numpy.dtype(numpy.uint8),
    Dtype.U8: numpy.dtype(numpy.uint8),
    Dtype.I8: numpy.dtype(numpy.int8),
    Dtype.F8_E5M2: numpy.dtype(ml_dtypes.float8_e5m2),
    Dtype.F8_E4M3: numpy.dtype(ml_dtypes.float8_e4m3fn),
    Dtype.F8_E8M0: numpy.dtype(ml_dtypes.float8_e8m0fnu),
    Dtype.F8_E4M3FNUZ: numpy.dtype(ml_dtypes.float8_e4m3fnuz),
    Dtype.F8_E5M2FNUZ: numpy.dtype(ml_dtypes.float8_e5m2fnuz),
    Dtype.I16: numpy.dtype("<i2"),
    Dtype.U16: numpy.dtype("<u2"),
    Dtype.F16: numpy.dtype("<f2"),
    Dtype.BF16: numpy.dtype(ml_dtypes.bfloat16),
    Dtype.I32: numpy.dtype("<i4"),
    Dtype.U32: numpy.dtype("<u4"),
    Dtype.F32: numpy.dtype("<f4"),
    Dtype.C64: numpy.dtype("<c8"),
    Dtype.F64: numpy.dtype("<f8"),
    Dtype.I64: numpy.dtype("<i8"),
    Dtype.U64: numpy.dtype("<u8"),
}


class NumpyFramework:
    """Delivers numpy.ndarray, C-contiguous and writable."""

    def view_tensors(
        self, tensors: Sequence[TensorInfo], region: Region
    ) -> list[tuple[str, numpy.ndarray[Any, numpy.dtype[Any]]]]:
        """See Framework."""
        return [(info.name, view_array(info, region, _DTYPES[info.dtype])) for info in tensors]


def view_array(info: TensorInfo, region: Region, dtype: numpy.dtype[Any]) -> numpy.ndarray[Any, numpy.dtype[Any]]:
    """An array over the tensor's bytes; a copy where the file has them at an odd alignment.

    Raises:
        UsageError: more dimensions than NumPy has, or larger ones.
    """
    try:
        array = numpy.ndarray(stored_shape(info), dtype, region.view, info.start - region.base)
    except (ValueError, OverflowError, MemoryError) as error:
        raise explain_shape(info, "NumPy", error) from error
    misaligned = (region.address + info.start - region.base) % dtype.itemsize
    return array.copy() if misaligned else array


def stored_shape(info: TensorInfo) -> tuple[int, ...]:
    """The shape in the units that are stored: the packed types count bytes, not elements.

    F4 has two elements in a byte, so its last dimension is halved; what does not halve evenly, and F6,
    comes flat.
    """
    bits = info.dtype.bits
    if bits >= 8:
        return info.shape
    if bits == 4 and info.shape and info.shape[-1] % 2 == 0:
        return (*info.shape[:-1], info.shape[-1] // 2)
    return (info.nbytes,)
