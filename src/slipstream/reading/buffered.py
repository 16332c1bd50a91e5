"""Plain reads in many threads, for file systems that can do neither of the other two well."""

from __future__ import annotations

from slipstream.reading.buffers import EndLease, Region, map_region
from slipstream.reading.file import OpenFile
from slipstream.transport.transfer import Transfer
from slipstream.types import Blob, ReadOp


class BufferedReader:
    """Copies through the page cache into memory of our own: preadv(2). Works everywhere."""

    def __init__(self, blob: Blob, *, exact: bool = False, huge_pages: bool = False) -> None:
        self.file = OpenFile(blob, exact=exact, huge_pages=huge_pages)

    def map_op(self, op: ReadOp, end_lease: EndLease) -> Region:
        """See BlobReader."""
        return map_region(op.start, op.end, None, end_lease)

    def read(self, region: Region, start: int, end: int, transfer: Transfer) -> int:
        """See BlobReader."""
        return self.file.read_buffered(region, start, end)

    def check_unchanged(self) -> None:
        """See BlobReader."""
        self.file.check_unchanged()

    def close(self) -> None:
        """See BlobReader."""
        self.file.close()
