"""Which source serves which URI. A new storage is a line here and one in schemes.py."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

from slipstream.errors import UsageError
from slipstream.options import Options
from slipstream.sources.base import Source
from slipstream.sources.file import FileSource
from slipstream.sources.schemes import SCHEMES
from slipstream.transport.access import StoreKind

if TYPE_CHECKING:
    from slipstream.transport.client import RangeClient

StorageOptionsGiven: TypeAlias = Mapping[str, object]
"""What a caller says about how object stores are reached."""


class Sources:
    """The sources of one call, with the options and the connections they share.

    A context manager whose exit closes the connections. Safe to use from several threads.
    """

    def __init__(self, storage_options: StorageOptionsGiven | None = None, options: Options | None = None) -> None:
        """
        Args:
            storage_options: how object stores are reached; see `stream`. Checked when the first of them is used.
            options: timeouts, retries and the like.
        """
        self._storage_options = storage_options
        self._options = options
        self._lock = RLock()
        self._file = FileSource()
        self._sources: dict[StoreKind, Source] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def find(self, uri: str) -> Source:
        """The source for a URI; what has no scheme is a path.

        Raises:
            UsageError: no source serves the scheme, or the storage options are wrong.
        """
        match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", uri)
        scheme = match[1].lower() if match else "file"
        if scheme == "file":
            return self._file
        if scheme not in SCHEMES:
            known = ", ".join(("file", *SCHEMES))
            raise UsageError(f'no source for "{scheme}://"; slipstream reads paths and {known}:// URIs', uri=uri)
        kind = SCHEMES[scheme]
        if scheme == "https" and "?" not in uri:
            from slipstream.sources.locations import is_blob_url

            kind = "az" if is_blob_url(uri) else kind
        with self._lock:
            return self._sources.get(kind) or self._sources.setdefault(kind, self._open(kind))

    @cached_property
    def client(self) -> RangeClient:
        """What reads over HTTP."""
        from slipstream.transport.client import RangeClient  # here, because sockets and TLS cost as much as the rest

        return RangeClient(self._options or Options())

    @property
    def network_used(self) -> bool:
        """Whether a source behind HTTP has been asked for."""
        return bool(self._sources)

    def close(self) -> None:
        """Closes idle connections; those in use are closed when their range ends. Safe to call again."""
        if self.network_used:
            self.client.close()

    def _open(self, kind: StoreKind) -> Source:
        from slipstream.sources.storage_options import parse_storage_options  # here, as all: few loads need them

        options = parse_storage_options(self._storage_options, kind)
        if kind == "http":
            from slipstream.sources.http import HttpSource

            return HttpSource(options, self.client)
        from slipstream.sources.object_store import ObjectStoreSource

        return ObjectStoreSource(kind, options, self.client)
