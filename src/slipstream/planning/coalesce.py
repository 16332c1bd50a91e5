"""Joins neighbouring tensors into ranges that are worth a read of their own."""

from __future__ import annotations

from collections.abc import Sequence

from slipstream.types import DTYPE_BITS, ReadOp, TensorInfo


def coalesce_tensors(tensors: Sequence[TensorInfo], *, most_bytes: int, limited: bool = False) -> list[ReadOp]:
    """Cuts one blob's tensors into ReadOps: no I/O, every byte once, no byte that was not asked for.

        selected   | a | b |   gap   | c |        d (large)        | e |
        ops        [-- 1 --]         [-3-][---------- 4 ----------][-5-]

    A tensor of `most_bytes` or more stands alone, so that it is delivered as soon as it is whole;
    smaller ones that touch are joined until they hold that much.

    Args:
        tensors: of one blob, by offset.
        most_bytes: up to how much is joined.
        limited: whether tensors that are read together must be able to go back one by one.
    """
    ops: list[ReadOp] = []
    first = 0  # of the run being joined
    for number, tensor in enumerate(tensors):
        run_start = tensors[first].start
        joins = tensor.start == tensors[number - 1].end and tensor.end - run_start <= most_bytes
        if number > first and not joins:
            ops.append(_join(tensors[first:number], limited))
            first = number
    if tensors:
        ops.append(_join(tensors[first:], limited))
    return ops


def _join(tensors: Sequence[TensorInfo], limited: bool) -> ReadOp:
    several = len(tensors) > 1
    misaligned = any(map(_is_misaligned, tensors))
    return ReadOp(
        blob=tensors[0].blob,
        start=tensors[0].start,
        end=tensors[-1].end,
        tensors=tuple(tensors),
        copies=several and (limited or misaligned),
        realigns=misaligned and not several,
    )


def _is_misaligned(tensor: TensorInfo) -> bool:
    """Whether the tensor would not lie at a multiple of its element size. Regions begin at a page."""
    if tensor.start % 8 == 0 or tensor.start == tensor.end:
        return False
    return tensor.start % max(DTYPE_BITS[tensor.dtype] // 8, 1) != 0
