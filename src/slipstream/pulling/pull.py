"""Copies files from where they are stored into a directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from slipstream.errors import UsageError
from slipstream.options import Options
from slipstream.progress import find_report
from slipstream.pulling.listing import list_wanted
from slipstream.pulling.names import make_filter
from slipstream.sources.locate import Uri
from slipstream.sources.registry import Sources, StorageOptionsGiven
from slipstream.sources.schemes import SCHEMES
from slipstream.types import ListedFile, Progress

if TYPE_CHECKING:
    from pathlib import Path


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
    known of the files is kept in `directory/.slipstream/`, which may be deleted while nobody pulls.

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
        progress: as in `stream`, and told once more at the end, also where nothing had to be fetched. Its tensors are
            files, and all figures are of what has to be fetched.

    Returns:
        The local paths of all that matched, fetched now or before, sorted.

    Raises:
        UsageError: arguments that cannot work; a name that cannot be a file in the directory.
        BlobNotFoundError, AccessDeniedError, ReadError: as `list_files`, and while fetching.
        BlobChangedError: a file was replaced in the store while it was fetched.
        WriteError: the directory cannot be written: the disk is full, or its permissions forbid it.
    """
    from pathlib import Path  # here, as all of it: few programs pull

    from slipstream.pulling.directory import Directory
    from slipstream.pulling.fetch import fetch, holds_all
    from slipstream.pulling.lock import hold_lock

    report = find_report(progress)
    options = options or Options()
    is_wanted = make_filter(allow, ignore)
    path = _as_path(directory)
    with Sources(storage_options, options) as sources:
        wanted = list_wanted(uri, is_wanted, sources)
        _check_apart(wanted, path)
        if not holds_all(path, wanted):
            with Directory(path, make=True) as place, hold_lock(place) as waited:
                if waited:  # the store may hold something else by now
                    wanted = list_wanted(uri, is_wanted, sources)
                fetch(place, wanted, sources, options, report)
        elif report is not None:
            report(Progress(0, 0, 0, 0, 0.0))
    return tuple(sorted(Path(path, file.path) for file in wanted))


def _as_path(directory: object) -> str:
    path = os.fspath(directory) if isinstance(directory, str | os.PathLike) else None
    if not isinstance(path, str) or not path or "\0" in path:
        raise UsageError(f"{directory!r} is not a directory: give its path")
    scheme = path.partition(":/")[0]  # a Path has only one slash there
    if path.startswith(f"{scheme}:/") and (scheme.lower() in SCHEMES or "://" in path):
        raise UsageError(f"{scheme}:// is no place to pull into: give the path of a local directory")
    return os.path.expanduser(path)


def _check_apart(wanted: Sequence[ListedFile], directory: str) -> None:
    """Refuses to pull a local directory into itself, or what was pulled into it before once more.

    Raises:
        UsageError: a file lies in `directory`, which lies in what is pulled.
    """
    target = os.path.realpath(directory)
    for file in wanted:
        if os.path.isabs(file.blob.uri):
            source = os.path.join(os.path.realpath(os.path.dirname(file.blob.uri)), os.path.basename(file.blob.uri))
            root = source.removesuffix(file.path)
            if _lies_in(source, target) and _lies_in(target, root):
                raise UsageError(
                    f"{file.blob.uri} lies in the directory that it would be pulled into: choose another directory",
                    uri=file.blob.uri,
                )


def _lies_in(path: str, folder: str) -> bool:
    folder = os.path.normpath(folder)
    return os.path.commonpath([path, folder]) == folder
