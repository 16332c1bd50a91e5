"""How bytes go from one rank's device to those of all others: by NCCL, in a group of their own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from slipstream.delivery.accelerator import Accelerator
from slipstream.errors import RankError, UsageError
from slipstream.ranks.team import (
    BROADCAST_TIMEOUT,
    CONNECT_TIMEOUT,
    Passing,
    connect_gloo,
    hold_for_ever,
    make_broadcast,
)

if TYPE_CHECKING:
    from slipstream.ranks.passage import Memory

_LOOK_S = 0.05  # how often a thread that waits for a broadcast looks whether it should still
_PAUSE_S = 0.0002  # between two looks whether the device is through: a piece takes as long by NVLink


class DevicePassing(Passing):
    """A broadcast under way on a device."""

    def wait(self) -> bool:
        """See Passing. Looks again and again: to be told, NCCL would end the group of one who waits for too long."""
        assert self._work is not None, "the broadcast was waited for"
        deadline = time.monotonic() + _LOOK_S
        while not self._work.is_completed():
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE_S)
        return self._end()


class DeviceGroup:
    """A Group whose broadcasts begin behind what was enqueued in slipstream's stream for copies before."""

    def __init__(self, backend: Any, accelerator: Accelerator) -> None:
        self._backend = backend
        self._accelerator = accelerator

    def broadcast(self, memory: Memory, owner: int) -> DevicePassing:
        """See Team.broadcast."""
        assert isinstance(memory, torch.Tensor), "memory of the host in a group for devices"
        with self._accelerator.copying():
            return DevicePassing(self._backend.broadcast([memory], make_broadcast(owner)), memory)

    def give_up(self) -> None:
        """See Group. A device that waits for another one would do nothing else any more."""
        if self._accelerator.device.type == "cuda":
            self._backend.abort()
        hold_for_ever(self._backend)


def check_connectable(device: torch.device) -> None:
    """Holds that ranks can pass bytes round on devices of this kind. "cpu" stands in for one in tests.

    Raises:
        UsageError: they cannot.
    """
    if device.type not in ("cuda", "cpu"):
        raise UsageError(f'share_through="device" is for CUDA and ROCm, not for {device}: leave it at "host"')
    if device.type == "cuda" and not dist.is_nccl_available():
        raise UsageError(
            f'share_through="device" needs NCCL, which PyTorch {torch.__version__} was built without: '
            'leave it at "host"'
        )


def connect_devices(store: Store, rank: int, size: int, accelerator: Accelerator) -> DeviceGroup:
    """A group for broadcasts alone between the ranks' devices; see connect.

    Args:
        store, rank, size: as of connect.
        accelerator: this rank's device, which no other rank has.

    Raises:
        RankError: they cannot be connected.
    """
    if accelerator.device.type == "cpu":
        return DeviceGroup(connect_gloo(store, rank, size), accelerator)
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = CONNECT_TIMEOUT
    try:
        group: Any = dist.ProcessGroupNCCL(store, rank, size, options)
        group.eager_connect_single_device(accelerator.device)
        group._set_default_timeout(BROADCAST_TIMEOUT)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise RankError(
            f"the ranks' devices cannot be connected with one another ({reason}): NCCL_DEBUG=INFO tells more; or leave "
            'share_through at "host"'
        ) from error
    return DeviceGroup(group, accelerator)
