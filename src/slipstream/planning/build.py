"""Builds the whole plan of a load out of the checkpoint, the storage facts and the options."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from slipstream.errors import MemoryLimitError, UsageError
from slipstream.options import Options
from slipstream.planning.coalesce import coalesce_tensors
from slipstream.planning.landing import place_tensors
from slipstream.planning.order import order_ops
from slipstream.planning.policy import choose_strategy
from slipstream.planning.staging import fit_choice, join_staged, plan_staging, tensor_limit, why_staged
from slipstream.types import (
    Checkpoint,
    Dtype,
    ReadOp,
    ReadPlan,
    StagingPlan,
    StorageFacts,
    Strategy,
    StrategyChoice,
    Target,
    TensorInfo,
)

# Every range in memory is a mapping of its own, of which Linux allows 65,530 (vm.max_map_count): a
# checkpoint is cut into a fraction of that, however large it is.
_MOST_OPS = 8192
_MOST_CONCURRENCY = 64  # unmeasured: a bound for checkpoints that are spread over very many volumes
# Of connections: 128 at 90 MB/s are 11.5 GB/s, more than one process receives. A bound on sockets and threads.
_MOST_CONNECTIONS = 128


def plan_reads(
    checkpoint: Checkpoint,
    selected: Sequence[TensorInfo],
    facts: Sequence[StorageFacts | None],
    options: Options,
    target: Target = Target.HOST,
    *,
    cast: Dtype | None = None,
    keeps: bool = False,
) -> ReadPlan:
    """Decides how to read the selected tensors.

    Args:
        checkpoint: what there is.
        selected: its tensors that are wanted, in its order.
        facts: per blob; None where nothing of the blob is selected.
        options: the caller's settings.
        target: where the tensors are used.
        cast: the type that floating-point tensors are wanted in; None is the one they have.
        keeps: whether the caller keeps every tensor.

    Raises:
        UsageError: the options forbid what must be.
        MemoryLimitError: a tensor is larger than `memory_limit`.
    """
    if options.strategy is Strategy.GDS and target is not Target.DEVICE:
        raise UsageError('strategy="gds" reads into the memory of a CUDA device: give device="cuda:0", or leave it out')
    reason = why_staged(selected, options, target, cast)
    choices: list[StrategyChoice | None] = [
        None if fact is None else choose_strategy(fact, blob.size, options, Target.DEVICE if reason else target)
        for blob, fact in zip(checkpoint.blobs, facts, strict=True)
    ]
    concurrency = _concurrency(choices, facts, options)
    over_http = any(fact is not None and fact.over_http for fact in facts)
    most = max(concurrency, _MOST_CONNECTIONS if over_http and options.concurrency == "auto" else 1)
    staging, limit = None, options.memory_limit
    if reason is not None:
        staging = plan_staging(reason, options, target, cast=cast, concurrency=most, keeps=keeps)
        choices = [choice and fit_choice(choice, staging) for choice in choices]
        concurrency, most = min(concurrency, staging.slots), min(most, staging.slots)
        limit = tensor_limit(options, staging)
    _check_largest(checkpoint, selected, limit, staging)
    ops = _cut_ops(checkpoint, selected, options.chunk_bytes, None, staging)
    if limit is not None:
        if sum(op.lease_bytes for ops_of_blob in ops for op in ops_of_blob) <= limit:
            limit = None  # all of it together fits
        else:
            ops = _cut_ops(checkpoint, selected, options.chunk_bytes, limit, staging)
    return ReadPlan(
        checkpoint=checkpoint,
        ops=tuple(order_ops(ops, facts)),
        choices=tuple(choices),
        concurrency=concurrency,
        most_concurrency=most,
        memory_limit=limit,
        staging=staging,
    )


def _concurrency(
    choices: Sequence[StrategyChoice | None], facts: Sequence[StorageFacts | None], options: Options
) -> int:
    """Reads in flight over all blobs: what the caller says, else what each volume can use, together."""
    if options.concurrency != "auto":
        return options.concurrency
    by_volume: dict[str, int] = {}
    for choice, fact in zip(choices, facts, strict=True):
        if choice is not None and fact is not None:
            by_volume[fact.volume] = max(by_volume.get(fact.volume, 0), choice.concurrency)
    return min(max(sum(by_volume.values()), 1), _MOST_CONCURRENCY)


def _cut_ops(
    checkpoint: Checkpoint,
    selected: Sequence[TensorInfo],
    chunk_bytes: int,
    limit: int | None,
    staging: StagingPlan | None,
) -> list[list[ReadOp]]:
    """Each blob's ops. Under a limit so little is joined that several ops, and their copies, fit."""
    joined_bytes = max(chunk_bytes, sum(tensor.end - tensor.start for tensor in selected) // _MOST_OPS)
    if limit is not None:
        joined_bytes = min(joined_bytes, limit // 8)
    ops: list[list[ReadOp]] = [[] for _ in checkpoint.blobs]
    for blob, tensors in groupby(selected, key=lambda tensor: tensor.blob):
        if staging is None:
            ops[blob] = coalesce_tensors(list(tensors), most_bytes=joined_bytes, limited=limit is not None)
        else:
            ops[blob] = join_staged(list(tensors), staging, most_bytes=joined_bytes, limited=limit is not None)
    return ops


def _check_largest(
    checkpoint: Checkpoint, selected: Sequence[TensorInfo], limit: int | None, staging: StagingPlan | None
) -> None:
    if limit is None:
        return
    landed = place_tensors(selected, staging.cast) if staging else tuple(selected)
    largest = max(range(len(landed)), key=lambda number: landed[number].nbytes, default=None)
    if largest is None or landed[largest].nbytes <= limit:
        return
    tensor, name = selected[largest], staging.limited_by if staging else "memory_limit"
    beside = f" less the ring's {staging.ring_bytes:,}" if staging and name == "memory_limit" else ""
    raise MemoryLimitError(
        f"the tensor {tensor.name} takes {landed[largest].nbytes:,} bytes, more than the {limit:,} of {name}{beside}: "
        "raise the limit, or leave the tensor out with names=",
        uri=checkpoint.blobs[tensor.blob].uri,
        offset=tensor.start,
        length=tensor.nbytes,
    )
