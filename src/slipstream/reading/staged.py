"""Reads that go through a ring: each chunk into a slot, and from there to where its tensors stand.

    worker    read(read)      lands the op, leases a slot, reads into it
              copy(read)      once the read has won its chunk: begins the copy, gives the slot back with its event
              leave(read)     however it ended: the last to leave a chunk gives back a slot that nobody copied from

A chunk that is read twice at once (see Schedule) has one slot for both reads, as the second one begins where the first
one is. So the slot lives as long as any read of its chunk does, and the winner takes it, once the others have stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from slipstream.reading.base import BlobReader, Copier, EndLanding, Landing, PlacingReader
from slipstream.reading.buffers import Region
from slipstream.reading.in_flight import OpInFlight, Read
from slipstream.reading.memory import PAGE_BYTES
from slipstream.reading.ring import Ring, RingStatistics, Slot
from slipstream.transport.transfer import TransferStopped
from slipstream.types import StagingPlan


class StagedReads:
    """The ring of one load, and what lands its tensors. Thread-safe."""

    def __init__(self, staging: StagingPlan, copier: Copier, end_lease: EndLanding) -> None:
        self._ring = Ring(staging.slot_bytes, staging.slots, copier.memory)
        self._copier = copier
        self._end_lease = end_lease

    def read(self, read: Read, reader: BlobReader, read_into: Callable[[Region], int]) -> int:
        """Reads one chunk into a slot; returns the requests made.

        Args:
            read: which chunk.
            reader: of its blob. Where it can place bytes past the ring, they are.
            read_into: makes the chunk stand in the slot that it is given; returns the requests made.

        Raises:
            ReadError, DeviceError, OSError: as BlobReader.read and Copier.land.
            TransferStopped: the transfer or the ring was stopped.
        """
        landing = self.land(read.target)
        if isinstance(reader, PlacingReader):
            requests = reader.place(landing, read.target.op, read.start, read.end)
            if requests is not None:
                return requests
        return read_into(_view_slot(self._find_slot(read), read))

    def land(self, target: OpInFlight) -> Landing:
        """The memory of an op's tensors, made by whoever needs it first."""
        with target.making:
            if target.landing is None:
                target.landing = self._copier.land(target.op, self._end_lease)
            return target.landing

    def copy(self, read: Read) -> None:
        """Begins the copy of a chunk that has been read, and that nobody reads any more.

        Raises:
            DeviceError: the device failed.
        """
        chunk = read.chunk
        slot, chunk.slot = chunk.slot, None
        if slot is None:
            return  # there was nothing to read, or it stands in its place already
        event, landing = None, read.target.landing
        assert landing is not None, "a chunk was read before its op had landed"
        try:
            event = landing.copy(_view_slot(slot, read), read.chunk_start, read.end)
        finally:
            self._ring.give_back(slot, event)

    def leave(self, read: Read, *, last: bool) -> None:
        """Notes that a worker is through with a read, the `last` one of its chunk."""
        if last and read.chunk.slot is not None:
            slot, read.chunk.slot = read.chunk.slot, None
            self._ring.give_back(slot, None)

    def stop(self) -> None:
        """Lets nobody wait for a slot any more."""
        self._ring.stop()

    def end(self) -> None:
        """Waits for the copies that were begun, and lets go of the ring. Called when no worker reads any more."""
        self._ring.end()

    def statistics(self) -> RingStatistics:
        """The figures of the ring so far."""
        return self._ring.statistics()

    def notes(self) -> tuple[str, ...]:
        """What was refused, and what was done instead."""
        return tuple(self._copier.notes())

    def _find_slot(self, read: Read) -> Slot:
        """The chunk's slot. While it is waited for, the read is no straggler."""
        chunk, transfer = read.chunk, read.transfer
        with chunk.making:
            if chunk.slot is None:
                if transfer.stopped:
                    raise TransferStopped
                transfer.waiting = True
                try:
                    chunk.slot = self._ring.lease()
                finally:
                    transfer.waiting = False
                    transfer.started = monotonic()
            return chunk.slot


def _view_slot(slot: Slot, read: Read) -> Region:
    """The slot as memory of the blob, from the page on in which the chunk begins."""
    return Region(slot.address, read.chunk_start - read.chunk_start % PAGE_BYTES, slot.view, pages=True)
