"""Checkpoints in object stores: S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage.

Listings come from here; the bytes of blobs are read over plain HTTP with the grants that `access` gives.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from threading import Lock

from slipstream.errors import AccessDeniedError, BlobNotFoundError, ReadError, SlipstreamError, UsageError
from slipstream.sources.azure_credentials import complete_azure_options
from slipstream.sources.base import SigningRefusedError
from slipstream.sources.credentials import Container
from slipstream.sources.granting import StoreAccess
from slipstream.sources.locations import Location, parse_location
from slipstream.sources.remote import RemoteReads, remote_facts
from slipstream.sources.shard_names import SUFFIX, choose_index, is_index
from slipstream.sources.storage_options import StorageOptions
from slipstream.sources.store_requests import (
    PrefixListing,
    StoredObject,
    find_object,
    get_range,
    list_prefix,
    list_tree,
)
from slipstream.transport.access import StoreKind
from slipstream.transport.client import RangeClient
from slipstream.types import Blob, ListedFile, Listing, StorageFacts

_MAGIC = re.compile(r"[*?\[]")


class ObjectStoreSource:
    """Finds and reads checkpoints in the stores of one kind, for one call. See Source and RemoteSource."""

    def __init__(self, kind: StoreKind, options: StorageOptions, client: RangeClient) -> None:
        """
        Args:
            kind: of store.
            options: how the stores are reached.
            client: what reads over HTTP.
        """
        self.kind = kind
        self.options = options
        self._reads = RemoteReads(client)
        self._lock = Lock()  # guards the two below, also while a prefix is being listed
        self._tables: dict[str, dict[str, Blob]] = {}  # by URI of the prefix and key
        self._accesses: dict[str, StoreAccess] = {}

    def __repr__(self) -> str:
        return f"ObjectStoreSource({self.kind!r}, {self.options!r})"

    def list_blobs(self, uri: str) -> Listing:
        """Finds what a URI stands for. What is named `*.safetensors` is a blob, asked for without a listing.

        Raises:
            UsageError: a URI of no known form; several shard indexes; credentials that do not fit together.
            BlobNotFoundError: no such bucket, blob or prefix, or nothing in it that slipstream reads.
            AccessDeniedError: it may not be read or listed, or there are no credentials.
            ReadError: the store or the network failed.
        """
        location = parse_location(uri)
        if is_index(location.name):
            return Listing(uri, (), self._discover(location))
        if location.name.endswith(SUFFIX) and not _MAGIC.search(location.key):
            return Listing(uri, (self._discover(location),))
        if _MAGIC.search(location.key):
            return self._list_glob(uri, location)
        return self._list_prefix(uri, location)

    def find_blob(self, listing: Listing, name: str) -> Blob:
        """The blob that a shard index names, with size and ETag from one listing of the index's prefix.

        Raises:
            BlobNotFoundError: the shard is missing.
        """
        assert listing.index is not None, "only a shard index names other blobs"
        shard = parse_location(parse_location(listing.index.uri).parent.uri)
        shard = shard.at(shard.key + name)
        try:
            table = self._table(shard.parent)
        except AccessDeniedError:  # who may read objects need not be allowed to list them
            return self._discover(shard)
        if shard.key not in table:
            near = _nearest(shard.name, [key.rpartition("/")[2] for key in table])
            raise BlobNotFoundError(f"{listing.index.uri} names {shard.uri}, which does not exist{near}", uri=shard.uri)
        return table[shard.key]

    def find_file(self, uri: str) -> Blob:
        """See Source."""
        location = parse_location(uri)
        if not location.name:
            raise UsageError(f"{location.uri} is a prefix, not an object: give the URI of one object", uri=location.uri)
        return self._discover(location)

    def list_tree(self, uri: str, *, recursive: bool = True) -> tuple[ListedFile, ...]:
        """See TreeSource. Where there is both an object and a prefix of a name, it is the prefix."""
        location = parse_location(uri)
        prefix = _as_prefix(location)
        try:
            listing = None if recursive else self._list(prefix)
            found = listing.objects if listing else list_tree(self._container(prefix), prefix.key)
        except AccessDeniedError:
            if not location.name:
                raise
            return (ListedFile(location.name, self._discover(location)),)  # read, perhaps, but not listed
        files = _files_under(prefix, found)
        if files or (listing and listing.prefixes):
            return files
        return (ListedFile(location.name, self._list_named(uri, location).blobs[0]),)

    def access(self, blob: Blob) -> StoreAccess:
        """What the blob's bytes are asked for with. Makes no request; the grants of a blob are shared.

        Raises:
            UsageError: its URI is of no known form.
        """
        return self._access(parse_location(blob.uri))

    def read_range(self, blob: Blob, start: int, end: int) -> bytes:
        """See Source."""
        try:
            return self._reads.read_range(self.access(blob), blob, start, end)
        except SigningRefusedError:
            return self.read_range_by_store(blob, start, min(end, blob.size))

    def see_facts(self, blob: Blob) -> StorageFacts:
        """See Source."""
        return remote_facts(self.access(blob))

    def read_range_by_store(self, blob: Blob, start: int, end: int) -> bytes:
        """Reads `[start, end)` through obstore: the last resort, where `access` cannot grant a plain request.

        Raises:
            BlobChangedError: the blob has another ETag now.
            ReadError: the store failed, or gave fewer bytes than the blob has in that range.
        """
        location = parse_location(blob.uri)
        data = get_range(self._container(location), location.key, start, end, blob.etag)
        wanted = min(end, blob.size) - start
        if len(data) != wanted:
            text = f"{blob.uri}: the store gave {len(data):,} bytes of the {wanted:,} at offset {start:,}: load again"
            raise ReadError(text, uri=blob.uri, offset=start, length=wanted)
        return data

    def _access(self, location: Location) -> StoreAccess:
        with self._lock:
            found = self._accesses.get(location.uri)
            if found is None:
                found = StoreAccess(location.uri, self._container(location), location.key)
                self._accesses[location.uri] = found
            return found

    def _container(self, location: Location) -> Container:
        options = complete_azure_options(self.options) if self.kind == "az" else self.options
        root, account, endpoint = location.root, location.account, location.endpoint
        return Container(self.kind, location.container, root, account, endpoint, options)

    def _discover(self, location: Location) -> Blob:
        """Size and ETag of a blob that was named and not listed."""
        try:
            return self._reads.discover(self._access(location))
        except SigningRefusedError:
            return _blob(location, find_object(self._container(location), location.key))
        except BlobNotFoundError as error:
            missing = error
        missing.message += self._near_names(location)
        missing.args = (missing.message,)
        raise missing.with_traceback(None)

    def _near_names(self, location: Location) -> str:
        try:
            return _nearest(location.name, _names(self._list(location.parent)))
        except SlipstreamError:
            return ""

    def _list(self, location: Location) -> PrefixListing:
        return list_prefix(self._container(location), location.key)

    def _table(self, location: Location, listing: PrefixListing | None = None) -> dict[str, Blob]:
        """The blobs directly under a prefix by key, listed once."""
        with self._lock:
            table = self._tables.get(location.uri)
            if table is None:
                listing = listing or self._list(location)
                table = self._tables[location.uri] = {stored.key: _blob(location, stored) for stored in listing.objects}
            return table

    def _list_prefix(self, uri: str, location: Location) -> Listing:
        """A prefix: its shard index where it has one, else all its safetensors objects."""
        prefix = _as_prefix(location)
        listing = self._list(prefix)
        table = self._table(prefix, listing)
        names = {key.rpartition("/")[2]: blob for key, blob in table.items()}
        index = choose_index(names, uri)
        if index is not None:
            return Listing(uri, (), names[index])
        shards = tuple(names[name] for name in sorted(names) if name.endswith(SUFFIX))
        if shards:
            return Listing(uri, shards)
        if names or listing.prefixes:
            found = _names(listing)
            shown = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
            raise BlobNotFoundError(f"{prefix.uri} has no *{SUFFIX} object; it holds {shown or 'nothing'}", uri=uri)
        return self._list_named(uri, location)

    def _list_named(self, uri: str, location: Location) -> Listing:
        """What has nothing under it: a blob without the usual name, or a mistake."""
        if not location.key:
            raise BlobNotFoundError(f"{location.uri} is empty: it holds no object", uri=uri)
        beside = self._list(location.parent)
        for stored in beside.objects:
            if stored.key == location.key:
                return Listing(uri, (_blob(location, stored),))
        near = _nearest(location.key.rstrip("/").rpartition("/")[2], _names(beside))
        raise BlobNotFoundError(f"{location.uri} is neither an object nor a prefix of any{near}", uri=uri)

    def _list_glob(self, uri: str, location: Location) -> Listing:
        """Of the objects that match, those with the usual suffix; where none has it, all."""
        literal = location.key[: _MAGIC.search(location.key).start()].rpartition("/")[0]  # type: ignore[union-attr]
        prefix = location.at(literal + "/" if literal else "")
        deep = "/" in location.key[len(prefix.key) :] or "**" in location.key
        found = list_tree(self._container(prefix), prefix.key) if deep else self._list(prefix).objects
        if exact := [stored for stored in found if stored.key == location.key]:
            return Listing(uri, (_blob(location, exact[0]),))  # as with files, what exists is taken literally
        pattern = re.compile(_translate(location.key))
        blobs = [_blob(location, stored) for stored in found if pattern.fullmatch(stored.key)]
        blobs = [blob for blob in blobs if blob.uri.endswith(SUFFIX)] or blobs
        if not blobs:
            names = [stored.key.rpartition("/")[2] for stored in found]
            raise BlobNotFoundError(f"nothing matches {location.uri}{_nearest(location.name, names)}", uri=uri)
        return Listing(uri, tuple(sorted(blobs, key=lambda blob: blob.uri)))


def _blob(location: Location, stored: StoredObject) -> Blob:
    return Blob(location.at(stored.key).uri, stored.size, stored.etag)


def _as_prefix(location: Location) -> Location:
    """The same with a slash at its end; a container alone has none."""
    return location if location.key.endswith("/") or not location.key else location.at(location.key + "/")


def _files_under(prefix: Location, found: Iterable[StoredObject]) -> tuple[ListedFile, ...]:
    """Objects by their paths under a prefix. Empty ones with a folder's name mark that folder: consoles make them."""
    start = len(prefix.key)
    paths = {stored.key[start:]: stored for stored in found if stored.key.startswith(prefix.key)}
    folders = _folders(paths)
    return tuple(
        ListedFile(path, _blob(prefix, stored))
        for path, stored in sorted(paths.items())
        if path and (stored.size or path not in folders)
    )


def _folders(paths: Iterable[str]) -> set[str]:
    """Every folder that one of the paths lies in."""
    folders: set[str] = set()
    for path in paths:
        while (path := path.rpartition("/")[0]) and path not in folders:
            folders.add(path)
    return folders


def _names(listing: PrefixListing) -> list[str]:
    """What lies under a prefix, by its last component, prefixes with a slash."""
    objects = sorted(stored.key.rpartition("/")[2] for stored in listing.objects)
    return [*filter(None, objects), *(name + "/" for name in sorted(listing.prefixes))]


def _nearest(name: str, names: list[str]) -> str:
    """Names what may have been meant, for the message."""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return f"; there is {', '.join(near)}"
    shown = ", ".join(sorted(filter(None, names))[:5])
    return f"; beside it there is {shown}{', ...' if len(names) > 5 else ''}" if shown else ""


def _translate(pattern: str) -> str:
    """A glob as a regular expression: `*` and `?` stay within a component, `**` crosses them."""
    parts: list[str] = []
    for piece in re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^]]+\])", pattern):
        special: Mapping[str, str] = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
        if piece in special:
            parts.append(special[piece])
        elif piece.startswith("[") and piece.endswith("]"):
            inner = piece[1:-1].replace("\\", "\\\\")
            parts.append("[" + ("^" + inner[1:] if inner.startswith("!") else inner) + "]")
        else:
            parts.append(re.escape(piece))
    return "".join(parts)
