"""What the sources of blobs behind HTTP share: first looks, headers, and the facts about such storage."""

from __future__ import annotations

import os
from threading import Lock

from slipstream.transport.access import BlobAccess
from slipstream.transport.answers import Pin
from slipstream.transport.client import RangeClient
from slipstream.transport.transfer import Transfer
from slipstream.types import Blob, StorageFacts

# Read at the first look at a blob, and kept until its header is asked for: as much as a header is guessed to have
# (formats' HEADER_GUESS_BYTES), so that size, ETag and header together take one round trip.
_FIRST_LOOK_BYTES = 96 << 10


class RemoteReads:
    """Reads headers and indexes of one call's blobs. Safe to use from many threads."""

    def __init__(self, client: RangeClient) -> None:
        self._client = client
        self._lock = Lock()
        self._seen: dict[str, bytes] = {}  # the beginnings of blobs that were discovered, by URI

    def discover(self, access: BlobAccess) -> Blob:
        """Finds out a blob's size and ETag by reading its beginning.

        Raises:
            SlipstreamError: see RangeClient.read_into.
        """
        data, pin = self._client.discover(access, _FIRST_LOOK_BYTES)
        with self._lock:
            self._seen[access.uri] = data
        return Blob(access.uri, pin.size, pin.etag)

    def read_range(self, access: BlobAccess, blob: Blob, start: int, end: int) -> bytes:
        """See Source. What the first look at the blob has brought is not asked for again."""
        end = min(end, blob.size)
        with self._lock:
            seen = self._seen.pop(blob.uri, b"")
        if end <= len(seen):
            return seen[start:end]
        data = bytearray(max(end - start, 0))
        if start < len(seen):
            data[: len(seen) - start] = seen[start:]
        landed = max(len(seen) - start, 0)
        target = memoryview(data)[landed:]
        if target:
            self._client.read_into(access, Pin(blob.size, blob.etag), start + landed, target, Transfer())
        return bytes(data)


def remote_facts(access: BlobAccess) -> StorageFacts:
    """The facts about a blob behind HTTP: blobs of one server share its bandwidth."""
    return StorageFacts(
        filesystem=access.kind,
        volume=access.endpoint,
        remote=True,
        in_memory=False,
        cached_bytes=None,
        read_ahead_bytes=None,
        huge_read_ahead=False,
        available_bytes=None,
        over_http=True,
        decrypting_cpus=len(os.sched_getaffinity(0)) if access.endpoint.startswith("https:") else None,
    )
