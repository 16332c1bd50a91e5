"""What a load that ranks share asks of ranks/, which needs PyTorch: imported when it is asked for, and not before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from slipstream.delivery.base import choose_framework
from slipstream.errors import UsageError
from slipstream.options import Options
from slipstream.planning.partition import choose_piece_bytes
from slipstream.planning.staging import lease_landed, lease_received, receive_on_device
from slipstream.types import Checkpoint, ReadPlan, Target

if TYPE_CHECKING:
    import torch.distributed

    from slipstream.delivery.accelerator import Accelerator
    from slipstream.delivery.device import Device
    from slipstream.planning.shard import Shard
    from slipstream.ranks.engine import RankEngine
    from slipstream.ranks.team import Team
    from slipstream.reading.base import Copier
    from slipstream.sources.registry import Sources
    from slipstream.wanted import Wanted

    Distributed: TypeAlias = bool | torch.distributed.ProcessGroup | None


def join_ranks(distributed: Distributed, settle: Callable[[], Wanted], device: Device) -> Team | None:
    """The ranks that share this load; None for a load of one's own.

    Args:
        distributed: as of `stream`.
        settle: looks at the caller's other arguments. What it raises ends the load of every rank.
        device: as of `stream`.

    Raises:
        UsageError, RankError, MissingDependencyError: see join_team.
        DeviceError: bytes are to be passed round on devices, and this one cannot be used.
    """
    if distributed is None or distributed is False:
        return None
    choose_framework("torch")  # also where tensors are wanted for another: it passes the bytes round
    from slipstream.ranks.joining import join_team
    from slipstream.ranks.meeting import Asked, make_terms

    def find_asked() -> Asked:
        wanted = settle()
        terms = make_terms(wanted.options)
        return Asked(terms, _open_device(wanted, device) if terms.share_through == "device" else None)

    return join_team(distributed, find_asked)


def agree(
    team: Team,
    uris: Sequence[str],
    sources: Sources,
    describe: Callable[[], Checkpoint],
    planner: Callable[..., Sequence[ReadPlan]],
    options: Options,
    *,
    keeps: bool,
) -> ReadPlan:
    """The plan of a shared load; see agree_on_plan.

    Args:
        team, uris, sources, describe: as of agree_on_plan.
        planner: plan_shards, with the caller's arguments.
        options: the caller's settings.
        keeps: whether the caller keeps every tensor.
    """
    from slipstream.ranks.agreement import agree_on_plan

    def plan_within(limit: int | None, checkpoint: Checkpoint) -> ReadPlan:
        within = replace(options, memory_limit=limit, device_memory_limit=None)
        (reads,) = planner(checkpoint, target=Target.HOST, shards=[None], options=within)
        return reads

    def plan_on_device(checkpoint: Checkpoint) -> ReadPlan:
        reads = plan_within(None, checkpoint)
        piece_bytes = choose_piece_bytes(reads.nbytes, team.size)
        planned = receive_on_device(reads, options, piece_bytes, keeps=keeps)
        if options.device_memory_limit is None:
            return planned
        return receive_on_device(
            plan_within(options.device_memory_limit, checkpoint), options, piece_bytes, keeps=keeps
        )

    on_host = partial(plan_within, options.memory_limit)
    return agree_on_plan(team, uris, sources, describe, on_host if team.accelerator is None else plan_on_device)


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

    options = wanted.options
    if copier is None:
        return RankEngine(reads, options, sources, team, populate=populate)
    from slipstream.ranks.landing import HostLander, find_parts

    parts = find_parts(reads, shard) if shard is not None else None
    if team.accelerator is None:
        on_host = wanted.target is Target.HOST
        lander = HostLander(copier, wanted.cast, parts, on_host=on_host)
        reads = lease_landed(reads, options.memory_limit, wanted.cast, parts) if on_host else lease_received(reads)
        return RankEngine(reads, options, sources, team, lander=lander, populate=populate)
    from slipstream.ranks.on_device import DeviceLander, DevicePassage

    return RankEngine(
        lease_landed(reads, options.device_memory_limit, wanted.cast, parts),
        options,
        sources,
        team,
        lander=DeviceLander(copier, team.accelerator, wanted.cast, parts),
        make_passage=partial(DevicePassage, accelerator=team.accelerator),
    )


def _open_device(wanted: Wanted, device: Device) -> Accelerator:
    if wanted.target is not Target.DEVICE or wanted.framework != "torch":
        raise UsageError(
            'share_through="device" passes bytes round between GPUs, for tensors of PyTorch there: give device="cuda", '
            'or leave it at "host"'
        )
    from slipstream.delivery.opening import open_device
    from slipstream.ranks.device_group import check_connectable

    accelerator = open_device(device)
    check_connectable(accelerator.device)
    return accelerator
