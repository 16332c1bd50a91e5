"""The seam between a stream and who reads for it: one engine, or one of several whose processes share a load."""

from __future__ import annotations

from typing import Protocol

from slipstream.reading.buffers import Ledger
from slipstream.reading.in_flight import OpInFlight
from slipstream.reading.ring import RingStatistics
from slipstream.types import ReadPlan


class Deliveries(Protocol):
    """Whole ops for the caller, and the figures of reading them. A Schedule is one."""

    @property
    def ledger(self) -> Ledger:
        """The account of the memory that ops stand in."""
        ...

    @property
    def finished(self) -> bool:
        """Whether every op was delivered, or none ever will be."""
        ...

    @property
    def bytes_read(self) -> int:
        """Bytes that are in memory, delivered or not."""
        ...

    @property
    def requests(self) -> int:
        """Requests made of the storage by this process, likewise `hedged` and `peak_concurrency`; see LoadStats."""
        ...

    @property
    def hedged(self) -> int: ...

    @property
    def peak_concurrency(self) -> int: ...

    def wait_whole(self, timeout_s: float | None = None) -> OpInFlight | None:
        """See Schedule.wait_whole."""
        ...


class Reading(Protocol):
    """Who reads for a stream. An Engine is one."""

    @property
    def plan(self) -> ReadPlan:
        """What this process reads, which may be part of what the stream delivers."""
        ...

    @property
    def schedule(self) -> Deliveries:
        """What the stream waits for."""
        ...

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """See LoadStats, likewise `ranks` and `received_bytes`."""
        ...

    @property
    def peak_bytes(self) -> int:
        """See Engine, likewise `ring_statistics`."""
        ...

    def ring_statistics(self) -> RingStatistics | None: ...

    @property
    def ranks(self) -> int: ...

    @property
    def received_bytes(self) -> int: ...

    def close(self) -> None:
        """Stops reading, waits for the reads under way, and closes the files. Safe to call again."""
        ...
