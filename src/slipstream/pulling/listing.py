"""Lists and reads blobs of any kind: not only checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

from slipstream.options import Options
from slipstream.sources.locate import Uri
from slipstream.sources.registry import StorageOptionsGiven
from slipstream.types import Blob


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
    raise NotImplementedError


def read_file(
    uri: Uri, *, options: Options | None = None, storage_options: StorageOptionsGiven | None = None
) -> bytes:
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
    raise NotImplementedError
