"""The seam between bytes in memory and the arrays of a framework."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from slipstream.errors import MissingDependencyError, UsageError
from slipstream.reading.buffers import Region
from slipstream.types import TensorInfo

if TYPE_CHECKING:
    import numpy
    import torch

    Tensor: TypeAlias = torch.Tensor | numpy.ndarray[Any, numpy.dtype[Any]]

FrameworkName: TypeAlias = Literal["torch", "numpy"]


class Framework(Protocol):
    """Makes a framework's tensors out of bytes in memory, without copying where the bytes are aligned."""

    def view_tensors(self, tensors: Sequence[TensorInfo], region: Region) -> Sequence[tuple[str, Tensor]]:
        """The tensors that stand in a region, by name.

        Each keeps the region's memory for as long as it, or any view of it, lives, and may be written to.
        """
        ...


def find_framework(name: str | None) -> Framework:
    """The framework to deliver in; torch where it is installed and nothing else is asked for.

    Raises:
        UsageError: an unknown name.
        MissingDependencyError: it is not installed.
    """
    if name is None:
        name = "torch" if importlib.util.find_spec("torch") else "numpy"
    if name == "numpy":
        from slipstream.delivery.numpy import NumpyFramework

        return NumpyFramework()
    if name != "torch":
        raise UsageError(f'framework is {name!r}; this version delivers "torch" or "numpy"')
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError('framework="torch" needs PyTorch: pip install "slipstream[torch]"')
    from slipstream.delivery.torch import TorchFramework

    return TorchFramework()


def explain_shape(info: TensorInfo, framework: str, error: Exception) -> UsageError:
    """The error for a tensor that a framework cannot represent, though the format can."""
    dims = ", ".join(map(str, info.shape[:8])) + (", ..." if len(info.shape) > 8 else "")
    return UsageError(
        f"{framework} cannot hold the tensor {info.name!r} of type {info.dtype} and shape [{dims}] ({error}): "
        "leave it out with names="
    )
