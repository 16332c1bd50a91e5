"""The seam between bytes in memory and the arrays of a framework."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, cast

from slipstream.errors import MissingDependencyError, UsageError
from slipstream.reading.buffers import Region
from slipstream.types import TensorInfo

if TYPE_CHECKING:
    import jax
    import numpy
    import torch

    from slipstream.delivery.jax import Placement

    Tensor: TypeAlias = torch.Tensor | numpy.ndarray[Any, numpy.dtype[Any]] | jax.Array

FrameworkName: TypeAlias = Literal["torch", "numpy", "jax"]


class Framework(Protocol):
    """Makes a framework's tensors out of bytes in memory, without copying where the bytes are aligned."""

    def view_tensors(self, tensors: Sequence[TensorInfo], region: Region) -> Sequence[tuple[str, Tensor]]:
        """The tensors that stand in a region, by name.

        Each keeps the region's memory for as long as it, or any view of it, lives. Where a framework's tensors can be
        written to, these can be.
        """
        ...


def choose_framework(name: str | None) -> FrameworkName:
    """The framework to deliver in; torch where it is installed and nothing else is asked for. Imports nothing.

    Raises:
        UsageError: an unknown name.
        MissingDependencyError: it is not installed.
    """
    has_torch = importlib.util.find_spec("torch") is not None
    if name is None:
        return "torch" if has_torch else "numpy"
    if name == "torch" and not has_torch:
        raise MissingDependencyError('framework="torch" needs PyTorch: pip install "slipstream[torch]"')
    if name == "jax" and importlib.util.find_spec("jax") is None:
        raise MissingDependencyError('framework="jax" needs JAX: pip install "slipstream[jax]"')
    if name in ("torch", "numpy", "jax"):
        return cast(FrameworkName, name)
    raise UsageError(f'framework is {name!r}; it is "torch", "numpy" or "jax"')


def import_framework(name: FrameworkName, placement: Placement | None = None) -> Framework:
    """Imports what the framework needs, which can take seconds the first time.

    Args:
        name: which.
        placement: where JAX shall put arrays; others do not look at it.

    Raises:
        UsageError: there is no such place.
    """
    if name == "torch":
        from slipstream.delivery.torch import TorchFramework

        return TorchFramework()
    if name == "jax":
        from slipstream.delivery.jax import JaxFramework

        return JaxFramework("cpu" if placement is None else placement)
    from slipstream.delivery.numpy import NumpyFramework

    return NumpyFramework()
