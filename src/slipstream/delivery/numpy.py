"""NumPy arrays, with ml_dtypes for the types that NumPy itself lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy

from slipstream.delivery.arrays import explain_shape, view_array
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
        return [(info.name, _view_tensor(info, region)) for info in tensors]


def _view_tensor(info: TensorInfo, region: Region) -> numpy.ndarray[Any, numpy.dtype[Any]]:
    try:
        return view_array(info, region, _DTYPES[info.dtype])
    except (ValueError, OverflowError, MemoryError) as error:
        raise explain_shape(info, "NumPy", error) from error


def numpy_dtype(dtype: Dtype) -> numpy.dtype[Any]:
    """NumPy's type for one of the format's."""
    return _DTYPES[dtype]
