"""The seams between slipstream and a place where blobs are stored."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from slipstream.errors import AccessDeniedError
from slipstream.transport.access import BlobAccess
from slipstream.types import Blob, ListedFile, Listing, StorageFacts


class Source(Protocol):
    """A kind of storage, for one call. Safe to use from several threads at once."""

    def list_blobs(self, uri: str) -> Listing:
        """Finds what a URI stands for: a blob, a directory or prefix, or a glob.

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

    def find_file(self, uri: str) -> Blob:
        """Finds the one blob that a URI names, whatever kind of file it is. Asks for no listing.

        Raises:
            UsageError: the URI names a directory or prefix.
            BlobNotFoundError: there is no such blob.
            AccessDeniedError: it may not be read.
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


@runtime_checkable
class TreeSource(Source, Protocol):
    """A source that can tell what lies under a directory or prefix. Web servers cannot."""

    def list_tree(self, uri: str, *, recursive: bool = True) -> tuple[ListedFile, ...]:
        """Lists every blob under a directory or prefix, in the order of their paths; of a blob, that alone.

        Args:
            uri: taken literally: it is no glob.
            recursive: whether folders beneath it are listed too.

        Raises:
            BlobNotFoundError: there is no such directory, prefix or blob.
            AccessDeniedError: it may not be listed.
        """
        ...


@runtime_checkable
class RemoteSource(Source, Protocol):
    """A source whose blobs are read over HTTP."""

    def access(self, blob: Blob) -> BlobAccess:
        """What the blob's bytes are asked for with. Makes no request."""
        ...

    def read_range_by_store(self, blob: Blob, start: int, end: int) -> bytes:
        """Reads `[start, end)` by the store's own client: the last resort, where `access` cannot grant a plain request.

        Raises:
            SlipstreamError: there is no such client, or the store failed.
        """
        ...


class SigningRefusedError(AccessDeniedError):
    """These credentials read but may not sign: read through `RemoteSource.read_range_by_store`."""
