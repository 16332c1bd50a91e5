"""Which device the caller means, and what that makes of host memory."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

from slipstream.errors import UsageError
from slipstream.types import Target

if TYPE_CHECKING:
    import torch

    from slipstream.delivery.jax import Placement

    Device: TypeAlias = str | torch.device | Placement


def find_target(device: Device) -> Target:
    """Whether tensors for this device stay in host memory.

    Raises:
        UsageError: not the name of a device.
    """
    name = str(device)
    if not re.fullmatch(r"(cpu|cuda|hip|mps|xpu)(:\d+)?", name):
        raise UsageError(f'device is {name!r}; write for example "cpu" or "cuda:0"')
    return Target.HOST if name.startswith("cpu") else Target.DEVICE


def require_host(device: Device) -> None:
    """Raises UsageError for a device that this version plans for, but does not deliver to."""
    if find_target(device) is not Target.HOST:
        raise UsageError(
            f'this version of slipstream delivers to "cpu" only, not to {str(device)!r}: '
            "load to the CPU and move the tensors"
        )
