"""What a rank must get of a tensor, found by cutting up all of it: bit by bit, with torch.chunk for the indexes.

Nothing here uses slipstream's own arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy
import torch
from hypothesis import strategies as st

from slipstream import Cut, Dtype
from slipstream.testing.checkpoints import tensor_nbytes
from tests.streaming.random_checkpoints import make_content

Bits = numpy.ndarray[Any, numpy.dtype[numpy.uint8]]


class Whole(NamedTuple):
    """A tensor as the file has it."""

    dtype: Dtype
    shape: tuple[int, ...]
    content: bytes


class Part(NamedTuple):
    """What a rank has of it; content is None where bytes would have to be cut."""

    shape: tuple[int, ...]
    content: bytes | None


def chunk(indexes: Sequence[int], rank: int, world_size: int) -> list[int]:
    """The indexes that torch.chunk gives to a rank."""
    chunks = torch.chunk(torch.tensor(list(indexes), dtype=torch.int64), world_size) if indexes else ()
    return chunks[rank].tolist() if rank < len(chunks) else []


def find_indexes(size: int, cut: Cut, rank: int, world_size: int) -> list[int]:
    """The indexes along the cut dimension that belong to a rank, part by part and unit by unit."""
    found: list[int] = []
    begin = 0
    for part in cut.parts:
        length = size * part // sum(cut.parts)
        units = list(range(length // cut.unit))
        if cut.shared and units and len(units) < world_size:
            mine = [units[rank * len(units) // world_size]]
        else:
            mine = chunk(units, rank, world_size)
        found += [begin + unit * cut.unit + offset for unit in mine for offset in range(cut.unit)]
        begin += length
    return found


def cut_up(whole: Whole, dim: int, indexes: Sequence[int]) -> Part:
    """What of a tensor has these indexes along a dimension."""
    bits = numpy.unpackbits(numpy.frombuffer(whole.content, numpy.uint8), bitorder="little")
    elements: Bits = bits.reshape(*whole.shape, whole.dtype.bits)
    taken = numpy.take(elements, numpy.array(indexes, numpy.int64), axis=dim)
    shape = tuple(taken.shape[:-1])
    if len(indexes) < whole.shape[dim] and math.prod(shape) and not _falls_on_bytes(whole, dim, indexes):
        return Part(shape, None)
    return Part(shape, numpy.packbits(taken.ravel(), bitorder="little").tobytes())


def _falls_on_bytes(whole: Whole, dim: int, indexes: Sequence[int]) -> bool:
    """Whether every run of neighbouring elements that is taken begins and ends between two bytes."""
    places = numpy.arange(math.prod(whole.shape)).reshape(whole.shape)
    taken = numpy.sort(numpy.take(places, numpy.array(indexes, numpy.int64), axis=dim).ravel())
    begins = taken[numpy.flatnonzero(numpy.diff(taken, prepend=-2) > 1)]
    ends = taken[numpy.flatnonzero(numpy.diff(taken, append=taken[-1] + 2) > 1)] + 1
    return not ((begins * whole.dtype.bits % 8).any() or (ends * whole.dtype.bits % 8).any())


@st.composite
def wholes(draw: st.DrawFn, most: int = 12) -> Whole:
    """A tensor of any type, of one to four dimensions, some of which may be 0."""
    dtype = draw(st.sampled_from(Dtype))
    shape = tuple(draw(st.lists(st.integers(0, most), min_size=1, max_size=4)))
    if math.prod(shape) * dtype.bits % 8:
        shape = (*shape[:-1], shape[-1] * 4)
    if len(shape) == 1 and draw(st.booleans()):
        shape = (shape[0] * 120,)
    return Whole(dtype, shape, make_content(dtype, shape, draw(st.integers(0, 2**32))))


@st.composite
def cuts(draw: st.DrawFn, shape: Sequence[int], world_size: int) -> Cut:
    """A way to divide a tensor of this shape that is not wrong in itself."""
    dim = draw(st.integers(-len(shape), len(shape) - 1))
    size = shape[dim]
    parts = draw(st.sampled_from([(1,), (1, 1), (2, 1, 1), (1, 3)]))
    if size % sum(parts):
        parts = (1,)
    lengths = [size * part // sum(parts) for part in parts]
    unit = draw(
        st.sampled_from([unit for unit in range(1, max(lengths) + 1) if not any(n % unit for n in lengths)] or [1])
    )
    counts = [length // unit for length in lengths]
    shareable = all(count == 0 or count >= world_size or world_size % count == 0 for count in counts)
    return Cut(dim=dim, parts=parts, unit=unit, shared=shareable and draw(st.booleans()))


def fits(dtype: Dtype, shape: Sequence[int]) -> bool:
    """Whether a file can hold such a tensor."""
    try:
        tensor_nbytes(dtype, shape)
    except ValueError:
        return False
    return True
