"""Which rank reads which bytes of a load that several share. Pure functions: every rank comes to the same result."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from slipstream.types import ReadOp, ReadPlan

# What is passed round at a time (docs/distributed.md has the measurements). Below it, what each piece costs in messages
# and threads shows; above it, more memory is in flight and the first tensor comes later.
_MOST_PIECE_BYTES = 16 << 20
_LEAST_PIECE_BYTES = 2 << 20  # as reads of a store, smaller ones cost a round trip for little
_PIECES_PER_RANK = 8  # so that the ranks of a small load have as much to do as one another
_ALIGNMENT = 4096  # pages: two ranks read no page twice, and direct reads begin at one


class Piece(NamedTuple):
    """A range that one rank reads and passes on to the others.

    Attributes:
        number: its place in the order in which pieces are passed round, from 0 on.
        op: position in `ReadPlan.ops` of the op that it is, or is part of.
        start: absolute offset in the op's blob of its first byte.
        end: absolute offset behind its last byte.
        owner: the rank that reads it.
    """

    number: int
    op: int
    start: int
    end: int
    owner: int

    @property
    def nbytes(self) -> int:
        """Bytes to read, and to pass on."""
        return self.end - self.start


def choose_piece_bytes(nbytes: int, ranks: int) -> int:
    """How large the pieces of a load of `nbytes` may be: a multiple of the page size."""
    fair = nbytes // (ranks * _PIECES_PER_RANK)
    return min(max(fair - fair % _ALIGNMENT, _LEAST_PIECE_BYTES), _MOST_PIECE_BYTES)


def partition_reads(ops: Sequence[ReadOp], ranks: int, *, piece_bytes: int) -> tuple[Piece, ...]:
    """Cuts ops into pieces and gives each to a rank: every byte once, in the order of the ops.

        ops      [--- 0 ---][1][---------- 2 ----------]
        pieces   [ 0 ][ 1  ][2][ 3 ][  4  ][  5  ][ 6  ]
        owners     0    1    2   3     2      0     1

    Each goes to the rank that has the fewest bytes so far, so that at no moment one rank is ahead of another by more
    than a piece, and all can read at the same time from the beginning to the end. An op without bytes has no piece.

    Args:
        ops: in reading order.
        ranks: how many share the load.
        piece_bytes: the largest piece, a multiple of the page size. Cuts lie at its multiples in the blob.
    """
    assert piece_bytes % _ALIGNMENT == 0, f"pieces of {piece_bytes} bytes do not end at pages"
    loads = [(0, rank) for rank in range(ranks)]
    pieces: list[Piece] = []
    for number, op in enumerate(ops):
        for start, end in _cut(op, piece_bytes):
            nbytes, owner = loads[0]
            heapq.heapreplace(loads, (nbytes + end - start, owner))
            pieces.append(Piece(len(pieces), number, start, end, owner))
    return tuple(pieces)


def own_reads(ops: Sequence[ReadOp], pieces: Sequence[Piece], rank: int) -> tuple[ReadOp, ...]:
    """What a rank reads itself, in order: one op for each of its pieces."""
    own: list[ReadOp] = []
    for piece in pieces:
        if piece.owner == rank:
            op = ops[piece.op]
            whole = (piece.start, piece.end) == (op.start, op.end)
            own.append(op if whole else ReadOp(op.blob, piece.start, piece.end, op.tensors))
    return tuple(own)


def share_concurrency(plan: ReadPlan, neighbours: int) -> ReadPlan:
    """A rank's plan with its part of the reads in flight that suit a host, on which so many ranks read.

    They share its network, disks and processors. More reads at once would bring no byte sooner, but each of them later:
    a piece would take as long as all of them do, and none could be passed round before the end.
    """
    concurrency = max(-(-plan.concurrency // neighbours), 1)
    return replace(
        plan,
        concurrency=concurrency,
        most_concurrency=max(-(-plan.most_concurrency // neighbours), concurrency),
    )


def _cut(op: ReadOp, piece_bytes: int) -> Iterator[tuple[int, int]]:
    start = op.start
    while start < op.end:
        end = min(start - start % piece_bytes + piece_bytes, op.end)
        yield start, end
        start = end
