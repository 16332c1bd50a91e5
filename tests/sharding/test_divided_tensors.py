"""Which part of a tensor belongs to a rank: that which slicing all of it gives, for every type, shape and world."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream import Cut, Dtype, TensorInfo, UsageError
from slipstream.planning.divide import Piece, divide_range, divide_tensor
from tests.sharding.slicing import Whole, chunk, cut_up, cuts, find_indexes, wholes

OFFSET = 123  # where the tensor begins in its blob


def describe(whole: Whole) -> TensorInfo:
    return TensorInfo("x", whole.dtype, whole.shape, 0, OFFSET, OFFSET + len(whole.content))


def read_piece(piece: Piece, whole: Whole) -> bytes:
    """The bytes that a piece says are its own, one strip after the other."""
    blob = bytes(OFFSET) + whole.content
    if piece.strips is None:
        return blob[piece.info.start : piece.info.end]
    strips = piece.strips
    rows = [blob[strips.start + row * strips.row_bytes :] for row in range(strips.rows)]
    return b"".join(row[start:end] for row in rows for start, end in strips.blocks)


@given(size=st.integers(0, 300), world_size=st.integers(1, 40))
def test_ranges_are_those_of_torch_chunk(size: int, world_size: int) -> None:
    """Ranks divide a range as torch.chunk does; one that gets nothing has an empty range within bounds."""
    for rank in range(world_size):
        start, end = divide_range(size, rank, world_size)
        assert list(range(start, end)) == chunk(range(size), rank, world_size)
        assert 0 <= start <= end <= size


@given(data=st.data(), whole=wholes(), world_size=st.integers(1, 9))
def test_pieces_are_slices(data: st.DataObject, whole: Whole, world_size: int) -> None:
    """Every rank's piece has the shape and bytes of a slice; where bytes would have to be cut, that is an error."""
    cut = data.draw(cuts(whole.shape, world_size))
    for rank in range(world_size):
        indexes = find_indexes(whole.shape[cut.dim], cut, rank, world_size)
        expected = cut_up(whole, cut.dim % len(whole.shape), indexes)
        if expected.content is None:
            with pytest.raises(UsageError, match="inside a byte"):
                divide_tensor(describe(whole), cut, rank, world_size)
            continue
        piece = divide_tensor(describe(whole), cut, rank, world_size)
        assert piece.info.shape == expected.shape
        assert read_piece(piece, whole) == expected.content
        assert piece.info.nbytes == len(expected.content)
        assert (piece.info.name, piece.info.dtype, piece.info.blob) == ("x", whole.dtype, 0)


@given(data=st.data(), whole=wholes(), world_size=st.integers(1, 9))
def test_ranks_together_have_everything_once(data: st.DataObject, whole: Whole, world_size: int) -> None:
    """Unless units are shared, each index along the cut dimension belongs to exactly one rank."""
    cut = data.draw(cuts(whole.shape, world_size).filter(lambda cut: not cut.shared))
    size = whole.shape[cut.dim]
    all_indexes = [index for rank in range(world_size) for index in find_indexes(size, cut, rank, world_size)]
    assert sorted(all_indexes) == list(range(size))
    pieces = [
        divide_tensor(TensorInfo("x", Dtype.U8, whole.shape, 0, 0, _count(whole.shape)), cut, rank, world_size)
        for rank in range(world_size)
    ]
    assert sum(piece.info.nbytes for piece in pieces) == _count(whole.shape)


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def test_strips_are_as_long_as_they_can_be() -> None:
    """A cut along rows is one range; along columns there is one strip to a row, and fused parts that touch are one."""
    info = TensorInfo("x", Dtype.F32, (6, 8), 0, OFFSET, OFFSET + 192)
    rows = divide_tensor(info, Cut(), 1, 3)
    assert rows.strips is None
    assert (rows.info.start, rows.info.end) == (OFFSET + 64, OFFSET + 128)
    columns = divide_tensor(info, Cut(dim=1), 1, 4)
    assert columns.strips is not None
    assert (columns.strips.rows, columns.strips.row_bytes, columns.strips.blocks) == (6, 32, ((8, 16),))
    assert columns.info.start == OFFSET + 8
    fused = divide_tensor(info, Cut(dim=1, parts=(1, 1)), 0, 4)
    assert fused.strips is not None
    assert fused.strips.blocks == ((0, 4), (16, 20))
    whole = divide_tensor(info, Cut(dim=1, parts=(1, 1)), 0, 1)
    assert (whole.info, whole.strips) == (info, None)
    one_row = divide_tensor(info._replace(shape=(1, 48)), Cut(dim=1), 1, 4)
    assert one_row.strips is None


@pytest.mark.parametrize(
    ("shape", "cut", "words"),
    [
        ((), Cut(), "no dimension 0"),
        ((4,), Cut(dim=1), "no dimension 1"),
        ((4,), Cut(dim=-2), "no dimension -2"),
        ((7,), Cut(parts=(1, 1)), "parted 1:1"),
        ((10,), Cut(unit=4), "units of 4"),
        ((12,), Cut(parts=(2, 1), unit=8), "units of 8"),
        ((6,), Cut(unit=2, shared=True), "4 ranks cannot share"),
    ],
)
def test_cuts_that_cannot_be(shape: tuple[int, ...], cut: Cut, words: str) -> None:
    """A cut that does not suit a tensor is an error that names it, its shape, and what to do."""
    info = TensorInfo("the.name", Dtype.U8, shape, 0, 0, _count(shape))
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        divide_tensor(info, cut, 0, 4)
    assert "'the.name'" in str(caught.value)
    assert str(list(shape)) in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"dim": 1.0},
        {"dim": None},
        {"dim": True},
        {"parts": ()},
        {"parts": (1, 0)},
        {"parts": [1, 1]},
        {"parts": 2},
        {"unit": 0},
        {"unit": "head"},
        {"shared": 1},
    ],
    ids=str,
)
def test_impossible_cuts(settings: dict[str, object]) -> None:
    """A value that cannot work is refused when the Cut is made, and the error names it."""
    with pytest.raises(UsageError, match=next(iter(settings))):
        Cut(**settings)  # type: ignore[arg-type]  # that is what is tested
