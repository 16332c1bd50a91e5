"""What is safetensors' own: writing, and reading of bytes in memory. It is handed on as it is."""

from __future__ import annotations

import importlib
from collections.abc import Collection

from slipstream.errors import MissingDependencyError


def pass_on(module: str, name: str, names: Collection[str]) -> object:
    """Finds a name of `safetensors.MODULE`, for the `__getattr__` of the module that stands for it here.

    Raises:
        AttributeError: not one of those that are handed on.
        MissingDependencyError: safetensors is not installed.
    """
    if name not in names:
        raise AttributeError(f"module 'slipstream.safetensors.{module}' has no attribute {name!r}")
    try:
        found = importlib.import_module(f"safetensors.{module}")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"{name} is safetensors' own: pip install safetensors {module}") from error
    value: object = getattr(found, name)
    return value
