"""How the ranks of a load meet: each says who it is and what it was asked for, and waits for the others."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

from slipstream.errors import RankError, UsageError
from slipstream.options import Options
from slipstream.ranks.board import Board
from slipstream.ranks.notices import note_failure, read_notice
from slipstream.reading.readers import warn

if TYPE_CHECKING:
    from slipstream.delivery.accelerator import Accelerator

# As long as torch.distributed itself waits by default: ranks may have much else to do before they load.
LONGEST_MEETING_S = 1800.0
_WARN_AFTER_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.05


@dataclass(frozen=True, slots=True)
class Terms:
    """What a rank was asked for, as far as all must be asked for the same.

    Attributes:
        chunk_bytes, memory_limit, device_memory_limit, count_held, share_across, share_through: see Options.
    """

    chunk_bytes: int
    memory_limit: int | None
    device_memory_limit: int | None
    count_held: bool
    share_across: str
    share_through: str


class Asked(NamedTuple):
    """What a rank was asked for.

    Attributes:
        terms: as far as all must be asked for the same.
        accelerator: its device, where bytes are passed round on devices.
    """

    terms: Terms
    accelerator: Accelerator | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """A rank of the group, as it has introduced itself.

    Attributes:
        rank: its rank in the whole world.
        host: where it runs.
        process: its id there.
        terms: what it was asked for.
        device: tells its device from all others of its host, where bytes are passed round on devices; else "".
    """

    rank: int
    host: str
    process: int
    terms: Terms
    device: str = ""

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return f"{self.host}, process {self.process}"

    def shares_with(self, other: Member) -> bool:
        """Whether the two read for one another."""
        return self.terms.share_across == "world" or self.host == other.host


def make_terms(options: Options) -> Terms:
    """The terms of a load, as this process has been asked for it. Where tensors come to stand is each rank's affair.

    Raises:
        UsageError: what it has been asked for cannot be shared.
    """
    if options.staging is True:
        raise UsageError(
            "staging=True and distributed= exclude one another: what ranks share is passed round in the memory of "
            "whole tensors, without a ring; leave one of them out"
        )
    if options.device_memory_limit is not None and options.share_through == "host":
        raise UsageError(
            'device_memory_limit and distributed= exclude one another, but with share_through="device": what ranks '
            "share is passed round in host memory, and memory_limit bounds it; leave one of them out"
        )
    return Terms(
        options.chunk_bytes,
        options.memory_limit,
        options.device_memory_limit,
        options.count_held,
        options.share_across,
        options.share_through,
    )


def meet(board: Board, ranks: Sequence[int], own: int, find_asked: Callable[[], Asked]) -> tuple[Asked, list[Member]]:
    """Introduces this rank, and waits for all others.

    Args:
        board: of the load.
        ranks: the global ranks of the group.
        own: the place of this one among them.
        find_asked: looks at the caller's arguments. What it raises is raised on every rank.

    Returns:
        What this rank was asked for, and all ranks.

    Raises:
        UsageError: the ranks were not asked for the same, or two of them have one device.
        RankError: one did not come.
    """
    asked = _say_hello(board, own, ranks[own], find_asked)
    _wait_all(board, ranks)
    hellos = [json.loads(board.see("hello", number) or "{}") for number in range(len(ranks))]
    for hello in hellos:
        if "failure" in hello:
            raise read_notice(hello["failure"]).to_error()
    members = [
        Member(rank, hello["host"], hello["process"], Terms(**hello["terms"]), hello["device"])
        for rank, hello in zip(ranks, hellos, strict=True)
    ]
    _check_terms(members)
    _check_devices(members)
    return asked, members


def _say_hello(board: Board, own: int, rank: int, find_asked: Callable[[], Asked]) -> Asked:
    """Says who this rank is, and what it was asked for or why that cannot be; which it raises, too."""
    hello: dict[str, object] = {"host": socket.gethostname(), "process": os.getpid()}
    try:
        asked = find_asked()
        hello["terms"] = asdict(asked.terms)
        hello["device"] = "" if asked.accelerator is None else asked.accelerator.identity
        return asked
    except BaseException as error:
        hello["failure"] = note_failure(rank, error).to_json()
        raise
    finally:
        board.post("hello", own, json.dumps(hello))


def _wait_all(board: Board, ranks: Sequence[int]) -> None:
    """Waits until every rank has said hello.

    Raises:
        RankError: one of them does not come.
    """
    began = time.monotonic()
    pause_s = _FIRST_PAUSE_S
    warned = False
    while not board.all_posted("hello", range(len(ranks))):
        waited_s = time.monotonic() - began
        if waited_s > _WARN_AFTER_S and not warned:
            warned = True
            warn(f"waiting for {_name_missing(board, ranks)} to begin the same load")
        if waited_s > LONGEST_MEETING_S:
            raise RankError(
                f"{_name_missing(board, ranks)} did not begin this load within {LONGEST_MEETING_S / 60:.0f} minutes: "
                "every rank of the process group must make the same call"
            )
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)


def _name_missing(board: Board, ranks: Sequence[int]) -> str:
    missing = [str(ranks[number]) for number in board.missing("hello", range(len(ranks)))]
    return f"rank{'s' * (len(missing) > 1)} {', '.join(missing[:8])}{', ...' if len(missing) > 8 else ''}"


def _check_terms(members: Sequence[Member]) -> None:
    """Raises in what a rank was asked for something else than the first. The same on every rank, since all know all."""
    first = asdict(members[0].terms)
    for member in members:
        for name, value in asdict(member.terms).items():
            if value != first[name]:
                raise UsageError(
                    f"rank {member.rank} was asked for {name}={value!r} and rank {members[0].rank} for "
                    f"{first[name]!r}: ranks that share a load need the same"
                )


def _check_devices(members: Sequence[Member]) -> None:
    """Raises where two ranks of one host have the same device: NCCL would refuse that, in words of its own."""
    owners: dict[tuple[str, str], int] = {}
    for member in members:
        owner = owners.setdefault((member.host, member.device), member.rank)
        if member.device and owner != member.rank:
            raise UsageError(
                f'ranks {owner} and {member.rank} have the same GPU, and share_through="device" needs one for each: '
                'call torch.cuda.set_device(LOCAL_RANK) before the load, give each a device=, or share through "host"'
            )
