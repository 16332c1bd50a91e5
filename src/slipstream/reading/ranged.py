"""Ranges over HTTP, received straight into the memory that tensors stand in."""

from __future__ import annotations

from slipstream.reading.base import NoteFallback
from slipstream.reading.buffers import EndLease, Region, map_region
from slipstream.sources.base import RemoteSource, SigningRefusedError
from slipstream.transport.answers import Pin
from slipstream.transport.client import RangeClient
from slipstream.transport.transfer import Transfer
from slipstream.types import Blob, ReadOp


class RangedReader:
    """Reads one blob by GET requests of ranges. Nothing is held open: connections are the client's.

    This is the seam for reading in several processes: whoever hands out regions of shared memory here, and passes
    `(blob, start, end)` on to a process that receives into them, is another BlobReader and nothing more.
    """

    def __init__(self, blob: Blob, source: RemoteSource, client: RangeClient, note_fallback: NoteFallback) -> None:
        self._blob = blob
        self._source = source
        self._client = client
        self._note_fallback = note_fallback
        self._access = source.access(blob)
        self._pin = Pin(blob.size, blob.etag)
        self._by_store = False

    def map_op(self, op: ReadOp, end_lease: EndLease) -> Region:
        """See BlobReader."""
        return map_region(op.start, op.end, None, end_lease)

    def read(self, region: Region, start: int, end: int, transfer: Transfer) -> int:
        """See BlobReader."""
        if not self._by_store:
            try:
                self._client.read_into(self._access, self._pin, start, region.slice(start, end), transfer)
                return transfer.requests
            except SigningRefusedError as error:
                self._by_store = True
                self._note_fallback(f"{error}: read by obstore instead, which copies every byte once more")
        return self._read_by_store(region, start, end, transfer)

    def check_unchanged(self) -> None:
        """See BlobReader. Every single request has checked it."""

    def close(self) -> None:
        """See BlobReader."""

    def _read_by_store(self, region: Region, start: int, end: int, transfer: Transfer) -> int:
        data = self._source.read_range_by_store(self._blob, start, end)
        self._client.count(requests=1)
        transfer.enter(_NothingToAbort())
        try:
            region.slice(start, end)[:] = data
            transfer.landed = end - start
        finally:
            transfer.leave()
        return 1


class _NothingToAbort:
    def abort(self) -> None:
        """A copy ends by itself."""
