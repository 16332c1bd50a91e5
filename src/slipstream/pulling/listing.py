"""Lists and reads blobs of any kind: not only checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from slipstream.describe import find_shards, read_index
from slipstream.errors import BlobChangedError, BlobNotFoundError
from slipstream.options import Options
from slipstream.pulling.names import check_paths, is_own, make_filter
from slipstream.sources.base import TreeSource
from slipstream.sources.locate import Uri, as_text
from slipstream.sources.registry import Sources, StorageOptionsGiven
from slipstream.types import Blob, ListedFile

_MAGIC = re.compile(r"[*?\[]")


def list_files(
    uri: Uri,
    *,
    recursive: bool = True,
    allow: str | Sequence[str] | None = None,
    ignore: str | Sequence[str] | None = None,
    options: Options | None = None,
    storage_options: StorageOptionsGiven | None = None,
) -> tuple[Blob, ...]:
    """Lists every blob under a directory or prefix, safetensors or not.

    Args:
        uri: a directory, an s3://, gs:// or az:// prefix with or without a slash at its end, or one file or object,
            which is then the only one. HTTP has no listings: a URL is a file, or a `*.index.json`, which
            stands for itself and the shards that it names.
        recursive: whether folders beneath it are listed too.
        allow: an fnmatch pattern or several, of the path relative to `uri`: only what matches one of them. `*` crosses
            slashes. None is all.
        ignore: likewise: nothing that matches one of them.
        options: timeouts and retries; see Options.
        storage_options: as in `stream`.

    Returns:
        The blobs with size and ETag, sorted by URI; none where no pattern matches.

    Raises:
        UsageError: a URI or pattern that cannot work.
        BlobNotFoundError: there is nothing of that name.
        AccessDeniedError: it may not be listed.
        ReadError: the storage failed.
    """
    is_wanted = make_filter(allow, ignore)
    with Sources(storage_options, options) as sources:
        found = _list_under(as_text(uri), sources, recursive=recursive)
    return tuple(sorted((file.blob for file in found if is_wanted(file.path)), key=lambda blob: blob.uri))


def read_file(uri: Uri, *, options: Options | None = None, storage_options: StorageOptionsGiven | None = None) -> bytes:
    """Reads one small blob as a whole, such as a config.json. From a store: one request up to 96 KiB, else two.

    Args:
        uri: a file, an s3://, gs:// or az:// object, or a URL.
        options: timeouts and retries; see Options.
        storage_options: as in `stream`.

    Returns:
        All its bytes, which are the caller's.

    Raises:
        UsageError, BlobNotFoundError, AccessDeniedError: as `list_files`.
        BlobChangedError: it was replaced while it was read.
        ReadError: the storage failed.
    """
    with Sources(storage_options, options) as sources:
        source = sources.find(as_text(uri))
        blob = source.find_file(as_text(uri))
        data = source.read_range(blob, 0, blob.size)
    if len(data) != blob.size:
        raise BlobChangedError(
            f"{blob.uri} had {blob.size:,} bytes, and now {len(data):,}: read it again once its writer is done",
            uri=blob.uri,
        )
    return data


def list_wanted(uri: Uri, is_wanted: Callable[[str], bool], sources: Sources) -> tuple[ListedFile, ...]:
    """The files under a URI that are to become files of a directory: those that are wanted, none of a pull's own.

    Raises:
        UsageError: paths among them that cannot be files below one directory.
        SlipstreamError: as `list_files`.
    """
    text = as_text(uri)
    found = _list_under(text, sources, recursive=True)
    wanted = {file.path: file for file in found if is_wanted(file.path) and not is_own(file.path)}
    if wanted:
        first = next(iter(wanted.values()))
        check_paths(wanted, first.blob.uri.removesuffix(first.path))
    return tuple(wanted.values())


def _list_under(uri: str, sources: Sources, *, recursive: bool) -> tuple[ListedFile, ...]:
    source = sources.find(uri)
    if isinstance(source, TreeSource):
        try:
            return source.list_tree(uri, recursive=recursive)
        except BlobNotFoundError as error:
            if not _MAGIC.search(uri):
                raise
            error.message += "; here a glob is no URI: give the folder, and the pattern as allow="
            error.args = (error.message,)
            raise
    return _list_named(uri, sources)


def _list_named(uri: str, sources: Sources) -> tuple[ListedFile, ...]:
    """What a URL stands for where nothing can be listed: itself, and the shards that it names if it is an index."""
    listing = sources.find(uri).list_blobs(uri)
    if listing.index is None:
        return tuple(ListedFile(_last_name(blob), blob) for blob in listing.blobs)
    shards = find_shards(listing, read_index(listing.index, sources), sources)
    itself = ListedFile(_last_name(listing.index), listing.index)
    return (itself, *(ListedFile(name, blob) for name, blob in shards.items()))


def _last_name(blob: Blob) -> str:
    from urllib.parse import unquote, urlsplit  # here, because it costs an eighth of `import slipstream`

    return unquote(urlsplit(blob.uri).path.rpartition("/")[2])
