"""What the three file readers share: an open file that is the one whose header was read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from threading import Lock

from slipstream.errors import BlobChangedError, ReadError
from slipstream.reading.buffers import Region
from slipstream.reading.memory import PAGE_BYTES, map_file, populate, unmap
from slipstream.sources.file import explain_os_error, file_etag
from slipstream.types import Blob

# What posix_fadvise(2) reads at once is bounded by the device's read-ahead, which is mostly at least this.
_ASKED_AT_ONCE = 128 << 10


class OpenFile:
    """A file held open for reading through the page cache. Safe to use from many threads."""

    def __init__(self, blob: Blob, *, exact: bool = False, huge_pages: bool = False) -> None:
        """
        Args:
            exact: whether reads bring no more into the page cache than they ask for.
            huge_pages: whether `bring_in` shall use them, which makes the kernel read ahead by more.
        """
        self.blob = blob
        self._huge_pages = huge_pages
        self._direct: int | None = None
        self._opening = Lock()
        try:
            self.descriptor = os.open(blob.uri, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise explain_os_error(error, blob.uri) from error
        try:
            self.check_unchanged()
            if exact:
                os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        except BaseException:
            self.close()
            raise

    def check_unchanged(self) -> None:
        """Raises BlobChangedError where content or identity changed since the header was read."""
        if self.blob.etag is not None and file_etag(os.fstat(self.descriptor)) != self.blob.etag:
            raise BlobChangedError(
                f"{self.blob.uri} was changed while it was loaded: load it again once its writer is done",
                uri=self.blob.uri,
            )

    def open_again(self, flags: int) -> int:
        """Another descriptor of the very same file, which a second open by its path might not give.

        Raises:
            OSError: the flags are refused, or there is no /proc.
        """
        return os.open(f"/proc/self/fd/{self.descriptor}", os.O_RDONLY | os.O_CLOEXEC | flags)

    def open_direct(self) -> int:
        """A descriptor that bypasses the page cache, opened by the first call and closed with the file.

        Raises:
            OSError: as `open_again`.
        """
        with self._opening:
            if self._direct is None:
                self._direct = self.open_again(os.O_DIRECT)
            return self._direct

    def ask_for(self, start: int, end: int) -> None:
        """Begins to read just this range into the page cache, without waiting for it."""
        for piece in range(start, end, _ASKED_AT_ONCE):
            os.posix_fadvise(self.descriptor, piece, min(_ASKED_AT_ONCE, end - piece), os.POSIX_FADV_WILLNEED)

    def bring_in(self, start: int, end: int) -> None:
        """Reads a range into the page cache with the kernel's read-ahead, and waits for it; copies nothing.

        What cannot be read so is left to whoever reads it next, who is told why.
        """
        base = start - start % PAGE_BYTES
        with contextlib.suppress(OSError):
            address = map_file(self.descriptor, base, end - base, huge_pages=self._huge_pages)
            try:
                populate(address, end - base)
            finally:
                unmap(address, end - base)

    def read_buffered(self, region: Region, start: int, end: int) -> int:
        """Copies `[start, end)` out of the page cache, which reads what it lacks; returns the requests made."""
        requests = 0
        while start < end:
            start += self.read_some(self.descriptor, region.slice(start, end), start, end)
            requests += 1
        return requests

    def copy_pieces(self, pieces: Iterable[tuple[int, int, int]], target: memoryview) -> int:
        """Copies many pieces out of the page cache, which reads what it lacks; returns the requests made.

        Args:
            pieces: start in the file, length, and place in the target of each.
            target: where they go.

        Raises:
            ReadError: as `read_some`.
        """
        descriptor, requests = self.descriptor, 0
        for start, length, place in pieces:
            piece = target[place : place + length]
            count = 0
            while count < length:
                count += self.read_some(descriptor, piece[count:], start + count, start + length)
                requests += 1
        return requests

    def read_some(self, descriptor: int, target: memoryview, start: int, end: int) -> int:
        """One preadv(2) of this file from `start` on, by whichever descriptor; returns the bytes read, at least 1.

        Raises:
            ReadError: the storage failed, or the file ends before `end`, which it should not.
        """
        try:
            count = os.preadv(descriptor, [target], start)
        except OSError as error:
            raise explain_os_error(error, self.blob.uri, start, end - start) from error
        if count == 0:
            raise ReadError(
                f"{self.blob.uri} ended at offset {start}, {end - start} bytes early: "
                "it was truncated while it was loaded",
                uri=self.blob.uri,
                offset=start,
                length=end - start,
            )
        return count

    def close(self) -> None:
        """Closes the descriptors."""
        os.close(self.descriptor)
        with self._opening:
            if self._direct is not None:
                os.close(self._direct)
                self._direct = None
