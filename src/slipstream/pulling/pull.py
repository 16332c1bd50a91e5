"""Copies files from where they are stored into a directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from slipstream.options import Options
from slipstream.sources.locate import Uri
from slipstream.sources.registry import StorageOptionsGiven
from slipstream.types import Progress


def pull(
    uri: Uri,
    directory: str | os.PathLike[str],
    *,
    allow: str | Sequence[str] | None = None,
    ignore: str | Sequence[str] | None = None,
    options: Options | None = None,
    storage_options: StorageOptionsGiven | None = None,
    progress: bool | Callable[[Progress], object] = False,
) -> tuple[Path, ...]:
    """Makes a directory hold the files that lie under a URI: config, tokenizer, weights, or all of it.

        slipstream.pull("s3://models/llama/", "llama/", ignore="*.safetensors")

    What is there already with the size and ETag of the store is not fetched again. Several files and several ranges of
    each come at once. A file appears under its name when it is whole and on the disk, and not before; one that was
    interrupted goes on from the bytes that are there, if its ETag is still the same. Nothing is removed. What is
    known of the files is kept in `directory/.slipstream/`, which may be deleted at any time.

    Many processes and threads may pull into one directory at once: one does, the others wait for it. A process that is
    killed blocks nobody. Nothing is ever written outside the directory, whatever the names in the store are.

    Args:
        uri: what `list_files` takes: a directory, a prefix, a file or an object, or a URL of a file or index.
        directory: where to; it is made if need be.
        allow: an fnmatch pattern or several, of the path relative to `uri`: only what matches one of them. `*` crosses
            slashes. None is all.
        ignore: likewise: nothing that matches one of them.
        options: how to read; see Options. Where it has no `memory_limit`, 512 MiB are used.
        storage_options: as in `stream`.
        progress: as in `stream`; its tensors are files, and both figures are of what has to be fetched.

    Returns:
        The local paths of all that matched, fetched now or before, sorted.

    Raises:
        UsageError: arguments that cannot work; a name that cannot be a file in the directory.
        BlobNotFoundError, AccessDeniedError, ReadError: as `list_files`, and while fetching.
        BlobChangedError: a file was replaced in the store while it was fetched.
        WriteError: the directory cannot be written: the disk is full, or its permissions forbid it.
    """
    raise NotImplementedError
