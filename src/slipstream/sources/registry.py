"""Which source serves which URI scheme. A new storage is one line here."""

from __future__ import annotations

import re
from functools import cache

from slipstream.errors import UsageError
from slipstream.sources.base import Source
from slipstream.sources.file import FileSource

_SOURCES: dict[str, type[Source]] = {"file": FileSource}


def find_source(uri: str) -> Source:
    """The source for a URI; what has no scheme is a path.

    Raises:
        UsageError: no source serves the scheme.
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", uri)
    scheme = match[1].lower() if match else "file"
    if scheme not in _SOURCES:
        raise UsageError(
            f'no source for "{scheme}://" in this version of slipstream; it reads paths and '
            f"{', '.join(_SOURCES)}:// URIs",
            uri=uri,
        )
    return _source(scheme)


@cache
def _source(scheme: str) -> Source:
    return _SOURCES[scheme]()
