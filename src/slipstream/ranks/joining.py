"""How the ranks of a load come together: they meet, those who share are connected, and what is left of it in the end.

Everything begins here, before any argument is looked at: a rank that fails must be able to tell the others.
"""

from __future__ import annotations

import atexit
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from slipstream.errors import RankError, UsageError
from slipstream.ranks.board import Board
from slipstream.ranks.meeting import LONGEST_MEETING_S, Asked, Member, meet
from slipstream.ranks.team import Group, Team, connect
from slipstream.ranks.threads import join_threads
from slipstream.ranks.watch import Watch

if TYPE_CHECKING:
    from slipstream.delivery.accelerator import Accelerator

_LONGEST_GOODBYE_S = 5.0


@dataclass(slots=True)
class _Acquaintance:
    """What is kept of a process group between loads.

    Attributes:
        groups: those made for broadcasts, by the ranks in them, and the device of each.
        watch: of the last load.
        boards: of the last load, with this rank's place at each.
        broken: why there can be no further one.
    """

    groups: dict[tuple[tuple[int, ...], tuple[str, ...]], Group] = field(default_factory=dict)
    watch: Watch | None = None
    boards: list[tuple[Board, int]] = field(default_factory=list)
    broken: str = ""

    def check_free(self) -> None:
        """Waits until the broadcasts of a load that has ended here have ended everywhere.

        Raises:
            UsageError: the last load is under way.
            RankError: it has left the group unusable.
        """
        if self.watch is not None and not self.watch.wait_ended(LONGEST_MEETING_S if self.watch.is_ending else 0.0):
            raise UsageError(
                "a load of this process group is under way: iterate to its end or close it before the next one, "
                "or give each a process group of its own"
            )
        if self.broken:
            raise RankError(f"this process group cannot share a load any more: {self.broken}; start all ranks again")

    def turn_to(self, boards: list[tuple[Board, int]]) -> None:
        """Cleans the boards of the last load. Every rank has begun the next one, so nobody looks at them any more."""
        for board, place in self.boards:
            board.forget(place)
        self.boards = boards

    def end_load(self, clean: bool) -> None:
        """Notes that the last load has ended; not `clean` is one with broadcasts that may never end."""
        _under_way.pop(id(self), None)
        if not clean:
            self.broken = "a rank of an earlier load died or was cut off, and what was under way may never end"
            for group in self.groups.values():
                group.give_up()


_acquaintances: WeakKeyDictionary[dist.ProcessGroup, _Acquaintance] = WeakKeyDictionary()
# How many loads there were, by the group's name and members: the store of a group that is destroyed and made again may
# be the same, with what was said there before.
_loads: Counter[tuple[str | int, ...]] = Counter()
_under_way: dict[int, _Acquaintance] = {}  # also of groups that the caller has destroyed meanwhile


@atexit.register
def _end_all() -> None:
    """Ends what is under way, before the interpreter does."""
    for known in list(_under_way.values()):
        if known.watch is not None:
            known.watch.quit()
    join_threads(_LONGEST_GOODBYE_S)


def join_team(distributed: object, find_asked: Callable[[], Asked]) -> Team | None:
    """Meets the other ranks of a process group; None where this one loads alone.

    Every rank of the group calls it for every load, in the same order.

    Args:
        distributed: a process group, or True for the default one.
        find_asked: looks at the caller's arguments. What it raises ends the load of every rank.

    Raises:
        UsageError: there is no such group, a load of it is under way, or the ranks were not asked for the same.
        RankError: a rank did not come; or an earlier load has left the group unusable.
    """
    group = _find_group(distributed)
    if group.size() == 1:
        find_asked()
        return None
    known = _acquaintances.setdefault(group, _Acquaintance())
    ranks = dist.get_process_group_ranks(group)
    _loads[group.group_name, *ranks] += 1
    store = PrefixStore(f"slipstream/{_loads[group.group_name, *ranks]}", group.get_group_store())
    board = Board(store)
    own = group.rank()

    def find_checked() -> Asked:
        known.check_free()
        return find_asked()

    asked, members = meet(board, ranks, own, find_checked)
    sharing = [member for member in members if member.shares_with(members[own])]
    sharing.sort(key=lambda member: member.rank)
    boards = [(board, own)]
    if len(sharing) < len(members):
        store = PrefixStore(f"team/{sharing[0].rank}", store)
        board = Board(store)
        boards.append((board, sharing.index(members[own])))
    known.turn_to(boards)
    return _make_team(known, board, store, sharing, members[own], asked.accelerator) if len(sharing) > 1 else None


def _make_team(
    known: _Acquaintance,
    board: Board,
    store: Store,
    members: Sequence[Member],
    own: Member,
    accelerator: Accelerator | None,
) -> Team:
    """Begins to watch those who share, and connects them."""
    rank = members.index(own)
    ranks = tuple(member.rank for member in members)
    places = [member.place for member in members]
    watch = known.watch = Watch(board, rank, ranks, places, waits_for_all=accelerator is not None)
    _under_way[id(known)] = known
    watch.start(known.end_load)
    key = ranks, tuple(member.device for member in members)
    try:
        if key not in known.groups:
            known.groups[key] = _connect(PrefixStore("connect", store), rank, ranks, accelerator, watch)
    except BaseException as error:
        known.broken = "its ranks could not be connected"
        watch.fail(error)
        raise
    neighbours = sum(member.host == own.host for member in members)
    return Team(known.groups[key], rank, ranks, board, watch, neighbours=neighbours, accelerator=accelerator)


def _connect(store: Store, rank: int, ranks: tuple[int, ...], accelerator: Accelerator | None, watch: Watch) -> Group:
    if accelerator is None:
        return connect(store, rank, len(ranks))
    from slipstream.ranks.device_group import connect_devices  # here, because few loads need it

    return connect_devices(store, rank, ranks, accelerator, watch.check)


def _find_group(distributed: object) -> dist.ProcessGroup:
    if not (dist.is_available() and dist.is_initialized()):
        raise UsageError(
            "distributed= needs a process group: call torch.distributed.init_process_group() before it, in a program "
            "that torchrun has started"
        )
    group = dist.group.WORLD if distributed is True else distributed
    if not isinstance(group, dist.ProcessGroup):
        raise UsageError(f"distributed is {distributed!r}; it is True, False, or a process group with this rank in it")
    return group
