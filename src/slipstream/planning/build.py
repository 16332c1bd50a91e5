"""Builds the whole plan of a load out of the checkpoint, the storage facts and the options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from slipstream.errors import UsageError
from slipstream.options import Options
from slipstream.planning.cutting import OpCutter
from slipstream.planning.gather import plan_gather, size_scratch
from slipstream.planning.limits import check_largest, tensor_limit
from slipstream.planning.order import order_ops
from slipstream.planning.policy import choose_strategy
from slipstream.planning.staging import fit_choice, most_chunk_bytes, plan_staging, why_staged
from slipstream.types import (
    Checkpoint,
    Dtype,
    Gather,
    ReadPlan,
    StagingPlan,
    StorageFacts,
    Strategy,
    StrategyChoice,
    Strips,
    Target,
    TensorInfo,
)

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
    strips: Mapping[str, Strips] | None = None,
    shared: bool = False,
    aligned: bool = False,
) -> ReadPlan:
    """Decides how to read the selected tensors.

    Args:
        checkpoint: what there is.
        selected: its tensors that are wanted, or pieces of them, in its order.
        facts: per blob; None where nothing of the blob is selected.
        options: the caller's settings.
        target: where the tensors are used.
        cast: the type that floating-point tensors are wanted in; None is the one they have.
        keeps: whether the caller keeps every tensor.
        strips: where those are that are not contiguous, by name; None where whole tensors are wanted.
        shared: whether other ranks on this host read the rest.
        aligned: whether a tensor that is read into memory of its own shall begin where any use of it may begin.

    Raises:
        UsageError: the options forbid what must be.
        MemoryLimitError: a tensor is larger than `memory_limit`.
    """
    if options.strategy is Strategy.GDS and target is not Target.DEVICE:
        raise UsageError('strategy="gds" reads into the memory of a CUDA device: give device="cuda:0", or leave it out')
    reason = why_staged(selected, options, target, cast)
    read_for, exact = Target.DEVICE if reason else target, strips is not None and not shared
    choices = [
        None if fact is None else _choose(fact, blob.size, options, read_for, exact=exact)
        for blob, fact in zip(checkpoint.blobs, facts, strict=True)
    ]
    concurrency, most = _concurrency(choices, facts, options)
    span_bytes, scratch_bytes = size_scratch(options) if strips else (0, 0)
    staging = None
    if reason is not None:
        staging = plan_staging(
            reason, options, target, cast=cast, concurrency=most, keeps=keeps, scratch_bytes=scratch_bytes
        )
        choices = [choice and fit_choice(choice, staging) for choice in choices]
        concurrency, most = min(concurrency, staging.slots), min(most, staging.slots)
        span_bytes = min(span_bytes, most_chunk_bytes(staging))
    limit = tensor_limit(options, scratch_bytes, staging)
    check_largest(checkpoint, selected, limit, scratch_bytes, staging, cast)
    gathers = _plan_gathers(selected, strips or {}, facts, choices, options, span_bytes, staging, shared=shared)
    cutter = OpCutter(checkpoint, selected, choices, options, gathers, staging, aligned)
    ops = cutter.cut(None)
    if limit is not None:
        if sum(op.lease_bytes for ops_of_blob in ops for op in ops_of_blob) <= limit:
            limit = None  # all of it together fits
        else:
            ops = cutter.cut(limit)
    return ReadPlan(
        checkpoint=checkpoint,
        ops=tuple(order_ops(ops, facts)),
        choices=tuple(choices),
        concurrency=concurrency,
        most_concurrency=most,
        memory_limit=limit,
        scratch_bytes=scratch_bytes,
        staging=staging,
    )


def _choose(facts: StorageFacts, size: int, options: Options, target: Target, *, exact: bool) -> StrategyChoice:
    """How a blob is read. Where others read the rest of it, the kernel shall not read that ahead."""
    choice = choose_strategy(facts, size, options, target)
    return replace(choice, exact=exact and not facts.remote and not facts.over_http)


def _concurrency(
    choices: Sequence[StrategyChoice | None], facts: Sequence[StorageFacts | None], options: Options
) -> tuple[int, int]:
    """Reads in flight over all blobs: what the caller says, else what each volume can use, together; and at most."""
    if options.concurrency != "auto":
        return options.concurrency, options.concurrency
    by_volume: dict[str, int] = {}
    for choice, fact in zip(choices, facts, strict=True):
        if choice is not None and fact is not None:
            by_volume[fact.volume] = max(by_volume.get(fact.volume, 0), choice.concurrency)
    concurrency = min(max(sum(by_volume.values()), 1), _MOST_CONCURRENCY)
    over_http = any(fact is not None and fact.over_http for fact in facts)
    return concurrency, max(concurrency, _MOST_CONNECTIONS if over_http else 1)


def _plan_gathers(
    selected: Sequence[TensorInfo],
    strips: Mapping[str, Strips],
    facts: Sequence[StorageFacts | None],
    choices: Sequence[StrategyChoice | None],
    options: Options,
    span_bytes: int,
    staging: StagingPlan | None,
    *,
    shared: bool,
) -> dict[str, Gather]:
    """How those are read whose bytes lie in strips, by name."""
    gathers: dict[str, Gather] = {}
    for info in selected:
        found, fact, choice = strips.get(info.name), facts[info.blob], choices[info.blob]
        if found is None:
            continue
        assert fact is not None, "a tensor of a blob of which nothing is selected"
        assert choice is not None, "a choice where there are facts"
        gathers[info.name] = plan_gather(
            found, fact, choice, options, span_bytes=span_bytes, shared=shared, staged=staging is not None
        )
    return gathers
