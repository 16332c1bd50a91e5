"""Private mappings of the file whose pages are populated in parallel: no copy, nearly no CPU."""

from __future__ import annotations

import errno

from slipstream.reading.base import NoteFallback
from slipstream.reading.buffers import EndLease, Region, map_region
from slipstream.reading.file import OpenFile
from slipstream.reading.memory import PAGE_BYTES, populate
from slipstream.transport.transfer import Transfer
from slipstream.types import Blob, ReadOp

_SCRATCH_BYTES = 1 << 20


class MappedReader:
    """Maps the file and lets the kernel read it: mmap(2) and madvise(2) with MADV_POPULATE_READ.

    Populating, rather than leaving it to page faults, keeps many reads in flight, and a disk that
    fails is an error here and not a SIGBUS in the caller.
    """

    def __init__(self, blob: Blob, note_fallback: NoteFallback, *, huge_pages: bool, exact: bool = False) -> None:
        self.file = OpenFile(blob, exact=exact)
        self._exact = exact
        self._huge_pages = huge_pages
        self._note_fallback = note_fallback

    def map_op(self, op: ReadOp, end_lease: EndLease) -> Region:
        """See BlobReader. Where the file cannot be mapped, memory of our own takes its place.

        It does too for what is copied from here: a mapping of a file that is truncated would take the
        process down at the copy, and a read does not.
        """
        if op.copies:
            return map_region(op.start, op.end, None, end_lease)
        try:
            return map_region(
                op.start,
                op.end,
                self.file.descriptor,
                end_lease,
                huge_pages=self._huge_pages,
                exact=self._exact,
            )
        except OSError as error:
            self._note_fallback(f"mapping was refused ({error.strerror}): read through the page cache instead")
            return map_region(op.start, op.end, None, end_lease)

    def read(self, region: Region, start: int, end: int, transfer: Transfer) -> int:
        """See BlobReader."""
        if not region.maps_file:
            return self.file.read_buffered(region, start, end)
        first = start - start % PAGE_BYTES
        if self._exact:
            self.file.ask_for(first, end)
        try:
            populate(region.address + first - region.base, end - first)
            return 1
        except OSError as error:
            return 1 + self._read_into_cache(start, end, error)

    def _read_into_cache(self, start: int, end: int, refusal: OSError) -> int:
        """Brings the range into the page cache by plain reads: the mapping then finds it there.

        So kernels before 5.14 are served, and where a page could not be read, the read says why.
        """
        scratch = bytearray(min(_SCRATCH_BYTES, end - start))
        requests = 0
        while start < end:
            target = memoryview(scratch)[: end - start]
            start += self.file.read_some(self.file.descriptor, target, start, end)
            requests += 1
        name = errno.errorcode.get(refusal.errno or 0, "unknown")
        self._note_fallback(f"MADV_POPULATE_READ was refused ({name}): read into the page cache by plain reads instead")
        return requests

    def check_unchanged(self) -> None:
        """See BlobReader."""
        self.file.check_unchanged()

    def close(self) -> None:
        """See BlobReader."""
        self.file.close()
