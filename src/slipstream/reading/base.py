"""The seam where ranges are read into memory: one BlobReader per blob and load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from slipstream.reading.buffers import EndLease, MapOp, Region
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
