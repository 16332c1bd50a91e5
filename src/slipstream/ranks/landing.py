"""Brings what was passed round in host memory to where a rank wants it: to another device, or cast to another type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slipstream.planning.landing import place_tensors
from slipstream.reading.base import Copier, Landing
from slipstream.reading.buffers import Ledger, Region
from slipstream.reading.in_flight import OpInFlight
from slipstream.types import Dtype, ReadOp


class Lander:
    """Lands whole ops, tensor by tensor, by a Copier. For the caller's thread.

    What comes to stand on the host counts against the same limit as the memory that was received into, which goes back
    at once. For a moment there is an op too much.
    """

    def __init__(self, copier: Copier, cast: Dtype | None, *, on_host: bool) -> None:
        """
        Args:
            copier: made for the same cast.
            cast: the type that floating-point tensors are wanted in.
            on_host: whether they come to stand there.
        """
        self._copier = copier
        self._cast = cast
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
        events = []
        for info in target.op.tensors:
            alone = ReadOp(target.op.blob, info.start, info.end, (info,))
            if self._on_host:
                (place,) = place_tensors((info,), self._cast)
                ledger.add(place.nbytes)
            landing = self._copier.land(alone, end_lease)
            landings.append(landing)
            if info.nbytes:
                events.append(landing.copy(region, info.start, info.end))
        for event in events:
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


def _forget(length: int, address: int, mapped_bytes: int) -> None:
    """Memory of a device is not counted: what is received is bounded on the host."""
