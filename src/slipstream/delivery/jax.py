"""JAX arrays, placed on one device or by a sharding."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeAlias, cast

import jax
import numpy

from slipstream.delivery.arrays import explain_shape
from slipstream.delivery.numpy import NumpyFramework
from slipstream.errors import UsageError
from slipstream.reading.buffers import Region
from slipstream.types import TensorInfo

Place: TypeAlias = jax.Device | jax.sharding.Sharding
Placement: TypeAlias = "str | Place | Callable[[TensorInfo], str | Place]"
"""Where arrays go: a platform with a number ("cpu", "gpu:1"), a device, a sharding, or what says so for each tensor."""

# Types of 64 bits, which JAX narrows on the way to a device unless it is told not to.
_WIDE = frozenset("iuf")


class JaxFramework:
    """Delivers jax.Array; on the CPU without a copy, where the memory that was read into is aligned as XLA wants."""

    def __init__(self, placement: Placement) -> None:
        """
        Raises:
            UsageError: there is no such device.
        """
        self._arrays = NumpyFramework()
        self._find_place: Callable[[TensorInfo], Place]
        if callable(placement):
            ask = cast("Callable[[TensorInfo], str | Place]", placement)
            self._find_place = lambda info: find_place(ask(info))
        else:
            place = find_place(placement)
            self._find_place = lambda info: place

    def view_tensors(self, tensors: Sequence[TensorInfo], region: Region) -> list[tuple[str, jax.Array]]:
        """See Framework. What was read is the array's own: nobody else has a view of it to write through."""
        pairs = self._arrays.view_tensors(tensors, region)
        return [(info.name, self._put(info, array)) for info, (_, array) in zip(tensors, pairs, strict=True)]

    def _put(self, info: TensorInfo, array: numpy.ndarray[Any, numpy.dtype[Any]]) -> jax.Array:
        place = self._find_place(info)
        try:
            is_wide = array.dtype.itemsize == 8 and array.dtype.kind in _WIDE
            with jax.enable_x64(True) if is_wide else nullcontext():
                placed: jax.Array = jax.device_put(array, place, may_alias=True)
            return placed
        except (TypeError, ValueError) as error:
            if isinstance(place, jax.sharding.Sharding):
                raise UsageError(
                    f"the tensor {info.name!r} of shape {list(info.shape[:8])} cannot be placed by {place} "
                    f"({_first_line(error)}): give device= a function that says where each tensor goes"
                ) from error
            raise explain_shape(info, "JAX", error) from error


def find_place(given: object) -> Place:
    """The device or sharding that is meant.

    Raises:
        UsageError: there is none.
    """
    if isinstance(given, jax.Device | jax.sharding.Sharding):
        return given
    match = re.fullmatch(r"(cpu|gpu|cuda|rocm|tpu|METAL)(?::(\d{1,4}))?", given) if isinstance(given, str) else None
    if match is None:
        raise UsageError(
            f'device is {given!r}; with framework="jax" it is for example "cpu", "gpu:0", a jax.Device, a '
            "jax.sharding.Sharding, or a function from a TensorInfo to one of these"
        )
    try:
        devices = jax.devices(match[1])
    except RuntimeError as error:
        raise UsageError(f"JAX has no {match[1]} here: {_first_line(error)}") from error
    number = int(match[2] or 0)
    if number >= len(devices):
        raise UsageError(f"JAX has {len(devices)} {match[1]} devices here, so there is no {given}")
    return devices[number]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
