"""Gets a device ready while headers are read: PyTorch, the device's context, the first page-locked slots.

opening = begin_opening("cuda:0", ...)     returns at once; a thread of its own does the rest
... locate, describe, plan ...
copier = opening.wait_copier(plan)          None where the plan has no ring
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from threading import Thread
from typing import TYPE_CHECKING

from slipstream.delivery.base import FrameworkName, import_framework
from slipstream.delivery.device import name_device, require_device
from slipstream.errors import DeviceError, MissingDependencyError, SlipstreamError, UsageError
from slipstream.options import Options
from slipstream.planning.staging import first_slot_bytes
from slipstream.types import Blob, Dtype, ReadPlan, StorageFacts, Strategy, Target

if TYPE_CHECKING:
    from slipstream.delivery.accelerator import Accelerator
    from slipstream.delivery.device import Device
    from slipstream.delivery.jax import Placement
    from slipstream.reading.base import Copier


class Opening:
    """What a load delivers to, from when it is known to when it is needed."""

    def __init__(self, framework: FrameworkName, placement: Placement | None = None) -> None:
        self._framework = framework
        self._placement = placement

    @property
    def warm_up_s(self) -> float:
        """Seconds until the device was ready; 0 for the host."""
        return 0.0

    def see_storage(self, facts: StorageFacts, blob: Blob) -> StorageFacts:
        """The facts of a blob's storage, with what only the device can tell."""
        return facts

    def wait_copier(self, plan: ReadPlan) -> Copier | None:
        """What lands the plan's tensors; None where they stand in what is read into.

        Raises:
            UsageError, DeviceError: the device cannot be delivered to.
        """
        return None if plan.staging is None else self.make_copier(plan.staging.cast)

    def make_copier(self, cast: Dtype | None) -> Copier:
        """What lands tensors, cast to a type if one is given.

        Raises:
            UsageError, DeviceError: the device cannot be delivered to.
        """
        from slipstream.delivery.host import HostCopier

        return HostCopier(import_framework(self._framework, self._placement), self._framework, cast)


class DeviceOpening(Opening):
    """The same of another device than the host."""

    def __init__(self, device: Device, framework: FrameworkName, options: Options, *, has_ring: bool) -> None:
        super().__init__(framework)
        self._name = name_device(device)
        self._slot_bytes = first_slot_bytes(options) if has_ring else None
        self._may_use_gds = (
            self._name.startswith("cuda") and options.strategy == "auto" and find_spec("kvikio") is not None
        )
        self._accelerator: Accelerator | None = None
        self._error: BaseException | None = None
        self._warm_up_s = 0.0
        # No daemon: an interpreter that ends waits for it, rather than have it in the middle of an import.
        self._thread = Thread(target=self._open, name="slipstream-device")
        self._thread.start()

    @property
    def warm_up_s(self) -> float:
        """See Opening."""
        return self._warm_up_s

    def see_storage(self, facts: StorageFacts, blob: Blob) -> StorageFacts:
        """See Opening. Waits for the device where GPUDirect Storage may be worth a probe."""
        if not self._may_use_gds:
            return facts
        from slipstream.delivery.gds_probe import may_probe, see_gds_gain  # here, because few loads need it

        if not may_probe(facts, blob):
            return facts
        return see_gds_gain(facts, blob, self._wait())

    def make_copier(self, cast: Dtype | None) -> Copier:
        """See Opening."""
        accelerator = self._wait()
        from slipstream.delivery.accelerator import AcceleratorCopier

        return AcceleratorCopier(accelerator, cast)

    def _wait(self) -> Accelerator:
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._accelerator is not None
        return self._accelerator

    def _open(self) -> None:
        began = time.perf_counter()
        try:
            self._accelerator = open_device(self._name)
            self._warm_up_s = time.perf_counter() - began
            if self._slot_bytes is not None:
                from slipstream.delivery.accelerator import prepare_slots

                prepare_slots(self._accelerator, self._slot_bytes)
        except SlipstreamError as error:
            self._error = error
        except Exception as error:
            self._error = _explain(error, self._name)


def open_device(device: Device) -> Accelerator:
    """A device other than the host, ready to be delivered to. Imports PyTorch.

    Raises:
        UsageError: it cannot be delivered to.
        DeviceError: it cannot be used.
    """
    name = name_device(device)
    found = require_device(name)
    try:
        from slipstream.delivery.accelerator import open_accelerator

        return open_accelerator(found)
    except SlipstreamError:
        raise
    except Exception as error:
        raise _explain(error, name) from error


def begin_opening(
    target: Target, device: Device, framework: FrameworkName, options: Options, *, has_ring: bool = True
) -> Opening:
    """Begins to get a device ready, where there is anything to do.

    Args:
        target: where tensors come to stand.
        device, framework: as of `stream`.
        options: the caller's settings.
        has_ring: whether tensors on a device will pass through a ring, of which the first slots are made ahead.

    Raises:
        UsageError: the framework has no tensors there, or the strategy is not for it.
        MissingDependencyError: the strategy needs a package.
    """
    if target is Target.HOST:
        return Opening(framework, device if framework == "jax" else None)
    if framework != "torch":
        raise UsageError(
            f'framework={framework!r} has no tensors on {str(device)!r}: use framework="torch", or device="cpu"'
        )
    if options.strategy is Strategy.GDS:
        _require_gds(device)
    return DeviceOpening(device, framework, options, has_ring=has_ring)


def _require_gds(device: Device) -> None:
    if name_device(device).partition(":")[0] != "cuda":
        raise UsageError(f'strategy="gds" reads into the memory of a CUDA device, not of {str(device)!r}')
    if find_spec("kvikio") is None:
        raise MissingDependencyError('strategy="gds" needs KvikIO: pip install "slipstream[gds]"')


def _explain(error: Exception, name: str) -> SlipstreamError:
    found = DeviceError(f"{name} cannot be used: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
    found.__cause__ = error
    return found
