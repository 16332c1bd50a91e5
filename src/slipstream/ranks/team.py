"""The processes that share a load, and how bytes go from one to all others: by broadcast, in a group of their own."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch.distributed.distributed_c10d import BroadcastOptions, ProcessGroupGloo, Store, Work

from slipstream.errors import RankError
from slipstream.ranks.board import Board
from slipstream.ranks.watch import Watch

if TYPE_CHECKING:
    from slipstream.delivery.accelerator import Accelerator
    from slipstream.ranks.passage import Memory

# All ranks are there when they connect; one that dies at that very moment is waited for this long.
CONNECT_TIMEOUT = timedelta(seconds=120)
# A broadcast waits for the slowest rank, whose caller may pause for hours: that is no fault. Ranks that die or leave
# are noticed otherwise (watch.py).
BROADCAST_TIMEOUT = timedelta(days=7)
# The backend's thread lets go of a broadcast within microseconds of saying that it has ended.
_LONGEST_PARTING_S = 5.0
_LOOK = timedelta(milliseconds=50)  # how often a thread that waits for a broadcast looks whether it should still


class Passing:
    """A broadcast under way."""

    def __init__(self, work: Work, tensor: torch.Tensor) -> None:
        self._work: Work | None = work
        self._tensor = tensor

    def wait(self) -> bool:
        """Waits for its end a little; whether it has ended. Not to be called again once it has, or has failed.

        Raises:
            RuntimeError: it has failed.
        """
        assert self._work is not None, "the broadcast was waited for"
        with suppress(RuntimeError):  # also after the time, which ends the wait and not the broadcast
            self._work.wait(_LOOK)
        return self._work.is_completed() and self._end()

    def _end(self) -> Literal[True]:
        """Looks how a broadcast that has ended has done so."""
        assert self._work is not None, "the broadcast was waited for"
        try:
            self._work.wait()  # at once: only now the error is that of the broadcast
        finally:
            self._part()
        return True

    def _part(self) -> None:
        """Waits until the backend's thread has let go of the memory too, which it does a little after it has said so.

        Whoever lets go last needs the interpreter's lock. A thread of C++ that asks an interpreter for it which is
        ending meanwhile is ended by Python, and that ends the process as a crash.
        """
        self._work = None
        count_uses = getattr(self._tensor, "_use_count", lambda: 1)  # not of PyTorch's public interface
        deadline = time.monotonic() + _LONGEST_PARTING_S
        while count_uses() > 1 and time.monotonic() < deadline:
            time.sleep(0)


class Group(Protocol):
    """What passes bytes round, between one load and the next."""

    def broadcast(self, memory: Memory, owner: int) -> Passing:
        """See Team.broadcast."""
        ...

    def give_up(self) -> None:
        """Ends what may wait for another rank for ever, as far as that can be. The group is of no use then."""
        ...


class HostGroup:
    """A Group that passes host memory round."""

    def __init__(self, backend: ProcessGroupGloo) -> None:
        self._backend: Any = backend  # torch's types lack broadcast

    def broadcast(self, memory: Memory, owner: int) -> Passing:
        """See Team.broadcast."""
        assert isinstance(memory, memoryview), "memory of a device in a group for the host"
        tensor = torch.frombuffer(memory, dtype=torch.uint8)
        return Passing(self._backend.broadcast([tensor], make_broadcast(owner)), tensor)

    def give_up(self) -> None:
        """See Group. Nothing can be done but to hold what a thread of the backend may still use."""
        hold_for_ever(self._backend)


class Team:
    """The ranks of one load, as one of them sees it.

    Attributes:
        rank: this process, from 0 on.
        ranks: the global rank of each.
        neighbours: how many of them run on this host, this one counted.
        board: what they tell one another.
        watch: who notices when one of them ends the load.
        accelerator: this rank's device, where bytes are passed round on devices; None where they are on the host.
    """

    def __init__(
        self,
        group: Group,
        rank: int,
        ranks: Sequence[int],
        board: Board,
        watch: Watch,
        *,
        neighbours: int,
        accelerator: Accelerator | None = None,
    ) -> None:
        self._group = group
        self.rank = rank
        self.ranks = tuple(ranks)
        self.neighbours = neighbours
        self.board = board
        self.watch = watch
        self.accelerator = accelerator

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self.ranks)

    def broadcast(self, memory: Memory, owner: int) -> Passing:
        """Begins to pass bytes on: the owner's into the same number of bytes of every other rank.

        All ranks call it in the same order. The memory is kept until the end.

        Raises:
            RuntimeError: the backend refuses.
        """
        return self._group.broadcast(memory, owner)


def make_broadcast(owner: int) -> BroadcastOptions:
    """How the broadcasts of a load are asked for."""
    options = BroadcastOptions()
    options.rootRank = owner
    options.rootTensor = 0
    options.timeout = BROADCAST_TIMEOUT
    options.asyncOp = True
    return options


def connect(store: Store, rank: int, size: int) -> HostGroup:
    """A group that passes host memory round; see connect_gloo."""
    return HostGroup(connect_gloo(store, rank, size))


def connect_gloo(store: Store, rank: int, size: int) -> ProcessGroupGloo:
    """A backend for broadcasts alone: those of the caller, in a group of his, may come at any time and in any order.

    All ranks call it, and at the same time. It is none of those that torch.distributed keeps account of: it would name
    them by what each rank has made before, which need not be the same.

    Args:
        store: where they find one another, under names that nobody else uses.
        rank: this process.
        size: how many they are.

    Raises:
        RankError: they cannot be connected.
    """
    try:
        return ProcessGroupGloo(store, rank, size, CONNECT_TIMEOUT)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise RankError(
            f"the ranks cannot be connected with one another ({reason}): check that their hosts resolve and reach each "
            "other's names, or set GLOO_SOCKET_IFNAME to the network interface between them"
        ) from error


def hold_for_ever(held: object) -> None:
    """Keeps what a thread of the backend may still use, past the end of the interpreter.

    The destructor of a group waits for its broadcasts, of which some may never end; the memory of one that does end
    is given back by the backend's thread, which ends the process where there is no interpreter any more.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))
