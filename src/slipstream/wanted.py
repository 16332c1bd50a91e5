"""What the caller's arguments come to, as far as that can be told without I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from slipstream.delivery.base import choose_framework
from slipstream.delivery.casting import find_dtype
from slipstream.delivery.device import find_target
from slipstream.options import Options
from slipstream.progress import find_report
from slipstream.types import Dtype, Progress, Target

if TYPE_CHECKING:
    from slipstream.delivery.base import FrameworkName
    from slipstream.delivery.casting import DtypeGiven
    from slipstream.delivery.device import Device


class Wanted(NamedTuple):
    """How a load is wanted.

    Attributes:
        options: how to read.
        framework: whose tensors.
        cast: the type that floating-point tensors are wanted in.
        target: where tensors come to stand.
        report: shown the progress.
    """

    options: Options
    framework: FrameworkName
    cast: Dtype | None
    target: Target
    report: Callable[[Progress], object] | None

    @property
    def is_placed_later(self) -> bool:
        """Whether the framework places arrays itself, once they are in host memory."""
        return self.framework == "jax"

    @property
    def lands_elsewhere(self) -> bool:
        """Whether tensors do not stand in the memory that is read into."""
        return self.target is Target.DEVICE or self.cast is not None


def settle_arguments(
    device: Device,
    dtype: DtypeGiven | None,
    framework: FrameworkName | None,
    options: Options | None,
    progress: bool | Callable[[Progress], object],
) -> Wanted:
    """Looks at the arguments of `stream` that have these names.

    Raises:
        UsageError, MissingDependencyError: what they ask for cannot be.
    """
    delivered_as = choose_framework(framework)
    target = Target.HOST if delivered_as == "jax" else find_target(device)
    return Wanted(options or Options(), delivered_as, find_dtype(dtype), target, find_report(progress))
