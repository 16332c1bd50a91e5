"""Builds the whole plan of a load out of the checkpoint, the storage facts and the options."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from slipstream.errors import MemoryLimitError
from slipstream.options import Options
from slipstream.planning.coalesce import coalesce_tensors
from slipstream.planning.order import order_ops
from slipstream.planning.policy import choose_strategy
from slipstream.types import Checkpoint, ReadOp, ReadPlan, StorageFacts, StrategyChoice, Target, TensorInfo

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
) -> ReadPlan:
    """Decides how to read the selected tensors.

    Args:
        checkpoint: what there is.
        selected: its tensors that are wanted, in its order.
        facts: per blob; None where nothing of the blob is selected.
        options: the caller's settings.
        target: where the tensors are used.

    Raises:
        MemoryLimitError: a tensor is larger than `memory_limit`.
    """
    _check_largest(checkpoint, selected, options.memory_limit)
    choices: list[StrategyChoice | None] = [
        None if fact is None else choose_strategy(fact, blob.size, options, target)
        for blob, fact in zip(checkpoint.blobs, facts, strict=True)
    ]
    limit = options.memory_limit
    ops = _cut_ops(checkpoint, selected, options, None)
    if limit is not None:
        if sum(op.lease_bytes for ops_of_blob in ops for op in ops_of_blob) <= limit:
            limit = None  # all of it together fits
        else:
            ops = _cut_ops(checkpoint, selected, options, limit)
    concurrency = _concurrency(choices, facts, options)
    over_http = any(fact is not None and fact.over_http for fact in facts)
    most = _MOST_CONNECTIONS if over_http and options.concurrency == "auto" else 1
    return ReadPlan(
        checkpoint=checkpoint,
        ops=tuple(order_ops(ops, facts)),
        choices=tuple(choices),
        concurrency=concurrency,
        most_concurrency=max(concurrency, most),
        memory_limit=limit,
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
    checkpoint: Checkpoint, selected: Sequence[TensorInfo], options: Options, limit: int | None
) -> list[list[ReadOp]]:
    """Each blob's ops. Under a limit so little is joined that several ops, and their copies, fit."""
    joined_bytes = max(options.chunk_bytes, sum(tensor.end - tensor.start for tensor in selected) // _MOST_OPS)
    if limit is not None:
        joined_bytes = min(joined_bytes, limit // 8)
    one_by_one = limit is not None and options.count_held
    ops: list[list[ReadOp]] = [[] for _ in checkpoint.blobs]
    for blob, tensors in groupby(selected, key=lambda tensor: tensor.blob):
        ops[blob] = coalesce_tensors(list(tensors), most_bytes=joined_bytes, limited=one_by_one)
    return ops


def _check_largest(checkpoint: Checkpoint, selected: Sequence[TensorInfo], limit: int | None) -> None:
    largest = max(selected, key=lambda tensor: tensor.end - tensor.start, default=None)
    if limit is not None and largest is not None and largest.nbytes > limit:
        raise MemoryLimitError(
            f"the tensor {largest.name} has {largest.nbytes:,} bytes, more than memory_limit={limit:,}: "
            "raise the limit, or leave the tensor out with names=",
            uri=checkpoint.blobs[largest.blob].uri,
            offset=largest.start,
            length=largest.nbytes,
        )
