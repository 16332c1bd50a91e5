"""GPUDirect Storage: from the device that stores into the memory of the device that computes, past the host.

By KvikIO, which is optional. What cannot go that way goes through the ring, as everything else does: small tensors,
those that are cast, the columns of a shard, and all of it once a read was refused.
"""

from __future__ import annotations

from typing import Any

from slipstream.errors import ReadError
from slipstream.reading.base import Landing, NoteFallback, OpenLanding
from slipstream.reading.buffers import EndLease, Region
from slipstream.reading.direct import DirectReader
from slipstream.reading.file import OpenFile
from slipstream.transport.transfer import Transfer
from slipstream.types import Blob, ReadOp

_SMALLEST_BYTES = 1 << 20  # below it KvikIO itself takes the way through the host ("GDS threshold")


class GdsReader:
    """cuFile reads into device memory; a BlobReader for the rest, and a PlacingReader."""

    def __init__(self, blob: Blob, note_fallback: NoteFallback, *, exact: bool = False) -> None:
        self._blob = blob
        self._note_fallback = note_fallback
        self._direct = DirectReader(blob, note_fallback, exact=exact)
        self._file: Any = None
        try:
            self._file = open_for_gds(self.file.descriptor)
        except (ImportError, OSError, RuntimeError) as error:
            self._fall_back(error)

    @property
    def file(self) -> OpenFile:
        """See FileReader."""
        return self._direct.file

    def map_op(self, op: ReadOp, end_lease: EndLease) -> Region:
        """See BlobReader."""
        return self._direct.map_op(op, end_lease)

    def read(self, region: Region, start: int, end: int, transfer: Transfer) -> int:
        """See BlobReader."""
        return self._direct.read(region, start, end, transfer)

    def place(self, landing: Landing, op: ReadOp, start: int, end: int) -> int | None:
        """See PlacingReader."""
        is_one_range = len(op.tensors) == 1 and op.piece_bytes == 1 and op.gather is None
        if self._file is None or not is_one_range or op.nbytes < _SMALLEST_BYTES:
            return None
        if not isinstance(landing, OpenLanding):
            return None
        buffer, requests = landing.wait_buffer(), 0
        while start < end:
            try:
                count = self._file.raw_read(buffer, end - start, start, start - op.start)
            except (OSError, RuntimeError) as error:
                self._fall_back(error)
                return None
            if not count:
                raise ReadError(
                    f"{self._blob.uri} ended at offset {start}, {end - start} bytes early: "
                    "it was truncated while it was loaded",
                    uri=self._blob.uri,
                    offset=start,
                    length=end - start,
                )
            start += count
            requests += 1
        return requests

    def check_unchanged(self) -> None:
        """See BlobReader."""
        self._direct.check_unchanged()

    def close(self) -> None:
        """See BlobReader."""
        if self._file is not None:
            self._file.close()
        self._direct.close()

    def _fall_back(self, error: Exception) -> None:
        first = str(error).partition("\n")[0]
        self._file = None  # what reads by it meanwhile keeps it open
        self._note_fallback(f"GPUDirect Storage was refused ({first}): read through the ring instead")


def open_for_gds(descriptor: int) -> Any:
    """The file that a descriptor stands for, opened and registered by KvikIO.

    Raises:
        ImportError: KvikIO is not installed.
        OSError, RuntimeError: it, the driver or the file system cannot.
    """
    import kvikio
    import kvikio.defaults

    if kvikio.defaults.is_compat_mode_preferred():
        raise RuntimeError("cuFile does not work here: KvikIO would read through the host")
    return kvikio.CuFile(f"/proc/self/fd/{descriptor}", "r")
