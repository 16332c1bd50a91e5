"""Fetches a checkpoint's files from where it is stored, by plain requests and no loader."""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import slipstream
from slipstream.bench.errors import BenchError
from slipstream.testing.presigning import presign

_PIECE_BYTES = 8 << 20
_TIMEOUT_S = 60.0
_WEB = ("http", "https")


def download_checkpoint(
    uri: str,
    folder: Path,
    *,
    storage_options: Mapping[str, object] | None = None,
    report: Callable[[str, int, int], object] | None = None,
) -> tuple[Path, ...]:
    """The safetensors files of a checkpoint, in order, those that are not in the folder already fetched.

    Args:
        uri: a prefix or an object of a store, or a URL.
        folder: where each checkpoint, in the version that it has now, gets a folder of its own.
        storage_options: how the store is reached, as in `slipstream.stream`.
        report: called in this thread with what is done, bytes so far and bytes in all.

    Raises:
        SlipstreamError: it cannot be found or read.
        BenchError: the disk has no room, or a transfer broke. What was fetched whole is kept.
    """
    blobs = slipstream.inspect(uri, storage_options=storage_options).blobs
    version = hashlib.sha256("\n".join(f"{blob.uri}\t{blob.size}\t{blob.etag}" for blob in blobs).encode())
    name = uri.partition("?")[0].rstrip("/").rpartition("/")[2] or "checkpoint"
    target = folder / f"{name}-{version.hexdigest()[:12]}"
    target.mkdir(parents=True, exist_ok=True)
    files = [target / f"{number:05}-{blob.uri.rpartition('/')[2]}" for number, blob in enumerate(blobs)]
    missing = [(blob, file) for blob, file in zip(blobs, files, strict=True) if not file.exists()]
    total = sum(blob.size for blob, _ in missing)
    free = shutil.disk_usage(target).free
    if free < total:
        raise BenchError(f"the checkpoint takes {total / 1e9:.1f} GB, and {target} has {free / 1e9:.1f} GB free")
    done = 0
    for blob, file in missing:
        # A URL of a single file is taken as it was given, with the query that errors and figures do not show.
        url = uri if uri.partition("://")[0].lower() in _WEB else presign([blob.uri], storage_options)[0]
        for nbytes in _fetch(url, blob.uri, blob.size, file):
            done += nbytes
            if report is not None:
                report(f"downloading {blob.uri}", done, total)
    return tuple(files)


def _fetch(url: str, shown: str, size: int, file: Path) -> Iterator[int]:
    """Fetches one file; yields how many bytes came, again and again. It appears whole, or not at all."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.unfinished")
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as source, unfinished.open("wb") as target:
            got = 0
            while piece := source.read(_PIECE_BYTES):
                target.write(piece)
                got += len(piece)
                yield len(piece)
        if got != size:
            raise BenchError(f"{shown} ended after {got:,} of {size:,} bytes; run it again")
        unfinished.rename(file)
    except (OSError, urllib.error.URLError) as error:
        status = f"status {error.code}" if isinstance(error, urllib.error.HTTPError) else str(error)
        raise BenchError(f"{shown} could not be downloaded: {status}; run it again") from None
    finally:
        unfinished.unlink(missing_ok=True)
