"""Which part of one tensor belongs to a rank, and where its bytes lie. Pure arithmetic.

Cut, shape  ->  index ranges along one dimension  ->  a contiguous range, or Strips
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from slipstream.errors import UsageError
from slipstream.types import Strips, TensorInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How the tensors of one kind are divided among ranks: along one dimension, as `torch.chunk` does it.

    Of `n` elements each rank gets `ceil(n / world_size)`, in the order of the ranks. Where that does not come out even,
    the last ranks get less, or nothing: an empty tensor.

    Attributes:
        dim: along which dimension; negative numbers count from the last one.
        parts: a fused tensor holds several along that dimension, in this proportion, for example (4, 1, 1) for queries,
            keys and values of a model with four query heads to each key head. Each part is divided by itself, and a
            rank gets its pieces one behind the other.
        unit: how many elements stay together, for example the size of an attention head.
        shared: whether ranks share a unit where there are fewer units than ranks, as key and value heads often are.
            Then the number of ranks must be a multiple of that of units.

    Raises:
        UsageError: a value that cannot work.
    """

    dim: int = 0
    parts: tuple[int, ...] = (1,)
    unit: int = 1
    shared: bool = False

    def __post_init__(self) -> None:
        if not is_int(self.dim):
            raise UsageError(f"a Cut's dim is {self.dim!r}; it is a whole number, 0 for rows")
        if not (isinstance(self.parts, tuple) and self.parts and all(is_int(part) and part > 0 for part in self.parts)):
            raise UsageError(f"a Cut's parts are {self.parts!r}; they are whole numbers above 0, for example (4, 1, 1)")
        if not (is_int(self.unit) and self.unit > 0):
            raise UsageError(f"a Cut's unit is {self.unit!r}; it is a number of elements above 0")
        if not isinstance(self.shared, bool):
            raise UsageError(f"a Cut's shared is {self.shared!r}; it is True or False")


class Piece(NamedTuple):
    """What of a tensor belongs to a rank.

    Attributes:
        info: the piece as a tensor of its own. Where it lies in strips, `start` is where the first of them begins, and
            `end` as many bytes behind it as they have together.
        strips: where its bytes are, unless they are contiguous.
    """

    info: TensorInfo
    strips: Strips | None


def find_part(info: TensorInfo, parts: Mapping[str, Piece] | None) -> Piece | None:
    """What of a tensor is wanted: all of it where there are no parts, nothing where it has none."""
    return Piece(info, None) if parts is None else parts.get(info.name)


def divide_range(size: int, rank: int, world_size: int) -> tuple[int, int]:
    """The part `[start, end)` of `size` elements that belongs to a rank, as `torch.chunk` divides."""
    each = -(-size // world_size)
    start = min(rank * each, size)
    return start, min(start + each, size)


def divide_tensor(info: TensorInfo, cut: Cut, rank: int, world_size: int) -> Piece:
    """The part of a tensor that belongs to a rank.

    Raises:
        UsageError: it cannot be divided so; the message names the tensor.
    """
    dims = len(info.shape)
    if not -dims <= cut.dim < dims:
        raise UsageError(f"{_describe(info)} has no dimension {cut.dim} to be divided along: correct its rule")
    dim = cut.dim % dims
    return cut_tensor(info, dim, _divide_parts(info, dim, cut, rank, world_size))


def cut_tensor(info: TensorInfo, dim: int, blocks: Iterable[tuple[int, int]]) -> Piece:
    """The part of a tensor whose indexes along a dimension are in these ranges.

    Args:
        info: all of it.
        dim: from 0 on.
        blocks: half-open, ascending, apart; those that are empty or touch are as good.

    Raises:
        UsageError: packed elements would have to be cut inside a byte.
    """
    ranges = _join(blocks)
    length = sum(end - start for start, end in ranges)
    if length == info.shape[dim]:
        return Piece(info, None)
    shape = (*info.shape[:dim], length, *info.shape[dim + 1 :])
    if not math.prod(shape):
        return Piece(info._replace(shape=shape, end=info.start), None)
    rows = math.prod(info.shape[:dim])
    inner_bits = math.prod(info.shape[dim + 1 :]) * info.dtype.bits
    row_bytes = _whole_bytes(info, info.shape[dim] * inner_bits if rows > 1 else 0)
    inside = tuple(
        (_whole_bytes(info, start * inner_bits), _whole_bytes(info, end * inner_bits)) for start, end in ranges
    )
    if rows == 1 and len(inside) == 1:
        start, end = inside[0]
        return Piece(info._replace(shape=shape, start=info.start + start, end=info.start + end), None)
    strips = Strips(info.start, rows, row_bytes if rows > 1 else info.nbytes, inside)
    end = strips.first + rows * strips.width
    return Piece(info._replace(shape=shape, start=strips.first, end=end), strips)


def move_piece(piece: Piece, name: str, blob: int, distance: int) -> Piece:
    """The same piece of a tensor of another name, of the same type and shape, that lies this much further on."""
    _, dtype, shape, _, start, end = piece.info
    info = TensorInfo(name, dtype, shape, blob, start + distance, end + distance)
    strips = piece.strips
    if strips is not None:
        strips = Strips(strips.start + distance, strips.rows, strips.row_bytes, strips.blocks)
    return Piece(info, strips)


def _divide_parts(info: TensorInfo, dim: int, cut: Cut, rank: int, world_size: int) -> list[tuple[int, int]]:
    size, total = info.shape[dim], sum(cut.parts)
    if size % total:
        proportion = ":".join(map(str, cut.parts))
        raise UsageError(f"{_describe(info)} cannot be parted {proportion} along dimension {dim}: correct its rule")
    blocks: list[tuple[int, int]] = []
    begin = 0
    for part in cut.parts:
        end = begin + size // total * part
        units, rest = divmod(end - begin, cut.unit)
        if rest:
            raise UsageError(
                f"{_describe(info)} has {end - begin:,} elements along dimension {dim} to be divided in units of "
                f"{cut.unit:,}: correct the unit or head_dim"
            )
        first, last = _divide_units(info, units, cut, rank, world_size)
        blocks.append((begin + first * cut.unit, begin + last * cut.unit))
        begin = end
    return blocks


def _divide_units(info: TensorInfo, units: int, cut: Cut, rank: int, world_size: int) -> tuple[int, int]:
    if not cut.shared or units >= world_size or not units:
        return divide_range(units, rank, world_size)
    if world_size % units:
        raise UsageError(
            f"{_describe(info)} has {units} units, which {world_size} ranks cannot share evenly: "
            f"take a multiple of {units} ranks, or a divisor"
        )
    unit = rank // (world_size // units)
    return unit, unit + 1


def _join(blocks: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in blocks:
        if start == end:
            continue
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, end))
    return joined


def _whole_bytes(info: TensorInfo, bits: int) -> int:
    if bits % 8:
        raise UsageError(
            f"{_describe(info)} would have to be cut inside a byte, since its elements have {info.dtype.bits} bits: "
            "divide it along another dimension or into fewer parts, or keep it whole with None as its rule"
        )
    return bits // 8


def _describe(info: TensorInfo) -> str:
    return f"the tensor {info.name!r} of type {info.dtype} and shape {list(info.shape[:8])}"


def is_int(value: object) -> bool:
    """Whether it is a whole number, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)
