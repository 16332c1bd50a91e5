"""The seam between slipstream and a place where blobs are stored."""

from __future__ import annotations

from typing import Protocol

from slipstream.types import Blob, Listing, StorageFacts


class Source(Protocol):
    """A kind of storage. Stateless and safe to use from several threads at once."""

    def list_blobs(self, uri: str) -> Listing:
        """Finds what a URI stands for: a blob, a directory or a glob.

        Raises:
            BlobNotFoundError: there is no such thing, or nothing in it that slipstream reads.
            AccessDeniedError: it may not be listed.
        """
        ...

    def find_blob(self, listing: Listing, name: str) -> Blob:
        """Finds the blob that a shard index names, beside that index.

        Raises:
            BlobNotFoundError: the shard is missing.
        """
        ...

    def read_range(self, blob: Blob, start: int, end: int) -> bytes:
        """Reads `[start, end)`, or what of it lies before the end of the blob. For headers and indexes.

        Raises:
            ReadError: the storage failed.
        """
        ...

    def see_facts(self, blob: Blob) -> StorageFacts:
        """Looks at the blob's storage without reading from it."""
        ...
