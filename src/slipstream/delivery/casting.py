"""Casts on the way: which type is meant, and how the bytes of a chunk become those of another type on the host."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from slipstream.errors import UsageError
from slipstream.planning.landing import CASTABLE
from slipstream.types import Dtype

if TYPE_CHECKING:
    import numpy
    import torch

    DtypeGiven: TypeAlias = str | torch.dtype | numpy.dtype[Any] | type[Any] | Dtype

Cast: TypeAlias = Callable[[memoryview, Dtype, memoryview, Dtype], None]
"""Takes the stored bytes and their type, then as many elements of the wanted type and that type. Any thread."""

_NAMES = {
    "float64": Dtype.F64,
    "float32": Dtype.F32,
    "float16": Dtype.F16,
    "bfloat16": Dtype.BF16,
    "double": Dtype.F64,
    "float": Dtype.F32,
    "half": Dtype.F16,
    **{dtype.value.lower(): dtype for dtype in CASTABLE},
}
# Below the 32,768 elements from which PyTorch shares a copy between threads of its own: those that call it here are
# many already.
_ELEMENTS_AT_ONCE = 16_384


def find_dtype(given: DtypeGiven | None) -> Dtype | None:
    """The type that is meant: by PyTorch's or NumPy's object or name, or by the format's.

    Raises:
        UsageError: it is none that is cast to.
    """
    if given is None:
        return None
    name = given if isinstance(given, str) else getattr(given, "name", None) or getattr(given, "__name__", str(given))
    dtype = _NAMES.get(str(name).removeprefix("torch.").lower())
    if dtype is None:
        raise UsageError(
            f"dtype is {given!r}; floating-point tensors are cast to float64, float32, float16 or bfloat16, and others "
            "stay as they are"
        )
    return dtype


def find_cast(framework: str) -> Cast:
    """How to cast on the host: by PyTorch for its own tensors, which is quicker; else by NumPy. Imports it."""
    if framework == "torch" and importlib.util.find_spec("torch") is not None:
        import torch

        from slipstream.delivery.torch import torch_dtype
        from slipstream.types import TensorInfo

        def cast_by_torch(source: memoryview, stored: Dtype, target: memoryview, wanted: Dtype) -> None:
            types = (torch_dtype(TensorInfo("", dtype, (), 0, 0, 0)) for dtype in (stored, wanted))
            old, new = (
                torch.frombuffer(view, dtype=dtype) for view, dtype in zip((source, target), types, strict=True)
            )
            for start in range(0, len(old), _ELEMENTS_AT_ONCE):
                new[start : start + _ELEMENTS_AT_ONCE].copy_(old[start : start + _ELEMENTS_AT_ONCE])

        return cast_by_torch
    import numpy

    from slipstream.delivery.numpy import numpy_dtype

    def cast_by_numpy(source: memoryview, stored: Dtype, target: memoryview, wanted: Dtype) -> None:
        old, new = numpy.frombuffer(source, numpy_dtype(stored)), numpy.frombuffer(target, numpy_dtype(wanted))
        with numpy.errstate(over="ignore", invalid="ignore"):  # what is too large becomes infinite, as in PyTorch
            numpy.copyto(new, old, casting="unsafe")

    return cast_by_numpy
