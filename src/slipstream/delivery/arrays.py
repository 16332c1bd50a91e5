"""NumPy arrays over the bytes of a region: what every framework of this package builds on."""

from __future__ import annotations

from typing import Any

import numpy

from slipstream.errors import UsageError
from slipstream.reading.buffers import Region
from slipstream.types import TensorInfo


def view_array(info: TensorInfo, region: Region, dtype: numpy.dtype[Any]) -> numpy.ndarray[Any, numpy.dtype[Any]]:
    """An array over the tensor's own bytes, which keeps the region's memory for as long as it lives."""
    return numpy.ndarray(stored_shape(info), dtype, region.view, info.start - region.base)


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


def explain_shape(info: TensorInfo, framework: str, error: Exception) -> UsageError:
    """The error for a tensor that a framework cannot represent, though the format can."""
    dims = ", ".join(map(str, info.shape[:8])) + (", ..." if len(info.shape) > 8 else "")
    return UsageError(
        f"{framework} cannot hold the tensor {info.name!r} of type {info.dtype} and shape [{dims}] ({error}): "
        "leave it out with names="
    )
