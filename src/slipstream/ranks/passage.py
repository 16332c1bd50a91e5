"""The memory that pieces are passed round in: that of whole ops on the host, where their tensors stand.

    worker     place(op, piece)    where a piece of this rank's is read to
    courier    find(op, piece)     what it is sent from, or received into
    lander     end(piece)          it was passed round
    caller     finish(op)          all of an op was

On a device it is another (on_device.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeAlias

from slipstream.planning.partition import Piece
from slipstream.reading.buffers import EndLease, Ledger, MapOp, Region, make_region, map_region
from slipstream.reading.engine import MOST_MAPPINGS
from slipstream.reading.in_flight import OpInFlight
from slipstream.reading.ring import RingStatistics
from slipstream.types import ReadOp, ReadPlan

if TYPE_CHECKING:
    import torch

    Memory: TypeAlias = memoryview | torch.Tensor


class Passage(Protocol):
    """The memory of one load on one rank; see the module's text for who calls what.

    Attributes:
        most_own: how many pieces a rank may have begun to read that were not passed round; None where the memory of
            their ops is all they need.
    """

    @property
    def most_own(self) -> int | None: ...

    def place(self, target: OpInFlight, piece: Piece, map_op: MapOp) -> Region:
        """Memory to read a piece into, which may be part of something larger.

        Raises:
            OSError: there is none left.
        """
        ...

    def find(self, target: OpInFlight, piece: Piece) -> Memory:
        """The bytes of a piece, as they are passed round. What this rank has read stands there when they are needed.

        Raises:
            OSError, DeviceError: there is no memory left.
        """
        ...

    def find_spare(self, nbytes: int) -> Memory:
        """Memory to take part with where nobody here needs the bytes."""
        ...

    def end(self, piece: Piece, *, well: bool) -> None:
        """Notes that a piece was passed round. If that did not end well, some of it may be under way still."""
        ...

    def finish(self, target: OpInFlight) -> None:
        """Makes sure that an op has memory: one without bytes has no piece that it would have been made for."""
        ...

    def statistics(self) -> RingStatistics | None:
        """The figures of the slots that bytes pass through; None where they pass through none."""
        ...


MakePassage: TypeAlias = Callable[[ReadPlan, Ledger], Passage]
"""Makes the memory of a load, given its plan and the account of that memory."""


class HostPassage:
    """A Passage without copies: what is read is sent from where it stands, and what is received stays where it is."""

    most_own: int | None = None

    def __init__(self, plan: ReadPlan, ledger: Ledger) -> None:
        self._ledger = ledger
        self._on_heap = len(plan.ops) > MOST_MAPPINGS

    def place(self, target: OpInFlight, piece: Piece, map_op: MapOp) -> Region:
        """See Passage: the memory of the whole op, mapped by its reader where it reads all of it."""
        whole = (piece.start, piece.end) == (target.op.start, target.op.end)
        return self._make_region(target, map_op if whole else _map)

    def find(self, target: OpInFlight, piece: Piece) -> memoryview:
        """See Passage."""
        return self._make_region(target, _map).slice(piece.start, piece.end)

    def find_spare(self, nbytes: int) -> memoryview:
        """See Passage."""
        return memoryview(bytearray(nbytes))

    def end(self, piece: Piece, *, well: bool) -> None:
        """See Passage. Its memory is that of the op."""

    def finish(self, target: OpInFlight) -> None:
        """See Passage."""
        self._make_region(target, _map)

    def statistics(self) -> None:
        """See Passage."""

    def _make_region(self, target: OpInFlight, map_op: MapOp) -> Region:
        """The op's memory, made by whoever needs it first."""
        with target.making:
            if target.region is None:
                end_lease = partial(self._ledger.end_lease, target.op.nbytes)
                target.region = make_region(target.op, map_op, end_lease, on_heap=self._on_heap or not target.op.nbytes)
            return target.region


def _map(op: ReadOp, end_lease: EndLease) -> Region:
    """Memory of our own: a mapping of the file would have to be read before other ranks' bytes could go into it."""
    return map_region(op.start, op.end, None, end_lease)
