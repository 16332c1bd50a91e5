"""How bytes go from one rank's device to those of all others: by NCCL, in a group of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store, Work

from slipstream.delivery.accelerator import Accelerator, being_current
from slipstream.errors import RankError, SlipstreamError, UsageError
from slipstream.ranks.team import (
    BROADCAST_TIMEOUT,
    CONNECT_TIMEOUT,
    Passing,
    connect_gloo,
    hold_for_ever,
    make_broadcast,
)
from slipstream.ranks.threads import make_thread

if TYPE_CHECKING:
    from slipstream.ranks.passage import Memory

_LOOK_S = 0.05  # how often a thread that waits for a broadcast looks whether it should still
_PAUSE_S = 0.0002  # between two looks whether the device is through: a piece takes as long by NVLink
_GRACE_S = 2.0  # for a rank that is the last to be connected
_PARTING_S = 1.0  # in which our threads see that a group was given up, twenty times as long as between two looks


class DeviceGroup:
    """A Group whose broadcasts begin behind what was enqueued in slipstream's stream for copies before."""

    def __init__(self, backend: Any, accelerator: Accelerator) -> None:
        self._backend = backend
        self._accelerator = accelerator
        self.given_up = False

    def broadcast(self, memory: Memory, owner: int) -> DevicePassing:
        """See Team.broadcast."""
        assert isinstance(memory, torch.Tensor), "memory of the host in a group for devices"
        with self._accelerator.copying():
            return DevicePassing(self._backend.broadcast([memory], make_broadcast(owner)), memory, self)

    def give_up(self) -> None:
        """See Group. A device that waits for another one would do nothing else any more."""
        self.given_up = True
        hold_for_ever(self._backend)
        if self._accelerator.device.type == "cuda":
            make_thread(self._abort, "abort").start()

    def _abort(self) -> None:
        """Ends what is under way on the device, once no thread of ours asks for anything there. It may never end."""
        time.sleep(_PARTING_S)
        with suppress(RuntimeError):
            self._backend.abort()


class DevicePassing(Passing):
    """A broadcast under way on a device."""

    def __init__(self, work: Work, tensor: torch.Tensor, group: DeviceGroup) -> None:
        super().__init__(work, tensor)
        self._group = group

    def wait(self) -> bool:
        """See Passing. Looks again and again: to be told, NCCL would end the group of one who waits for too long."""
        assert self._work is not None, "the broadcast was waited for"
        deadline = time.monotonic() + _LOOK_S
        while not self._work.is_completed():
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE_S)
        if self._group.given_up:
            raise RuntimeError("given up")  # what was aborted looks as if it had ended well
        return self._end()


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


def connect_devices(
    store: Store, rank: int, ranks: Sequence[int], accelerator: Accelerator, check: Callable[[], None]
) -> DeviceGroup:
    """A group for broadcasts alone between the ranks' devices; see connect.

    NCCL waits for ever for a rank that does not come, and cannot be interrupted. So it is asked by a thread that can be
    left alone with it.

    Args:
        store: as of connect.
        rank: the place of this process among them.
        ranks: the global rank of each.
        accelerator: this rank's device, which no other rank has.
        check: raises what has ended the load meanwhile.

    Raises:
        RankError: they cannot be connected.
        Others: as `check`.
    """
    connect_one = partial(_connect, store, rank, ranks, accelerator)
    attempt = _Attempt(connect_one)
    deadline = time.monotonic() + CONNECT_TIMEOUT.total_seconds()
    try:
        while not attempt.ended.wait(_LOOK_S):
            _check_unless_connected(attempt, check)
            if time.monotonic() > deadline:
                raise _not_connected(f"not within {CONNECT_TIMEOUT.total_seconds():.0f} s")
    except BaseException:
        hold_for_ever(attempt)  # what it makes may wait for others when it goes
        raise
    if attempt.error is not None:
        raise _not_connected(str(attempt.error).partition("\n")[0]) from attempt.error
    return DeviceGroup(attempt.found, accelerator)


def _check_unless_connected(attempt: _Attempt, check: Callable[[], None]) -> None:
    """Looks what has ended the load. Others may have failed once they were connected: so is this rank in a moment."""
    try:
        check()
    except SlipstreamError:
        if not attempt.ended.wait(_GRACE_S):
            raise


class _Attempt:
    """A call in a thread of its own, that may take for ever."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.ended = threading.Event()
        self.found: Any = None
        self.error: Exception | None = None
        self._call = call
        make_thread(self._run, "connect").start()

    def _run(self) -> None:
        try:
            self.found = self._call()
        except Exception as error:
            self.error = error
        finally:
            self.ended.set()


def _connect(store: Store, rank: int, ranks: Sequence[int], accelerator: Accelerator) -> Any:
    if accelerator.device.type == "cpu":
        return connect_gloo(store, rank, len(ranks))
    options = dist.ProcessGroupNCCL.Options()
    options.group_name = "slipstream"  # type: ignore[assignment]
    options.global_ranks_in_group = list(ranks)
    with being_current(accelerator.device):
        group: Any = dist.ProcessGroupNCCL(store, rank, len(ranks), options)
        group.eager_connect_single_device(accelerator.device)
    group._set_default_timeout(BROADCAST_TIMEOUT)
    return group


def _not_connected(reason: str) -> RankError:
    return RankError(
        f"the ranks' devices cannot be connected with one another ({reason}): NCCL_DEBUG=INFO tells more; or leave "
        'share_through at "host"'
    )
