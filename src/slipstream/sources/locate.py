"""Turns what a caller writes, one URI or a list of them, into listings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from slipstream.errors import UsageError
from slipstream.sources.concurrently import map_concurrently
from slipstream.sources.registry import Sources
from slipstream.types import Listing

Uri: TypeAlias = str | os.PathLike[str]


def locate_checkpoint(uri: Uri | Sequence[Uri], sources: Sources) -> tuple[Listing, ...]:
    """Lists every URI of a call, in order; a URI given twice is listed once, and all of them at once.

    Raises:
        UsageError: nothing was given, or something that is neither text nor a path.
        BlobNotFoundError, AccessDeniedError: from the source.
    """
    return tuple(
        map_concurrently(
            lambda text: sources.find(text).list_blobs(text), [*dict.fromkeys(list_uris(uri))], sources.close
        )
    )


def list_uris(uri: Uri | Sequence[Uri]) -> list[str]:
    """What a caller writes, as a list of texts.

    Raises:
        UsageError: nothing was given, or something that is neither text nor a path.
    """
    uris = list(uri) if isinstance(uri, Iterable) and not isinstance(uri, str | bytes | os.PathLike) else [uri]
    if not uris:
        raise UsageError("no URI was given: the list is empty")
    return [as_text(one) for one in uris]


def as_text(uri: object) -> str:
    """What one URI of a call says.

    Raises:
        UsageError: it is neither text nor a path.
    """
    text = os.fspath(uri) if isinstance(uri, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise UsageError(f"{uri!r} is not a URI: give a path, a directory, a glob, a URL, or a list of these")
    return text
