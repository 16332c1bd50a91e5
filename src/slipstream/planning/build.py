"""Builds the whole plan of a load out of the checkpoint, the storage facts and the options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from slipstream.errors import MemoryLimitError
from slipstream.options import Options
from slipstream.planning.coalesce import coalesce_tensors
from slipstream.planning.gather import plan_gather
from slipstream.planning.order import order_ops
from slipstream.planning.policy import choose_strategy
from slipstream.types import (
    Checkpoint,
    ReadOp,
    ReadPlan,
    StorageFacts,
    Strategy,
    StrategyChoice,
    Strips,
    Target,
    TensorInfo,
)

# Every range in memory is a mapping of its own, of which Linux allows 65,530 (vm.max_map_count): a
# checkpoint is cut into a fraction of that, however large it is.
_MOST_OPS = 8192
_MOST_CONCURRENCY = 64  # unmeasured: a bound for checkpoints that are spread over very many volumes
# Of connections: 128 at 90 MB/s are 11.5 GB/s, more than one process receives. A bound on sockets and threads.
_MOST_CONNECTIONS = 128
# What passes through memory on its way to where strips stand together: 32 reads of the usual 8 MiB.
_MOST_SCRATCH_BYTES = 256 << 20
_LEAST_SPAN_BYTES = 16 << 10
_PAGE_BYTES = 4096


def plan_reads(
    checkpoint: Checkpoint,
    selected: Sequence[TensorInfo],
    facts: Sequence[StorageFacts | None],
    options: Options,
    target: Target = Target.HOST,
    *,
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
        strips: where those are that are not contiguous, by name; None where whole tensors are wanted.
        shared: whether other ranks on this host read the rest.
        aligned: whether a tensor that is read into memory of its own shall begin where any use of it may begin.

    Raises:
        MemoryLimitError: a tensor is larger than `memory_limit`.
    """
    choices: list[StrategyChoice | None] = [
        None if fact is None else _choose(fact, blob.size, options, target, exact=strips is not None and not shared)
        for blob, fact in zip(checkpoint.blobs, facts, strict=True)
    ]
    cutter = _Cutter(checkpoint, selected, facts, choices, options, strips or {}, shared=shared, aligned=aligned)
    limit, scratch = options.memory_limit, cutter.scratch_bytes
    _check_largest(checkpoint, selected, limit, scratch)
    ops = cutter.cut(None)
    if limit is not None:
        if sum(op.lease_bytes for ops_of_blob in ops for op in ops_of_blob) + scratch <= limit:
            limit = None  # all of it together fits
        else:
            ops = cutter.cut(limit - scratch)
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
        scratch_bytes=scratch,
    )


def _choose(fact: StorageFacts, size: int, options: Options, target: Target, *, exact: bool) -> StrategyChoice:
    """How a blob is read. Where others read the rest of it, the kernel shall not read that ahead."""
    choice = choose_strategy(fact, size, options, target)
    return replace(choice, exact=exact and not fact.remote and not fact.over_http)


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


class _Cutter:
    """Cuts the selected tensors into each blob's ops."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        selected: Sequence[TensorInfo],
        facts: Sequence[StorageFacts | None],
        choices: Sequence[StrategyChoice | None],
        options: Options,
        strips: Mapping[str, Strips],
        *,
        shared: bool,
        aligned: bool,
    ) -> None:
        self._checkpoint = checkpoint
        self._selected = selected
        self._facts = facts
        self._choices = choices
        self._options = options
        self._strips = strips
        self._shared = shared
        self._aligned = aligned
        self._span_bytes = options.chunk_bytes
        if options.memory_limit is not None:
            self._span_bytes = min(self._span_bytes, max(options.memory_limit // 16, _LEAST_SPAN_BYTES))

    @property
    def scratch_bytes(self) -> int:
        """Memory for what only passes through: what is read along with strips. A quarter of a limit, if that does."""
        limit = self._options.memory_limit
        if not self._strips:
            return 0
        least = self._span_bytes + 2 * _PAGE_BYTES
        return _MOST_SCRATCH_BYTES if limit is None else min(_MOST_SCRATCH_BYTES, max(limit // 4, least))

    def cut(self, limit: int | None) -> list[list[ReadOp]]:
        """Each blob's ops. Under a limit so little is joined that several ops, and their copies, fit."""
        nbytes = sum(tensor.end - tensor.start for tensor in self._selected)
        joined_bytes = max(self._options.chunk_bytes, nbytes // _MOST_OPS)
        if limit is not None:
            joined_bytes = min(joined_bytes, limit // 8)
        one_by_one = limit is not None and self._options.count_held
        ops: list[list[ReadOp]] = [[] for _ in self._checkpoint.blobs]
        kinds = groupby(self._selected, key=lambda info: (info.blob, info.name in self._strips))
        for (blob, striped), tensors in kinds:
            if striped:
                ops[blob] += map(self._gather, tensors)
            else:
                cut = coalesce_tensors(list(tensors), most_bytes=joined_bytes, limited=one_by_one)
                ops[blob] += map(self._align, cut)
        return ops

    def _gather(self, info: TensorInfo) -> ReadOp:
        facts, choice = self._facts[info.blob], self._choices[info.blob]
        assert facts is not None, "a tensor of a blob of which nothing is selected"
        assert choice is not None, "a choice where there are facts"
        gather = plan_gather(
            self._strips[info.name],
            facts,
            choice,
            self._options,
            span_bytes=self._span_bytes,
            shared=self._shared,
        )
        return ReadOp(info.blob, info.start, info.end, (info,), gather=gather)

    def _align(self, op: ReadOp) -> ReadOp:
        """Reads a single tensor to an aligned place, if that is wanted and costs nothing: not in pages of a file."""
        choice = self._choices[op.blob]
        assert choice is not None, "a choice where there are tensors"
        if not self._aligned or len(op.tensors) > 1 or choice.strategy not in (Strategy.RANGED, Strategy.BUFFERED):
            return op
        return replace(op, realigns=True)


def _check_largest(
    checkpoint: Checkpoint, selected: Sequence[TensorInfo], limit: int | None, scratch_bytes: int
) -> None:
    largest = max(selected, key=lambda tensor: tensor.end - tensor.start, default=None)
    if limit is not None and largest is not None and largest.nbytes > limit - scratch_bytes:
        passing = f", of which {scratch_bytes:,} are for what is read along with columns" if scratch_bytes else ""
        raise MemoryLimitError(
            f"the tensor {largest.name} has {largest.nbytes:,} bytes, more than memory_limit={limit:,}{passing}: "
            "raise the limit, or leave the tensor out with names=",
            uri=checkpoint.blobs[largest.blob].uri,
            offset=largest.start,
            length=largest.nbytes,
        )
