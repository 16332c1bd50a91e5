"""Brings what was passed round in host memory to where a rank wants it: its part, on a device, in another type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy

from slipstream.planning.divide import Piece, find_part
from slipstream.planning.landing import place_tensors
from slipstream.planning.shard import Shard, shard_tensors
from slipstream.reading.base import Copier, Landing
from slipstream.reading.buffers import Ledger, Region
from slipstream.reading.in_flight import OpInFlight
from slipstream.types import Dtype, ReadOp, ReadPlan, Strips


class Lander(Protocol):
    """Brings whole ops to where they are wanted. For the caller's thread."""

    def land(self, target: OpInFlight, ledger: Ledger) -> None:
        """Puts a whole op's tensors where they are wanted, in place of what was received.

        Raises:
            DeviceError: the device has no memory left, or failed.
            OSError: the host has no memory.
        """
        ...

    def notes(self) -> Sequence[str]:
        """What was refused, and what was done instead."""
        ...


class HostLander:
    """A Lander of what was received in host memory: tensor by tensor, by a Copier.

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
        """See Lander."""
        region = target.region
        assert region is not None, "an op that is whole has memory"
        end_lease = ledger.end_lease if self._on_host else _forget
        wanted = find_wanted(target.op, self._parts)
        if self._on_host:
            count_landed(target.op, wanted, self._cast, ledger)
        landings: list[Landing] = []
        copies = []  # each with what it copies from, which lives until it is over
        for info, strips in wanted:
            landing = self._copier.land(ReadOp(target.op.blob, info.start, info.end, (info,)), end_lease)
            landings.append(landing)
            if info.nbytes:
                source = region if strips is None else _gather(region, strips)
                copies.append((landing.copy(source, info.start, info.end), source))
        for event, _ in copies:
            event.wait()  # only then may the memory that was received into go
        target.landing, target.region = Landed(landings), None

    def notes(self) -> Sequence[str]:
        """See Lander."""
        return self._copier.notes()


def find_wanted(op: ReadOp, parts: Mapping[str, Piece] | None) -> list[Piece]:
    """What is wanted of an op: of each tensor all or its part, and nothing of those that have none."""
    return [part for info in op.tensors if (part := find_part(info, parts)) is not None]


def count_landed(op: ReadOp, wanted: Sequence[Piece], cast: Dtype | None, ledger: Ledger) -> None:
    """Counts what an op's tensors are about to take, in place of what was leased for it beyond its bytes."""
    landed = sum(place.nbytes for info, _ in wanted for place in place_tensors((info,), cast))
    ledger.exchange(op.lease_bytes - op.nbytes, landed)


class Landed:
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
