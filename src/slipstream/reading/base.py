"""The seam where ranges are read into memory: one BlobReader per blob and load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from slipstream.reading.buffers import EndLease, MapOp, Region
from slipstream.reading.file import OpenFile
from slipstream.reading.ring import Event, SlotMemory
from slipstream.transport.transfer import Transfer
from slipstream.types import ReadOp

NoteFallback: TypeAlias = Callable[[str], None]
"""Told once of each refusal by the kernel or file system and what is done instead, in one line."""


class Places(Protocol):
    """Gives the memory that ops are read into, in place of the engine: an op may be part of something larger."""

    def admit(self, op: ReadOp) -> bool:
        """Whether there is room for the op now. Asked under the schedule's lock; who makes room calls its `wake`."""
        ...

    def place(self, op: ReadOp, map_op: MapOp) -> Region:
        """The memory of an op that was admitted. What it holds beyond the op is left alone.

        Raises:
            OSError: there is no memory.
            TransferStopped: the load is ending.
        """
        ...


class BlobReader(Protocol):
    """Reads ranges of one blob. `read` is called from many threads at once, also for one region."""

    def map_op(self, op: ReadOp, end_lease: EndLease) -> Region:
        """The memory that the op's tensors will stand in; see map_region.

        Raises:
            OSError: there is no memory.
        """
        ...

    def read(self, region: Region, start: int, end: int, transfer: Transfer) -> int:
        """Makes the bytes `[start, end)` of the blob stand in the region; returns how many requests that took.

        Args:
            region: of the op.
            start: the op's own start or a multiple of the page size; where a range is read a second time, anywhere.
            end: behind the last byte.
            transfer: of this range. Reads that can be stopped obey it; reads of files cannot.

        Raises:
            ReadError: with uri, offset and length.
            TransferStopped: the transfer was stopped.
        """
        ...

    def check_unchanged(self) -> None:
        """Raises BlobChangedError where the blob is no longer the one that was opened."""
        ...

    def close(self) -> None:
        """Gives descriptors back. Regions live on."""
        ...


@runtime_checkable
class FileReader(BlobReader, Protocol):
    """A BlobReader of a file, of which also many small pieces can be read at once."""

    @property
    def file(self) -> OpenFile:
        """The open file."""
        ...


EndLanding: TypeAlias = Callable[[int, int, int], None]
"""Takes how many leased bytes went, and the address and length of the mapping to end; see Ledger.end_lease."""


class Landing(Protocol):
    """The memory where the tensors of one op come to stand, for a load that passes through a ring."""

    def copy(self, chunk: Region, start: int, end: int) -> Event:
        """Begins to copy the bytes `[start, end)` of the blob from a slot; any thread, several at once.

        Args:
            chunk: the slot, as memory of the blob. What is in it may be moved about.
            start: where the chunk begins: the op's start, or a whole number of its pieces behind it.
            end: behind its last byte.

        Returns:
            When the slot may be used again.

        Raises:
            DeviceError: the device failed.
        """
        ...

    def hand_out(self) -> Sequence[tuple[str, Any]]:
        """The tensors, by name, once all copies were begun. For the caller's thread, once.

        What that thread does with them comes after the copies: on the host because they are over, on a device because
        its present stream has been told to wait for them.
        """
        ...


class Copier(Protocol):
    """Brings bytes from the slots of a ring to where tensors stand.

    Attributes:
        memory: where slots come from.
    """

    @property
    def memory(self) -> SlotMemory: ...

    def land(self, op: ReadOp, end_lease: EndLanding) -> Landing:
        """Memory for an op's tensors.

        Args:
            op: planned with a ring.
            end_lease: called once for each part of that memory when the last view of it died.

        Raises:
            DeviceError: the device has no memory left.
            OSError: the host has none.
        """
        ...

    def notes(self) -> Sequence[str]:
        """What was refused, and what was done instead; one line each."""
        ...


@runtime_checkable
class OpenLanding(Protocol):
    """What a landing may offer besides: its memory, for who fills it without a slot."""

    def wait_buffer(self) -> Any:
        """The bytes of an op of one tensor that is not cast, as what has a __cuda_array_interface__.

        Waits until nothing that was enqueued before still uses that memory.
        """
        ...


@runtime_checkable
class PlacingReader(Protocol):
    """What a reader may be able to do besides: to put bytes where tensors stand, past the ring."""

    def place(self, landing: Landing, op: ReadOp, start: int, end: int) -> int | None:
        """Makes the bytes `[start, end)` of the blob stand there; returns how many requests that took.

        None where it cannot: then they are read into a slot.

        Raises:
            ReadError: with uri, offset and length.
        """
        ...
