"""Looks at the storage of what is wanted, and has its reads planned: between describing a checkpoint and reading it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from slipstream.options import Options, read_local_world_size
from slipstream.planning.build import plan_reads
from slipstream.planning.select import Names, select_tensors
from slipstream.planning.shard import Shard, ShardedTensors, shard_tensors
from slipstream.sources.registry import Sources
from slipstream.types import Blob, Checkpoint, Dtype, ReadPlan, StorageFacts, Target


def plan_shards(
    checkpoint: Checkpoint,
    target: Target,
    names: Names | None,
    shards: Sequence[Shard | None],
    options: Options,
    sources: Sources,
    *,
    cast: Dtype | None = None,
    keeps: bool = False,
    aligned: bool = False,
    see_storage: Callable[[StorageFacts, Blob], StorageFacts] = lambda facts, blob: facts,
) -> list[ReadPlan]:
    """A plan for each of several ranks, or for one load that is not divided; each blob's storage is looked at once.

    Args:
        checkpoint: what there is.
        target: where the tensors are used.
        names: which tensors are wanted.
        shards: whose part of them, for each plan; None is all of each.
        options: the caller's settings.
        sources: where the blobs are from.
        cast, keeps, aligned: as of plan_reads.
        see_storage: adds to the facts of a blob's storage what only the device can tell.

    Raises:
        UsageError, TensorNotFoundError, MemoryLimitError.
    """
    selected = select_tensors(checkpoint, names)

    @cache
    def see_facts(blob: int) -> StorageFacts:
        found = checkpoint.blobs[blob]
        return see_storage(sources.find(found.uri).see_facts(found), found)

    plans: list[ReadPlan] = []
    for shard in shards:
        whole = ShardedTensors(selected, None)
        tensors, strips = whole if shard is None else shard_tensors(checkpoint, selected, shard)
        used = {tensor.blob for tensor in tensors}
        facts = [see_facts(number) if number in used else None for number in range(len(checkpoint.blobs))]
        plans.append(
            plan_reads(
                checkpoint,
                tensors,
                facts,
                options,
                target,
                cast=cast,
                keeps=keeps,
                strips=strips,
                shared=shard is not None and (shard.ranks_per_host or read_local_world_size()) > 1,
                aligned=aligned,
            )
        )
    return plans
