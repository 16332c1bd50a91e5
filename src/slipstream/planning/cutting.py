"""Cuts what is wanted of each blob into ReadOps: joined, gathered from strips, or as they pass through a ring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from slipstream.options import Options
from slipstream.planning.coalesce import coalesce_tensors
from slipstream.planning.staging import join_staged, stage_op
from slipstream.types import Checkpoint, Gather, ReadOp, StagingPlan, Strategy, StrategyChoice, TensorInfo

# Every range in memory is a mapping of its own, of which Linux allows 65,530 (vm.max_map_count): a
# checkpoint is cut into a fraction of that, however large it is.
_MOST_OPS = 8192


@dataclass(frozen=True, slots=True)
class OpCutter:
    """Cuts the selected tensors into each blob's ops.

    Attributes:
        checkpoint: what there is.
        selected: what of it is wanted, in its order.
        choices: how each blob is read.
        options: the caller's settings.
        gathers: how those are read whose bytes lie in strips, by name.
        staging: how bytes pass through a ring; None where they do not.
        aligned: whether a tensor that is read into memory of its own shall begin where any use of it may begin.
    """

    checkpoint: Checkpoint
    selected: Sequence[TensorInfo]
    choices: Sequence[StrategyChoice | None]
    options: Options
    gathers: Mapping[str, Gather]
    staging: StagingPlan | None
    aligned: bool

    def cut(self, limit: int | None) -> list[list[ReadOp]]:
        """Each blob's ops. Under a limit so little is joined that several ops, and their copies, fit."""
        nbytes = sum(tensor.end - tensor.start for tensor in self.selected)
        joined_bytes = max(self.options.chunk_bytes, nbytes // _MOST_OPS)
        if limit is not None:
            joined_bytes = min(joined_bytes, limit // 8)
        one_by_one = limit is not None and self.options.count_held
        ops: list[list[ReadOp]] = [[] for _ in self.checkpoint.blobs]
        for (blob, in_strips), tensors in groupby(self.selected, lambda info: (info.blob, info.name in self.gathers)):
            if in_strips:
                ops[blob] += map(self._gather, tensors)
            else:
                ops[blob] += self._join(list(tensors), joined_bytes, limited=one_by_one)
        return ops

    def _join(self, tensors: Sequence[TensorInfo], most_bytes: int, *, limited: bool) -> list[ReadOp]:
        if self.staging is not None:
            return join_staged(tensors, self.staging, most_bytes=most_bytes, limited=limited)
        return [self._align(op) for op in coalesce_tensors(tensors, most_bytes=most_bytes, limited=limited)]

    def _gather(self, info: TensorInfo) -> ReadOp:
        gather = self.gathers[info.name]
        if self.staging is not None:
            return replace(stage_op([info], self.staging.cast), gather=gather)
        return ReadOp(info.blob, info.start, info.end, (info,), gather=gather)

    def _align(self, op: ReadOp) -> ReadOp:
        """Reads a single tensor to an aligned place, if that is wanted and costs nothing: not in pages of a file."""
        choice = self.choices[op.blob]
        assert choice is not None, "a choice where there are tensors"
        if not self.aligned or len(op.tensors) > 1 or choice.strategy not in (Strategy.RANGED, Strategy.BUFFERED):
            return op
        return replace(op, realigns=True)
