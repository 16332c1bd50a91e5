"""Who reads what of a load that ranks share."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from slipstream.options import Options
from slipstream.planning.build import plan_reads
from slipstream.planning.partition import choose_piece_bytes, own_reads, partition_reads, share_concurrency
from slipstream.types import ReadOp
from tests.planning.plans import MIB, make_checkpoint, make_facts, tensor_sizes

PAGE = 4096


def make_ops(sizes_by_blob: list[list[int]], chunk_bytes: int = 4096) -> tuple[ReadOp, ...]:
    checkpoint = make_checkpoint(sizes_by_blob)
    facts = [make_facts() for _ in checkpoint.blobs]
    return plan_reads(checkpoint, checkpoint.tensors, facts, Options(chunk_bytes=chunk_bytes)).ops


@given(st.lists(tensor_sizes(), max_size=4), st.integers(1, 9), st.integers(1, 20))
def test_every_byte_has_one_owner(sizes: list[list[int]], ranks: int, pages: int) -> None:
    """The ranks' reads cover every byte of the plan once, in pieces of the largest size at most that end at pages."""
    ops = make_ops(sizes)
    pieces = partition_reads(ops, ranks, piece_bytes=pages * PAGE)
    assert [piece.number for piece in pieces] == list(range(len(pieces)))
    assert [piece.op for piece in pieces] == sorted(piece.op for piece in pieces)
    for number, op in enumerate(ops):
        position = op.start
        for piece in (piece for piece in pieces if piece.op == number):
            assert piece.start == position
            assert 0 < piece.nbytes <= pages * PAGE
            assert piece.end % PAGE == 0 or piece.end == op.end
            assert 0 <= piece.owner < ranks
            position = piece.end
        assert position == op.end


@given(st.lists(tensor_sizes(), max_size=4), st.integers(1, 9), st.integers(1, 20))
def test_ranks_are_never_far_apart(sizes: list[list[int]], ranks: int, pages: int) -> None:
    """At every moment of the load the ranks have read equally much, up to one piece."""
    pieces = partition_reads(make_ops(sizes), ranks, piece_bytes=pages * PAGE)
    read = [0] * ranks
    for piece in pieces:
        read[piece.owner] += piece.nbytes
        assert max(read) - min(read) <= max(piece.nbytes for piece in pieces)


@given(st.lists(tensor_sizes(), max_size=4), st.integers(1, 9), st.integers(1, 20))
def test_own_reads_are_the_own_pieces(sizes: list[list[int]], ranks: int, pages: int) -> None:
    """What a rank reads is its pieces, in order; an op that is one piece is read as it was planned."""
    ops = make_ops(sizes)
    pieces = partition_reads(ops, ranks, piece_bytes=pages * PAGE)
    for rank in range(ranks):
        own = own_reads(ops, pieces, rank)
        mine = [piece for piece in pieces if piece.owner == rank]
        assert [(op.blob, op.start, op.end) for op in own] == [
            (ops[piece.op].blob, piece.start, piece.end) for piece in mine
        ]
        for op, piece in zip(own, mine, strict=True):
            assert op.nbytes < ops[piece.op].nbytes or op is ops[piece.op]


@given(st.integers(0, 1 << 45), st.integers(1, 4096))
def test_pieces_suit_the_load(nbytes: int, ranks: int) -> None:
    """Pieces are whole pages, of 2 to 16 MiB: the smaller the load, the smaller, so that each rank has several."""
    piece_bytes = choose_piece_bytes(nbytes, ranks)
    assert piece_bytes % PAGE == 0
    assert 2 * MIB <= piece_bytes <= 16 * MIB
    if piece_bytes > 2 * MIB:
        assert nbytes >= 8 * ranks * piece_bytes


def test_a_large_tensor_is_read_by_all() -> None:
    """A tensor that is larger than a piece is read by several ranks at once."""
    pieces = partition_reads(make_ops([[64 * MIB]]), 4, piece_bytes=4 * MIB)
    assert {piece.owner for piece in pieces} == {0, 1, 2, 3}
    assert len(pieces) == 17  # the data begins behind the header, so the first and the last piece are short


@given(st.integers(1, 64), st.integers(0, 64), st.integers(1, 200))
def test_reads_in_flight_are_shared(concurrency: int, more: int, neighbours: int) -> None:
    """The ranks of a host have as many reads in flight together as one alone would have, and each has at least one."""
    plan = plan_reads(make_checkpoint([]), (), [], Options())
    plan = replace(plan, concurrency=concurrency, most_concurrency=concurrency + more)
    shared = share_concurrency(plan, neighbours)
    assert 1 <= shared.concurrency <= shared.most_concurrency
    for one, all_of_it in (
        (shared.concurrency, plan.concurrency),
        (shared.most_concurrency, plan.most_concurrency),
    ):
        assert all_of_it <= one * neighbours < all_of_it + neighbours
