"""How the ranks of a load find one another: each says who it is and what it was asked for, and waits for the others.

Everything begins here, before any argument is looked at: a rank that fails must be able to tell the others.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from slipstream.errors import RankError, UsageError
from slipstream.options import Options
from slipstream.ranks.board import Board
from slipstream.ranks.notices import note_failure, read_notice
from slipstream.ranks.team import Backend, Team, connect, hold_for_ever
from slipstream.ranks.threads import join_threads
from slipstream.ranks.watch import Watch
from slipstream.reading.engine import warn

# As long as torch.distributed itself waits by default: ranks may have much else to do before they load.
_LONGEST_MEETING_S = 1800.0
_WARN_AFTER_S = 10.0
_LONGEST_GOODBYE_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.05


@dataclass(frozen=True, slots=True)
class Terms:
    """What a rank was asked for, as far as all must be asked for the same.

    Attributes:
        device: the kind of device.
        chunk_bytes, memory_limit, count_held, share_across: see Options.
    """

    device: str
    chunk_bytes: int
    memory_limit: int | None
    count_held: bool
    share_across: str


def make_terms(device: str, options: Options) -> Terms:
    """The terms of a load, as this process has been asked for it."""
    return Terms(
        device.partition(":")[0], options.chunk_bytes, options.memory_limit, options.count_held, options.share_across
    )


@dataclass(slots=True)
class _Acquaintance:
    """What is kept of a process group between loads.

    Attributes:
        groups: those made for broadcasts, by the ranks in them.
        watch: of the last load.
        boards: of the last load, with this rank's place at each.
        broken: why there can be no further one.
    """

    groups: dict[tuple[int, ...], Backend] = field(default_factory=dict)
    watch: Watch | None = None
    boards: list[tuple[Board, int]] = field(default_factory=list)
    broken: str = ""

    def check_free(self) -> None:
        """Waits until the broadcasts of a load that has ended here have ended everywhere.

        Raises:
            UsageError: the last load is under way.
            RankError: it has left the group unusable.
        """
        if self.watch is not None and not self.watch.wait_ended(_LONGEST_MEETING_S if self.watch.is_ending else 0.0):
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
        if not clean:
            self.broken = "a rank of an earlier load died or was cut off, and what was under way may never end"
            self.hold()
        _under_way.pop(id(self), None)

    def hold(self) -> None:
        """Keeps the groups for broadcasts from ever being destroyed."""
        for group in self.groups.values():
            hold_for_ever(group)


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


def join_team(distributed: object, find_terms: Callable[[], Terms]) -> Team | None:
    """Meets the other ranks of a process group; None where this one loads alone.

    Every rank of the group calls it for every load, in the same order.

    Args:
        distributed: a process group, or True for the default one.
        find_terms: looks at the caller's arguments. What it raises ends the load of every rank.

    Raises:
        UsageError: there is no such group, a load of it is under way, or the ranks were not asked for the same.
        RankError: a rank did not come; or an earlier load has left the group unusable.
    """
    group = _find_group(distributed)
    if group.size() == 1:
        find_terms()
        return None
    known = _acquaintances.setdefault(group, _Acquaintance())
    members = dist.get_process_group_ranks(group)
    _loads[group.group_name, *members] += 1
    store = PrefixStore(f"slipstream/{_loads[group.group_name, *members]}", group.get_group_store())
    board = Board(store)
    own = group.rank()

    def find_checked() -> Terms:
        known.check_free()
        return find_terms()

    _say_hello(board, own, members[own], find_checked)
    hellos = _wait_hellos(board, members)
    _check_terms(hellos, members)
    sharing = [number for number, hello in enumerate(hellos) if _shares(hello, hellos[own])]
    chosen = sorted(sharing, key=members.__getitem__)  # as in the group that will be made of them
    rank = chosen.index(own)
    if len(chosen) < len(members):
        store = PrefixStore(f"team/{chosen[0]}", store)
    shared = board if len(chosen) == len(members) else Board(store)
    known.turn_to([(board, own), *([(shared, rank)] if shared is not board else [])])
    if len(chosen) == 1:
        return None
    places = [f"{hellos[number]['host']}, process {hellos[number]['process']}" for number in chosen]
    return _make_team(known, shared, store, rank, tuple(members[number] for number in chosen), places)


def _make_team(
    known: _Acquaintance, board: Board, store: Store, rank: int, ranks: tuple[int, ...], places: Sequence[str]
) -> Team:
    """Begins to watch those who share, and connects them."""
    watch = known.watch = Watch(board, rank, ranks, places)
    _under_way[id(known)] = known
    watch.start(known.end_load)
    try:
        if ranks not in known.groups:
            known.groups[ranks] = connect(PrefixStore("connect", store), rank, len(ranks))
    except BaseException as error:
        known.broken = "its ranks could not be connected"
        watch.fail(error)
        raise
    return Team(known.groups[ranks], rank, ranks, board, watch)


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


def _say_hello(board: Board, own: int, rank: int, find_terms: Callable[[], Terms]) -> None:
    """Says who this rank is, and what it was asked for or why that cannot be; which it raises, too."""
    hello: dict[str, object] = {"host": socket.gethostname(), "process": os.getpid()}
    try:
        hello["terms"] = asdict(find_terms())
    except BaseException as error:
        hello["failure"] = note_failure(rank, error).to_json()
        raise
    finally:
        board.post("hello", own, json.dumps(hello))


def _wait_hellos(board: Board, members: Sequence[int]) -> list[dict[str, Any]]:
    """What every rank has said.

    Raises:
        RankError: one of them does not come.
    """
    everyone = range(len(members))
    began = time.monotonic()
    pause_s = _FIRST_PAUSE_S
    warned = False
    while not board.all_posted("hello", everyone):
        waited_s = time.monotonic() - began
        if waited_s > _WARN_AFTER_S and not warned:
            warned = True
            warn(f"waiting for {_name(board, members)} to begin the same load")
        if waited_s > _LONGEST_MEETING_S:
            raise RankError(
                f"{_name(board, members)} did not begin this load within {_LONGEST_MEETING_S / 60:.0f} minutes: every "
                "rank of the process group must make the same call"
            )
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
    return [json.loads(board.see("hello", number) or "{}") for number in everyone]


def _name(board: Board, members: Sequence[int]) -> str:
    missing = [str(members[number]) for number in board.missing("hello", range(len(members)))]
    return f"rank{'s' * (len(missing) > 1)} {', '.join(missing[:8])}{', ...' if len(missing) > 8 else ''}"


def _check_terms(hellos: Sequence[dict[str, Any]], members: Sequence[int]) -> None:
    """Raises what a rank could not begin for, or in what it was asked for something else than the first. The same
    on every rank, since all know all."""
    for hello in hellos:
        if "failure" in hello:
            raise read_notice(hello["failure"]).to_error()
    for hello, rank in zip(hellos, members, strict=True):
        for name, value in hello["terms"].items():
            if value != hellos[0]["terms"][name]:
                raise UsageError(
                    f"rank {rank} was asked for {name}={value!r} and rank {members[0]} for "
                    f"{hellos[0]['terms'][name]!r}: ranks that share a load need the same"
                )


def _shares(hello: dict[str, Any], own: dict[str, Any]) -> bool:
    """Whether a rank and this one read for one another."""
    return bool(own["terms"]["share_across"] == "world" or hello["host"] == own["host"])
