"""Reads past the page cache, straight from the device into memory of our own."""

from __future__ import annotations

import errno
import os

from slipstream.errors import ReadError
from slipstream.reading.base import NoteFallback
from slipstream.reading.buffers import EndLease, Region, map_region
from slipstream.reading.file import OpenFile
from slipstream.reading.memory import PAGE_BYTES
from slipstream.sources.page_cache import count_cached_bytes
from slipstream.transport.transfer import Transfer
from slipstream.types import Blob, ReadOp

_REFUSALS = frozenset((errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS))


class DirectReader:
    """O_DIRECT preadv(2) of whole pages; ranges that are cached already are copied from the cache.

    A cached range is copied with RWF_NOWAIT, which never waits for the device. It is only tried where
    the page cache is known to hold all of the range: on a miss, Linux would start its read-ahead and
    so read the same bytes twice (seen on 6.18: 8 MiB cached by a call that returned EAGAIN).
    """

    def __init__(self, blob: Blob, note_fallback: NoteFallback) -> None:
        self._file = OpenFile(blob)
        self._note_fallback = note_fallback
        self._descriptor: int | None = None
        self._bypasses = True
        self._copies_cached = True
        try:
            self._descriptor = self._file.open_again(os.O_DIRECT)
        except OSError as error:
            self._fall_back(error.strerror or str(error))

    @property
    def descriptor(self) -> int:
        """Of the file, for reading through the page cache."""
        return self._file.descriptor

    def map_op(self, op: ReadOp, end_lease: EndLease) -> Region:
        """See BlobReader."""
        return map_region(op.start, op.end, None, end_lease)

    def read(self, region: Region, start: int, end: int, transfer: Transfer) -> int:
        """See BlobReader."""
        if not region.pages or not self._bypasses:
            return self._file.read_buffered(region, start, end)
        start, requests = self._copy_cached(region, start, end)
        while start < end and self._bypasses and self._descriptor is not None:
            count = self._read_direct(self._descriptor, region, start - start % PAGE_BYTES, end)
            requests += 1
            if count is None:
                break
            start += count - start % PAGE_BYTES
            if start % PAGE_BYTES:
                break  # a short read ended inside a page: the device cannot go on from there
        return requests + self._file.read_buffered(region, start, end)

    def _copy_cached(self, region: Region, start: int, end: int) -> tuple[int, int]:
        """Copies the range if it is in the page cache: (where it got to, requests made)."""
        first = start - start % PAGE_BYTES
        if not self._copies_cached or count_cached_bytes(self._file.descriptor, first, end - first) != end - first:
            return start, 0
        try:
            return start + os.preadv(self._file.descriptor, [region.slice(start, end)], start, os.RWF_NOWAIT), 1
        except BlockingIOError:
            return start, 1  # evicted since
        except OSError as error:
            self._copies_cached = False
            self._note_fallback(f"RWF_NOWAIT was refused ({error.strerror}): cached pages are read from the device")
            return start, 1

    def _read_direct(self, descriptor: int, region: Region, first: int, end: int) -> int | None:
        """Reads whole pages from `first` on, also those beyond the file's end; None where it is refused."""
        pages_end = -(-end // PAGE_BYTES) * PAGE_BYTES
        try:
            return self._file.read_some(descriptor, region.slice(first, pages_end), first, end)
        except ReadError as error:
            # The cause is never bound to a name here: it would refer to itself through this frame, and
            # keep the region until the garbage collector comes by.
            if getattr(error.__cause__, "errno", None) not in _REFUSALS:
                raise
            self._fall_back(str(error.__cause__))
            return None

    def _fall_back(self, refusal: str) -> None:
        self._bypasses = False
        self._note_fallback(f"O_DIRECT was refused ({refusal}): read through the page cache instead")

    def check_unchanged(self) -> None:
        """See BlobReader."""
        self._file.check_unchanged()

    def close(self) -> None:
        """See BlobReader."""
        self._file.close()
        if self._descriptor is not None:
            os.close(self._descriptor)
