"""Joining neighbours into ranges: every byte once, no other byte, and joined where that saves a read."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from slipstream import TensorInfo
from slipstream.planning.coalesce import coalesce_tensors
from tests.planning.plans import make_tensors, tensor_sizes


@st.composite
def selected_tensors(draw: st.DrawFn) -> list[TensorInfo]:
    """Some of the tensors of a blob, by offset."""
    tensors = make_tensors(draw(tensor_sizes()))
    wanted = draw(st.lists(st.booleans(), min_size=len(tensors), max_size=len(tensors)))
    return list(itertools.compress(tensors, wanted))


@given(tensors=selected_tensors(), most_bytes=st.integers(1, 200_000), limited=st.booleans())
def test_every_selected_byte_is_in_one_range(tensors: list[TensorInfo], most_bytes: int, limited: bool) -> None:
    """Ranges hold all tensors in order, and begin and end with them, without a byte between."""
    ops = coalesce_tensors(tensors, most_bytes=most_bytes, limited=limited)
    assert [tensor for op in ops for tensor in op.tensors] == tensors
    for op in ops:
        assert op.tensors
        assert (op.start, op.end) == (op.tensors[0].start, op.tensors[-1].end)
        assert all(left.end == right.start for left, right in itertools.pairwise(op.tensors))
        assert op.nbytes == sum(tensor.nbytes for tensor in op.tensors)
    assert all(left.end <= right.start for left, right in itertools.pairwise(ops))


@given(tensors=selected_tensors(), most_bytes=st.integers(1, 200_000), limited=st.booleans())
def test_no_range_of_several_is_larger_than_allowed(tensors: list[TensorInfo], most_bytes: int, limited: bool) -> None:
    """A tensor that is larger than what may be joined stands alone, and joined ones hold no more than that."""
    for op in coalesce_tensors(tensors, most_bytes=most_bytes, limited=limited):
        assert len(op.tensors) == 1 or op.nbytes <= most_bytes


@given(tensors=selected_tensors(), most_bytes=st.integers(1, 200_000), limited=st.booleans())
def test_neighbours_are_joined_as_far_as_allowed(tensors: list[TensorInfo], most_bytes: int, limited: bool) -> None:
    """Two ranges that touch are two because the next tensor would have made the first too large."""
    for left, right in itertools.pairwise(coalesce_tensors(tensors, most_bytes=most_bytes, limited=limited)):
        if left.end == right.start:
            assert right.tensors[0].end - left.start > most_bytes


@given(tensors=selected_tensors(), most_bytes=st.integers(1, 200_000), limited=st.booleans())
def test_copies_are_made_where_they_must_be(tensors: list[TensorInfo], most_bytes: int, limited: bool) -> None:
    """Several tensors are handed out in copies if one is misaligned or there is a limit; a single one is realigned."""
    for op in coalesce_tensors(tensors, most_bytes=most_bytes, limited=limited):
        several = len(op.tensors) > 1
        misaligned = any(tensor.nbytes and tensor.start % max(tensor.dtype.bits // 8, 1) for tensor in op.tensors)
        assert op.copies == (several and (misaligned or limited))
        assert op.realigns == (misaligned and not several)
        assert op.lease_bytes == op.nbytes * (2 if op.copies else 1)


def test_nothing_selected() -> None:
    """No tensors make no ranges."""
    assert coalesce_tensors([], most_bytes=4096, limited=False) == []


def test_a_gap_is_never_read() -> None:
    """One byte that was not asked for keeps two ranges apart."""
    first, _, last = make_tensors([10, 1, 10])
    assert [(op.start, op.end) for op in coalesce_tensors([first, last], most_bytes=4096, limited=False)] == [
        (first.start, first.end),
        (last.start, last.end),
    ]
