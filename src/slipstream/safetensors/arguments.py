"""The arguments of `safe_open` and its kin, read as the reference reads them.

Source: the constructor of `safe_open` in safetensors 0.8.0 (bindings/python/src/lib.rs).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from slipstream.options import Options
from slipstream.safetensors.errors import ArgumentError
from slipstream.types import Strategy

if TYPE_CHECKING:
    import torch

    Device: TypeAlias = str | int | torch.device | None

FrameworkName: TypeAlias = Literal["torch", "numpy"]
BACKENDS = ("mmap", "pread")

_FRAMEWORKS: Mapping[str, FrameworkName] = {
    "pt": "torch",
    "torch": "torch",
    "pytorch": "torch",
    "np": "numpy",
    "numpy": "numpy",
}
_FRAMEWORKS_OF_OTHERS = ("tf", "tensorflow", "jax", "flax", "mlx", "paddle")
_DEVICE = re.compile(r"(cpu|cuda|mps|musa|npu|xpu|xla|mlu|hpu)(:\d+)?")


def read_filename(filename: str | os.PathLike[str]) -> str:
    """A path or URI as text.

    Raises:
        TypeError: neither text nor a path.
    """
    text = os.fspath(filename)
    if not isinstance(text, str):
        raise TypeError(f"the filename is {filename!r}; it is a path or URI, as str or os.PathLike")
    return text


def is_delivered(framework: object) -> bool:
    """Whether this module delivers in a framework of this name."""
    return isinstance(framework, str) and framework in _FRAMEWORKS


def read_framework(framework: str) -> FrameworkName:
    """The framework behind one of its names.

    Raises:
        ArgumentError: another one.
        TypeError: not text.
    """
    if not isinstance(framework, str):
        raise TypeError(f"framework is {framework!r}; it is text")
    if framework in _FRAMEWORKS_OF_OTHERS:
        raise ArgumentError(
            f"slipstream.safetensors delivers PyTorch tensors and NumPy arrays, not {framework!r}: "
            'open with framework="np" and convert the arrays, or use safetensors for local files'
        )
    if framework not in _FRAMEWORKS:
        raise ArgumentError(f"framework {framework} is invalid; it is one of {', '.join(_FRAMEWORKS)}")
    return _FRAMEWORKS[framework]


def read_device(device: Device, framework: FrameworkName) -> str | int:
    """Where tensors are wanted, as `torch.Tensor.to` takes it; "cpu" where they are to stay.

    Raises:
        ArgumentError: no device, or one that the framework does not have.
    """
    name = "cpu" if device is None else str(device)
    is_number = isinstance(device, int) and not isinstance(device, bool) and device >= 0
    if not is_number and not (_DEVICE.fullmatch(name) and _is_device(device)):
        raise ArgumentError(f'device {device!r} is invalid; write for example "cpu" or "cuda:0"')
    if is_number or not name.startswith("cpu"):
        if framework != "torch":
            raise ArgumentError(f"device {name} is not for NumPy arrays, which lie in host memory: leave it out")
        return int(name) if is_number else name
    return "cpu"


def _is_device(device: object) -> bool:
    """Whether it is text or a torch.device, without importing PyTorch."""
    return device is None or isinstance(device, str) or type(device).__name__ == "device"


def read_backend(backend: str, options: Options) -> Options:
    """The options that a backend stands for: "pread" reads into memory of its own and maps nothing.

    Raises:
        ArgumentError: there is no such backend.
    """
    if backend not in BACKENDS:
        raise ArgumentError(f'backend {backend!r} is invalid; it is "mmap" or "pread"')
    return options if backend == "mmap" else replace(options, strategy=Strategy.BUFFERED)
