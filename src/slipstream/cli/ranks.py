"""`slipstream load --distributed`: the processes that torchrun has started, and what each of them did."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from slipstream.cli.text import format_bytes, format_seconds
from slipstream.errors import MissingDependencyError, RankError, UsageError
from slipstream.types import LoadStats

Figures: TypeAlias = dict[str, Any]

_SET_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes of one torchrun, as one of them sees them.

    Attributes:
        rank: this process.
        size: how many there are.
    """

    rank: int
    size: int

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def gather(self, stats: LoadStats) -> list[Figures]:
        """What each rank did, on every rank.

        Raises:
            RankError: one of them has ended meanwhile.
        """
        import torch.distributed as dist

        own = {
            "rank": self.rank,
            "read_bytes": sum(file.bytes for file in stats.files),
            "received_bytes": stats.received_bytes,
            "seconds": stats.seconds,
            "cpu_seconds": stats.cpu_seconds,
            "peak_buffer_bytes": stats.peak_buffer_bytes,
            "requests": stats.requests,
        }
        gathered: list[Figures] = [{} for _ in range(self.size)]
        try:
            dist.all_gather_object(gathered, own)
        except RuntimeError as error:
            first = str(error).partition("\n")[0]
            raise RankError(f"the load ended, but not every rank can tell what it did ({first})") from error
        return gathered


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Joins the processes of this torchrun in a process group, and leaves it in the end.

    Raises:
        UsageError: torchrun has not started this process.
        MissingDependencyError: there is no PyTorch.
    """
    missing = [name for name in _SET_BY_TORCHRUN if name not in os.environ]
    if missing:
        raise UsageError(
            "--distributed is for processes that torchrun starts: torchrun --nproc-per-node 4 -m slipstream load URI "
            f"--distributed ({missing[0]} is not set)"
        )
    try:
        import torch.distributed as dist
    except ImportError as error:
        raise MissingDependencyError('--distributed needs PyTorch: pip install "slipstream[torch]"') from error
    dist.init_process_group("gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def find_place() -> tuple[int, int]:
    """This process's rank among those of its torchrun, and how many they are.

    Raises:
        UsageError: torchrun has not started it.
    """
    try:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        raise UsageError(
            "--shard torchrun is for processes that torchrun starts; else write RANK/WORLD, for example 0/4"
        ) from None


def find_own_device(device: str) -> str:
    """The device of this rank: of those of a kind, the one with its number on this host, unless one is named."""
    number = os.environ.get("LOCAL_RANK")
    return device if number is None or ":" in device or device == "cpu" else f"{device}:{number}"


def as_json(stats: LoadStats, gathered: Sequence[Figures]) -> Figures:
    """The figures of the first rank, and of each beside them."""
    return {**asdict(stats), "gigabytes_per_second": stats.gigabytes_per_second, "per_rank": list(gathered)}


def describe(gathered: Sequence[Figures]) -> Iterator[tuple[str, str]]:
    """The lines about ranks in the summary for people."""
    read = [figures["read_bytes"] for figures in gathered]
    yield "ranks", f"{len(gathered)}, which read {format_bytes(sum(read))} together"
    yield "each read", f"{format_bytes(min(read))} to {format_bytes(max(read))}"
    slowest = max(gathered, key=lambda figures: float(figures["seconds"]))
    yield "slowest", f"rank {slowest['rank']}, {format_seconds(slowest['seconds'])}"
