"""Which paths of a listing are wanted, and which of them may become files. Pure functions.

Paths come from a store, and a store may be hostile. What is refused here never reaches the file system.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import translate
from typing import TypeAlias

from slipstream.errors import UsageError

Patterns: TypeAlias = str | Sequence[str] | None
"""What a caller gives as `allow` or `ignore`."""

OWN_FOLDER = ".slipstream"
"""Where a pull keeps what it knows of a directory, and files that are not whole."""

_LONGEST_NAME = 255  # bytes of one component, on every file system of Linux


def make_filter(allow: Patterns, ignore: Patterns) -> Callable[[str], bool]:
    """Whether a path is wanted: it matches one of `allow`, if that is given, and none of `ignore`.

    Raises:
        UsageError: a pattern that is no text.
    """
    allowed = None if allow is None else _compile("allow", allow)
    ignored = [] if ignore is None else _compile("ignore", ignore)

    def is_wanted(path: str) -> bool:
        return (allowed is None or any(match(path) for match in allowed)) and not any(match(path) for match in ignored)

    return is_wanted


def _compile(name: str, patterns: str | Sequence[str]) -> list[Callable[[str], object]]:
    given = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(given, Iterable) or not all(isinstance(pattern, str) for pattern in given):
        raise UsageError(f'{name} is {patterns!r}; it is a pattern such as "*.json", or a list of these')
    return [re.compile(translate(pattern)).match for pattern in given]


def is_own(path: str) -> bool:
    """Whether a path lies in the folder of a pull, also in one that was pulled along by other means."""
    return OWN_FOLDER in path.split("/")


def check_paths(paths: Iterable[str], uri: str) -> None:
    """Refuses paths that cannot all be files below one directory.

    Args:
        paths: as listed.
        uri: what was listed, for messages.

    Raises:
        UsageError: a path that leaves the directory or could on another system, or that no file can have; or a file
            where another path has a folder. The text says how to leave it out.
    """
    known = set(paths)
    for path in sorted(known):
        fault = _find_fault(path)
        if fault is not None:
            raise UsageError(f"{uri} holds {path!r}, which {fault}: leave it out with ignore=", uri=uri)
        parent = path
        while parent := parent.rpartition("/")[0]:
            if parent in known:
                raise UsageError(
                    f"{uri} holds both {parent!r} and {path!r}: a file and a folder of one name. Leave one of them "
                    "out with ignore=",
                    uri=uri,
                )


def _find_fault(path: str) -> str | None:
    parts = path.split("/")
    if path.startswith("/"):
        return "is an absolute path"
    if ".." in parts:
        return "would lead out of the directory"
    if "" in parts or "." in parts:
        return "has a component without a name"
    if "\0" in path:
        return "has a NUL in it"
    if "\\" in path:
        return "has a backslash in it, which separates folders on other systems"
    if any(len(part.encode(errors="surrogateescape")) > _LONGEST_NAME for part in parts):
        return f"has a component of more than {_LONGEST_NAME} bytes"
    return None
