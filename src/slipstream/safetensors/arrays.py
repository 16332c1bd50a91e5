"""Bytes as the tensors of a framework, and the frameworks' own ways to index them.

What lies in memory is first a NumPy array of integers as wide as an element (the carrier), which every framework can
take over without a copy and without knowing the type.
"""

from __future__ import annotations

import math
import mmap
import numbers
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

import numpy

from slipstream.safetensors.arguments import FrameworkName
from slipstream.safetensors.errors import ArgumentError
from slipstream.safetensors.slicing import Selection, read_index, select
from slipstream.types import Dtype, TensorInfo

if TYPE_CHECKING:
    import torch

    Array: TypeAlias = numpy.ndarray[Any, numpy.dtype[Any]]
    Tensor: TypeAlias = torch.Tensor | Array

# PyTorch has types of these names; of those that NumPy lacks, ml_dtypes has them. The packed ones come as in the
# file: two elements of F4 in a byte, F6 as bytes.
_NAMES: Mapping[Dtype, tuple[str, str]] = {
    Dtype.BOOL: ("bool", "bool"),
    Dtype.F4: ("float4_e2m1fn_x2", "uint8"),
    Dtype.F6_E2M3: ("uint8", "uint8"),
    Dtype.F6_E3M2: ("uint8", "uint8"),
    Dtype.U8: ("uint8", "uint8"),
    Dtype.I8: ("int8", "int8"),
    Dtype.F8_E5M2: ("float8_e5m2", "float8_e5m2"),
    Dtype.F8_E4M3: ("float8_e4m3fn", "float8_e4m3fn"),
    Dtype.F8_E8M0: ("float8_e8m0fnu", "float8_e8m0fnu"),
    Dtype.F8_E4M3FNUZ: ("float8_e4m3fnuz", "float8_e4m3fnuz"),
    Dtype.F8_E5M2FNUZ: ("float8_e5m2fnuz", "float8_e5m2fnuz"),
    Dtype.I16: ("int16", "int16"),
    Dtype.U16: ("uint16", "uint16"),
    Dtype.F16: ("float16", "float16"),
    Dtype.BF16: ("bfloat16", "bfloat16"),
    Dtype.I32: ("int32", "int32"),
    Dtype.U32: ("uint32", "uint32"),
    Dtype.F32: ("float32", "float32"),
    Dtype.C64: ("complex64", "complex64"),
    Dtype.F64: ("float64", "float64"),
    Dtype.I64: ("int64", "int64"),
    Dtype.U64: ("uint64", "uint64"),
}
_CARRIERS: Mapping[int, numpy.dtype[Any]] = {
    1: numpy.dtype("u1"),
    2: numpy.dtype("<i2"),
    4: numpy.dtype("<i4"),
    8: numpy.dtype("<i8"),
}
_MOST_NUMPY_DIMENSIONS = 32


class Arrays(Protocol):
    """What `safe_open` needs of a framework."""

    @property
    def framework(self) -> FrameworkName:
        """Its name in slipstream's own interface."""
        ...

    def finish(self, info: TensorInfo, carrier: Array) -> Tensor:
        """The framework's tensor over the carrier's memory, in the type of `info` and the carrier's shape."""
        ...

    def view(self, info: TensorInfo, memory: mmap.mmap) -> Tensor:
        """The tensor as it lies in a file that is mapped, which it keeps mapped."""
        ...

    def select(self, info: TensorInfo, index: object) -> Selection | None:
        """What an index takes; None where it is more than integers and slices, and takes what no box holds.

        Raises:
            What `index` raises for it.
        """
        ...

    def index(self, tensor: Tensor, index: object) -> Tensor:
        """What an index takes of a tensor that is there, by the framework's own grammar."""
        ...


def open_arrays(framework: FrameworkName) -> Arrays:
    """Imports what the framework needs."""
    return TorchArrays() if framework == "torch" else NumpyArrays()


def carrier_dtype(info: TensorInfo) -> numpy.dtype[Any]:
    """The integers that carry an element, or a byte of packed elements."""
    return _CARRIERS[max(info.dtype.bits // 8, 1)]


def stored_shape(info: TensorInfo) -> tuple[int, ...]:
    """The shape in the units that are stored: F4 has two elements in a byte; F6, and an odd row of F4, come flat."""
    bits = info.dtype.bits
    if bits >= 8:
        return info.shape
    if bits == 4 and info.shape and info.shape[-1] % 2 == 0:
        return (*info.shape[:-1], info.shape[-1] // 2)
    return (info.nbytes,)


class TorchArrays:
    """PyTorch tensors in host memory, indexed as PyTorch does: steps, None, Ellipsis, lists, masks."""

    framework: FrameworkName = "torch"

    def __init__(self) -> None:
        import torch

        self._torch = torch

    def finish(self, info: TensorInfo, carrier: Array) -> torch.Tensor:
        """See Arrays."""
        return self._torch.from_numpy(carrier).view(self._dtype(info))

    def view(self, info: TensorInfo, memory: mmap.mmap) -> torch.Tensor:
        """See Arrays."""
        shape = stored_shape(info)
        if not info.nbytes:  # its other dimensions may be too large for NumPy
            return self._torch.empty(shape, dtype=self._dtype(info))
        if len(shape) > _MOST_NUMPY_DIMENSIONS:
            return self.finish(info, _carry(info, memory, (math.prod(shape),))).view(shape)
        return self.finish(info, _carry(info, memory, shape))

    def select(self, info: TensorInfo, index: object) -> Selection | None:
        """See Arrays. PyTorch itself is asked, with a tensor that has a shape and no memory."""
        shape = stored_shape(info)
        if not is_basic(index) or len(shape) > _MOST_NUMPY_DIMENSIONS:
            return None
        view = self._torch.empty(shape, dtype=self._torch.uint8, device="meta")[cast("Any", index)]
        return Selection(tuple(view.shape), tuple(view.stride()), int(view.storage_offset()))

    def index(self, tensor: Tensor, index: object) -> torch.Tensor:
        """See Arrays."""
        assert isinstance(tensor, self._torch.Tensor)
        return tensor[cast("Any", index)]  # whatever it is, PyTorch judges it

    def _dtype(self, info: TensorInfo) -> torch.dtype:
        name = _NAMES[info.dtype][0]
        dtype = getattr(self._torch, name, None)
        if not isinstance(dtype, self._torch.dtype):
            version = self._torch.__version__
            raise ArgumentError(
                f"the tensor {info.name!r} needs torch.{name}, which PyTorch {version} lacks: upgrade it"
            )
        return dtype


class NumpyArrays:
    """NumPy arrays, indexed by the reference's own grammar: see `read_index`."""

    framework: FrameworkName = "numpy"

    def finish(self, info: TensorInfo, carrier: Array) -> Array:
        """See Arrays."""
        return carrier.view(_numpy_dtype(info))

    def view(self, info: TensorInfo, memory: mmap.mmap) -> Array:
        """See Arrays."""
        return self.finish(info, _carry(info, memory, stored_shape(info)))

    def select(self, info: TensorInfo, index: object) -> Selection | None:
        """See Arrays."""
        shape = stored_shape(info)
        return select(read_index(index, shape), shape)

    def index(self, tensor: Tensor, index: object) -> Array:
        """See Arrays. What is not contiguous is copied, as the reference gives it."""
        assert isinstance(tensor, numpy.ndarray)
        taken = tensor[(*read_index(index, tensor.shape), ...)]  # with the Ellipsis a single element is an array too
        return taken if taken.flags.c_contiguous else taken.copy()


def is_basic(index: object) -> bool:
    """Whether an index holds nothing but integers, slices, None and Ellipsis, so that it takes a box."""
    entries = index if isinstance(index, tuple) else (index,)
    return all(
        entry is None
        or entry is Ellipsis
        or isinstance(entry, slice)
        or (isinstance(entry, numbers.Integral) and not isinstance(entry, bool))
        for entry in entries
    )


def is_whole(index: object) -> bool:
    """Whether an index plainly takes all of a tensor: `...`, `()`, `:` in every place that is given."""
    entries = index if isinstance(index, tuple) else (index,)
    return all(
        entry is Ellipsis
        or (isinstance(entry, slice) and entry.start is None and entry.stop is None and entry.step is None)
        for entry in entries
    )


def _carry(info: TensorInfo, memory: mmap.mmap, shape: tuple[int, ...]) -> Array:
    dtype = carrier_dtype(info)
    carrier = numpy.ndarray(shape, dtype, memory, info.start)
    return carrier if carrier.flags.aligned else carrier.copy()


def _numpy_dtype(info: TensorInfo) -> numpy.dtype[Any]:
    name = _NAMES[info.dtype][1]
    if hasattr(numpy, name):
        return numpy.dtype(name)
    import ml_dtypes  # here, because most files do without

    dtype: numpy.dtype[Any] = numpy.dtype(getattr(ml_dtypes, name))
    return dtype
