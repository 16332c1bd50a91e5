"""Joins neighbouring tensors into ranges that are worth a read of their own."""

from __future__ import annotations

from collections.abc import Sequence

from slipstream.types import ReadOp, TensorInfo


def coalesce_tensors(tensors: Sequence[TensorInfo], *, most_bytes: int) -> list[ReadOp]:
    """Cuts one blob's tensors into ReadOps: no I/O, every byte once, no byte that was not asked for.

        selected   | a | b |   gap   | c |        d (large)        | e |
        ops        [-- 1 --]         [-3-][---------- 4 ----------][-5-]

    A tensor of `most_bytes` or more stands alone, so that it is delivered as soon as it is whole;
    smaller ones that touch are joined until they hold that much.

    Args:
        tensors: of one blob, by offset.
        most_bytes: up to how much is joined.
    """
    ops: list[ReadOp] = []
    first = 0  # of the run being joined
    for number, tensor in enumerate(tensors):
        run_start = tensors[first].start
        joins = tensor.start == tensors[number - 1].end and tensor.end - run_start <= most_bytes
        if number > first and not joins:
            ops.append(_join(tensors[first:number]))
            first = number
    if tensors:
        ops.append(_join(tensors[first:]))
    return ops


def _join(tensors: Sequence[TensorInfo]) -> ReadOp:
    return ReadOp(tensors[0].blob, tensors[0].start, tensors[-1].end, tuple(tensors))
