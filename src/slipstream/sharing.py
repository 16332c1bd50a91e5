"""What a load that ranks share asks of ranks/, which needs PyTorch: imported when it is asked for, and not before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from slipstream.delivery.base import choose_framework
from slipstream.types import Checkpoint, ReadPlan, Target

if TYPE_CHECKING:
    import torch.distributed

    from slipstream.planning.shard import Shard
    from slipstream.ranks.engine import RankEngine
    from slipstream.ranks.team import Team
    from slipstream.reading.base import Copier
    from slipstream.sources.registry import Sources
    from slipstream.wanted import Wanted

    Distributed: TypeAlias = bool | torch.distributed.ProcessGroup | None


def join_ranks(distributed: Distributed, settle: Callable[[], Wanted]) -> Team | None:
    """The ranks that share this load; None for a load of one's own.

    Args:
        distributed: as of `stream`.
        settle: looks at the caller's other arguments. What it raises ends the load of every rank.

    Raises:
        UsageError, RankError, MissingDependencyError: see join_team.
    """
    if distributed is None or distributed is False:
        return None
    choose_framework("torch")  # also where tensors are wanted for another: it passes the bytes round
    from slipstream.ranks.joining import join_team
    from slipstream.ranks.meeting import make_terms

    return join_team(distributed, lambda: make_terms(settle().options))


def agree(
    team: Team,
    uris: Sequence[str],
    sources: Sources,
    describe: Callable[[], Checkpoint],
    plan_described: Callable[[Checkpoint], Sequence[ReadPlan]],
) -> ReadPlan:
    """The plan of a shared load; see agree_on_plan."""
    from slipstream.ranks.agreement import agree_on_plan

    return agree_on_plan(team, uris, sources, describe, lambda checkpoint: plan_described(checkpoint)[0])


def start_shared(
    team: Team,
    reads: ReadPlan,
    wanted: Wanted,
    shard: Shard | None,
    sources: Sources,
    copier: Copier | None,
    *,
    populate: bool,
) -> RankEngine:
    """Begins to read what was planned for all; see RankEngine. `copier`: for tensors that are wanted elsewhere."""
    from slipstream.ranks.engine import RankEngine

    lander = None
    if copier is not None:
        from slipstream.ranks.landing import Lander, find_parts

        parts = find_parts(reads, shard) if shard is not None else None
        lander = Lander(copier, wanted.cast, parts, on_host=wanted.target is Target.HOST)
    return RankEngine(reads, wanted.options, sources, team, lander=lander, populate=populate)
