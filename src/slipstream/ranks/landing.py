"""Brings what was passed round in host memory to where a rank wants it: its part, on a device, in another type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from slipstream.planning.divide import Piece
from slipstream.planning.landing import place_tensors
from slipstream.planning.shard import Shard, shard_tensors
from slipstream.reading.base import Copier, Landing
from slipstream.reading.buffers import Ledger, Region
from slipstream.reading.in_flight import OpInFlight
from slipstream.types import Dtype, ReadOp, ReadPlan, Strips


class Lander:
    """Lands whole ops, tensor by tensor, by a Copier. For the caller's thread.

    What comes to stand on the host counts against the same limit as the memory that was received into, which goes back
    at once. For a moment there is an op too much.
    """

    def __init__(
        self, copier: Copier, cast: Dtype | None, parts: Mapping[str, Piece] | None = None, *, on_host: bool
    ) -> None:
        """
        Args:
            copier: made for the same cast.
            cast: the type that floating-point tensors are wanted in.
            parts: what of each tensor is wanted, by its name; nothing of those that are missing. None is all.
            on_host: whether they come to stand there.
        """
        self._copier = copier
        self._cast = cast
        self._parts = parts
        self._on_host = on_host

    def land(self, target: OpInFlight, ledger: Ledger) -> None:
        """Puts a whole op's tensors where they are wanted, in place of its region.

        Raises:
            DeviceError: the device has no memory left, or failed.
            OSError: the host has no memory.
        """
        region = target.region
        assert region is not None, "an op that is whole has memory"
        end_lease = ledger.end_lease if self._on_host else _forget
        landings: list[Landing] = []
        copies = []  # each with what it copies from, which lives until it is over
        for info in target.op.tensors:
            part = Piece(info, None) if self._parts is None else self._parts.get(info.name)
            if part is None:
                continue
            info, strips = part
            if self._on_host:
                (place,) = place_tensors((info,), self._cast)
                ledger.add(place.nbytes)
            landing = self._copier.land(ReadOp(target.op.blob, info.start, info.end, (info,)), end_lease)
            landings.append(landing)
            if info.nbytes:
                source = region if strips is None else _gather(region, strips)
                copies.append((landing.copy(source, info.start, info.end), source))
        for event, _ in copies:
            event.wait()  # only then may the memory that was received into go
        target.landing, target.region = _Landed(landings), None

    def notes(self) -> tuple[str, ...]:
        """What was refused, and what was done instead."""
        return tuple(self._copier.notes())


class _Landed:
    """The tensors of an op, each landed by itself. A Landing whose copies are over."""

    def __init__(self, landings: Sequence[Landing]) -> None:
        self._landings = landings

    def copy(self, chunk: Region, start: int, end: int) -> Any:
        """See Landing. There is nothing left to copy."""
        raise AssertionError("all of it has landed")

    def hand_out(self) -> Sequence[tuple[str, Any]]:
        """See Landing."""
        return [pair for landing in self._landings for pair in landing.hand_out()]


def find_parts(plan: ReadPlan, shard: Shard) -> dict[str, Piece]:
    """What of each tensor of a plan belongs to a rank, by name.

    Raises:
        UsageError: as shard_tensors.
    """
    selected = [info for op in plan.ops for info in op.tensors]
    tensors, strips = shard_tensors(plan.checkpoint, selected, shard)
    return {info.name: Piece(info, strips.get(info.name) if strips else None) for info in tensors}


def _gather(region: Region, strips: Strips) -> Region:
    """The strips one behind the other, in memory of their own."""
    whole = numpy.frombuffer(region.slice(strips.start, strips.start + strips.rows * strips.row_bytes), numpy.uint8)
    rows = whole.reshape(strips.rows, strips.row_bytes)
    gathered = numpy.concatenate([rows[:, start:end] for start, end in strips.blocks], axis=1).reshape(-1)
    return Region(gathered.ctypes.data, strips.first, memoryview(gathered.data))


def _forget(length: int, address: int, mapped_bytes: int) -> None:
    """Memory of a device is not counted: what is received is bounded on the host."""
