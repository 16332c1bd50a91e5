"""The processes that share a load, and how bytes go from one to all others: by broadcast, in a group of their own."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Protocol, cast

import torch
from torch.distributed.distributed_c10d import BroadcastOptions, ProcessGroupGloo, Store, Work

from slipstream.errors import RankError
from slipstream.ranks.board import Board
from slipstream.ranks.watch import Watch

# All ranks are there when they connect; one that dies at that very moment is waited for this long.
_CONNECT_TIMEOUT = timedelta(seconds=120)
# A broadcast waits for the slowest rank, whose caller may pause for hours: that is no fault. Ranks that die or leave
# are noticed otherwise (watch.py).
_BROADCAST_TIMEOUT = timedelta(days=7)
# The backend's thread lets go of a broadcast within microseconds of saying that it has ended.
_LONGEST_PARTING_S = 5.0
_LOOK = timedelta(milliseconds=50)  # how often a thread that waits for a broadcast looks whether it should still


class Backend(Protocol):
    """What passes bytes round: a backend of torch.distributed."""

    def broadcast(self, tensors: list[torch.Tensor], options: BroadcastOptions, /) -> Work:
        """Begins a broadcast; see torch.distributed."""
        ...


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
        if not self._work.is_completed():
            return False
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


class Team:
    """The ranks of one load, as one of them sees it.

    Attributes:
        rank: this process, from 0 on.
        ranks: the global rank of each.
        neighbours: how many of them run on this host, this one counted.
        board: what they tell one another.
        watch: who notices when one of them ends the load.
    """

    def __init__(
        self, group: Backend, rank: int, ranks: Sequence[int], board: Board, watch: Watch, *, neighbours: int
    ) -> None:
        self._group = group
        self.rank = rank
        self.ranks = tuple(ranks)
        self.neighbours = neighbours
        self.board = board
        self.watch = watch

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self.ranks)

    def broadcast(self, memory: memoryview, owner: int) -> Passing:
        """Begins to pass bytes on: the owner's into the same number of bytes of every other rank.

        All ranks call it in the same order. The memory is kept until the end.

        Raises:
            RuntimeError: the backend refuses.
        """
        options = BroadcastOptions()
        options.rootRank = owner
        options.rootTensor = 0
        options.timeout = _BROADCAST_TIMEOUT
        options.asyncOp = True
        tensor = torch.frombuffer(memory, dtype=torch.uint8)
        return Passing(self._group.broadcast([tensor], options), tensor)


def connect(store: Store, rank: int, size: int) -> Backend:
    """A group for broadcasts alone: those of the caller, in a group of his, may come at any time and in any order.

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
        return cast(Backend, ProcessGroupGloo(store, rank, size, _CONNECT_TIMEOUT))  # torch's types lack broadcast
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
