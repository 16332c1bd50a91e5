"""Which device the caller means, and what that makes of host memory."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, TypeAlias

from slipstream.errors import UsageError
from slipstream.types import Target

if TYPE_CHECKING:
    import torch

    from slipstream.delivery.jax import Placement

    Device: TypeAlias = str | torch.device | Placement

_SERVED = ("cuda", "xpu")


def find_target(device: Device) -> Target:
    """Whether tensors for this device stay in host memory.

    Raises:
        UsageError: not the name of a device.
    """
    name = str(device)
    if not re.fullmatch(r"(cpu|cuda|hip|mps|xpu)(:\d+)?", name):
        raise UsageError(f'device is {name!r}; write for example "cpu" or "cuda:0"')
    return Target.HOST if name.startswith("cpu") else Target.DEVICE


def name_device(device: Device) -> str:
    """A device by its full name: with the index that PyTorch would take in this thread, which others need not know.

    Imports nothing: a process without PyTorch has chosen no device either.
    """
    kind, _, index = str(device).partition(":")
    kind = "cuda" if kind == "hip" else kind  # as PyTorch built for ROCm calls it
    if kind == "cpu":
        return kind
    module = getattr(sys.modules.get("torch"), kind, None)
    if not index and module is not None and getattr(module, "is_initialized", lambda: False)():
        index = str(module.current_device())
    return f"{kind}:{index or 0}"


def require_device(name: str) -> torch.device:
    """A device other than the host, by its full name, that can be delivered to here. Imports PyTorch.

    Raises:
        UsageError: it cannot; the message says why, and what to do instead.
    """
    import torch

    device = torch.device(name)
    instead = 'load to "cpu" and move the tensors'
    if device.type not in _SERVED:
        raise UsageError(f'this version of slipstream delivers to "cpu", "cuda" and "xpu", not to {name!r}: {instead}')
    module = torch.get_device_module(device)
    if not module.is_available():
        built = torch.version.cuda or torch.version.hip if device.type == "cuda" else True
        why = "finds no such device" if built else "is built without CUDA"
        raise UsageError(f"there is no {name}: PyTorch {torch.__version__} {why}; install another build, or {instead}")
    if (device.index or 0) >= module.device_count():
        raise UsageError(f"there is no {name}: PyTorch finds {module.device_count()} of these devices, from 0 on")
    return device
