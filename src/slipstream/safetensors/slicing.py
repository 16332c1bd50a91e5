"""What an index takes of a tensor, and which bytes of the file hold it. Pure functions, no I/O.

    index ──select──▶ Selection: a box of elements ──cut_strips──▶ Strips: byte ranges ──join_strips──▶ an array

Rows of a tensor are one strip. Columns are a strip for each row, unless the gap between two of them is small enough to
be read along:

    row 0  | . . . A A A . . |        strips of A A A, where the gap of five elements is large
    row 1  | . . . A A A . . |        one strip from the first A to the last, where it is small
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Sequence
from types import EllipsisType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy

from slipstream.safetensors.errors import SliceError

if TYPE_CHECKING:
    Array: TypeAlias = numpy.ndarray[Any, numpy.dtype[Any]]

# A strip is a request. A store lets a connection wait 20 to 50 ms for the first byte of one, and sends 85 to 90 MB/s
# after it (Amazon S3 User Guide, "Performance guidelines"): less than a megabyte is quicker read than left out.
MOST_GAP_BYTES = 1 << 20
# Unmeasured: more strips than this are joined however large their gaps are.
MOST_STRIPS = 4096


class Selection(NamedTuple):
    """A box of a tensor's elements, as a strided view of it would have it.

    Attributes:
        shape: of what is selected.
        strides: elements from one to the next, for each of its dimensions; none is negative.
        offset: elements before the first.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @property
    def elements(self) -> int:
        """How many are selected."""
        return math.prod(self.shape)


class Strips(NamedTuple):
    """The byte ranges that hold a selection, all of one length, and how it lies in them.

    Attributes:
        starts: byte offsets in the tensor, in the order in which they are to be joined.
        nbytes: of each.
        strides: bytes from one element to the next in the joined strips, for each dimension of the selection.
    """

    starts: tuple[int, ...]
    nbytes: int
    strides: tuple[int, ...]


def read_index(index: object, shape: Sequence[int]) -> tuple[int | slice, ...]:
    """An index by the grammar of the reference for everything but PyTorch: integers, slices, and one Ellipsis.

    Negative integers count from the end; bounds of slices do not, and may not lie outside.

    Returns:
        An entry for each dimension, or fewer: integers from 0 on, and slices with all three numbers.

    Raises:
        SliceError: outside the shape, more entries than it has dimensions, or no entry of that grammar.
        OverflowError: a negative bound.
        TypeError: a bound that is no integer.
    """
    if isinstance(index, list):
        if index:
            raise SliceError("Non empty lists are not implemented: give integers and slices")
        index = slice(0, 0)
    given = index if isinstance(index, tuple) else (index,)
    entries = _expand(tuple(map(_read_entry, given)), len(shape))
    if len(entries) > len(shape):
        raise SliceError(f"an index of {len(entries)} entries for the {len(shape)} dimensions of {list(shape)}")
    return tuple(_place(entry, position, shape) for position, entry in enumerate(entries))


def _read_entry(entry: object) -> int | slice | EllipsisType:
    """An entry in plain numbers, whatever the shape."""
    if isinstance(entry, EllipsisType):
        return entry
    if isinstance(entry, slice):
        return _read_slice(entry)
    try:
        return operator.index(entry)  # type: ignore[arg-type]  # that is what is to be found out
    except TypeError:
        raise SliceError(f"{entry!r} in an index: it takes slices, integers and one Ellipsis") from None


def _read_slice(entry: slice) -> slice:
    start, stop, step = _parts(entry)
    for bound in (start, stop):
        if bound is not None and operator.index(bound) < 0:
            raise OverflowError(f"a bound of {entry} is negative: count from the beginning of the dimension")
    if step is not None and operator.index(step) < 1:
        raise SliceError(f"the step of {entry} must be a positive integer")
    return entry


def _parts(entry: slice) -> tuple[Any, Any, Any]:
    return entry.start, entry.stop, entry.step


def _expand(entries: tuple[int | slice | EllipsisType, ...], dimensions: int) -> list[int | slice]:
    """The entries with whole slices in place of the Ellipsis."""
    left_out = max(dimensions - len(entries) + 1, 0)
    expanded: list[int | slice] = []
    for entry in entries:
        expanded += [slice(None)] * left_out if isinstance(entry, EllipsisType) else [entry]
    if entries.count(Ellipsis) > 1:
        raise SliceError("Only one ellipsis (...) is allowed in an index")
    return expanded


def _place(entry: int | slice, position: int, shape: Sequence[int]) -> int | slice:
    """An entry within its dimension."""
    size = shape[position]
    if isinstance(entry, int):
        place = entry + size if entry < 0 else entry
        if not 0 <= place < size:
            raise SliceError(f"Invalid index {entry} for dimension {position} of size {size}")
        return place
    start, stop, step = _parts(entry)
    start, stop, step = map(operator.index, (start or 0, size if stop is None else stop, step or 1))
    if start > stop or stop > size or (start == size and size):
        raise SliceError(f"{entry} is outside dimension {position} of the shape {list(shape)}")
    return slice(start, stop, step)


def select(index: tuple[int | slice, ...], shape: Sequence[int]) -> Selection:
    """What an index that `read_index` has read takes of a contiguous tensor of this shape."""
    sizes: list[int] = []
    strides: list[int] = []
    offset = 0
    for position, size in enumerate(shape):
        stride = math.prod(shape[position + 1 :])
        entry = index[position] if position < len(index) else slice(0, size, 1)
        if isinstance(entry, int):
            offset += entry * stride
            continue
        offset += entry.start * stride
        sizes.append(len(range(entry.start, entry.stop, entry.step)))
        strides.append(entry.step * stride)
    return Selection(tuple(sizes), tuple(strides), offset)


def cut_strips(
    selection: Selection, itemsize: int, *, most_gap_bytes: int = MOST_GAP_BYTES, most_strips: int = MOST_STRIPS
) -> Strips:
    """The fewest byte ranges that leave out every gap which is too large to be read along.

    Args:
        selection: at least one element of a contiguous tensor.
        itemsize: bytes of an element.
        most_gap_bytes: gaps up to this are read.
        most_strips: as many ranges at most; beyond it larger gaps are read too.
    """
    shape, strides, offset = selection
    span = 1  # elements from the first to the last of what is joined so far
    joined = len(shape)
    for position in reversed(range(len(shape))):
        if shape[position] > 1:
            gap_bytes = (strides[position] - span) * itemsize
            if gap_bytes > most_gap_bytes and math.prod(shape[: position + 1]) <= most_strips:
                break
            span += (shape[position] - 1) * strides[position]
        joined = position
    lengths = [stride * itemsize for stride in strides]
    step = span * itemsize
    for position in reversed(range(joined)):
        lengths[position] = step
        step *= shape[position]
    places = itertools.product(*map(range, shape[:joined]))
    starts = (offset + sum(map(operator.mul, place, strides)) for place in places)
    return Strips(tuple(start * itemsize for start in starts), span * itemsize, tuple(lengths))


def join_strips(
    pieces: Iterable[tuple[int, Array]], selection: Selection, strips: Strips, dtype: numpy.dtype[Any]
) -> Array:
    """The selection as an array, out of its strips.

    Args:
        pieces: number of the strip and its bytes, in any order. Each is let go when the next one comes.
        selection, strips: from `select` and `cut_strips`.
        dtype: of `itemsize` bytes.

    Returns:
        An array that is a view of the one piece where nothing in it would be wasted, and else a copy.
    """
    if len(strips.starts) == 1:
        ((_, joined),) = pieces
    else:
        joined = numpy.empty(len(strips.starts) * strips.nbytes, numpy.uint8)
        for number, piece in pieces:
            joined[number * strips.nbytes : (number + 1) * strips.nbytes] = piece
            del piece
    array = numpy.ndarray(selection.shape, dtype, joined, 0, strips.strides)
    is_dense = joined.nbytes == selection.elements * dtype.itemsize
    return array if is_dense and array.flags.aligned else array.copy()
