"""What of other people's words may stand in a record: no credential, no signed URL, and not more than a paragraph."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

_QUERY = re.compile(r"\?[^\s\"'<>]*=[^\s\"'<>]*")
_USER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s\"'<>/@]+@")
_SIGNED = re.compile(r"(?i)\b((?:x-amz-(?:signature|credential|security-token)|signature|sig)=)[^\s\"'<>&]+")
_SECRET_NAME = re.compile(r"(?i)key|secret|token|password|credential|sas|authorization|connection_string")
_SHORTEST_SECRET = 6  # shorter values are words such as "true", whose loss would garble a text
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_MARK = "(redacted)"


def find_secrets(*settings: Mapping[str, object]) -> set[str]:
    """The values of variables and options whose names say that they are secrets."""
    return {secret for mapping in settings for secret in _secrets(mapping) if len(secret) >= _SHORTEST_SECRET}


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without these secrets, and without the queries and users of URLs."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, _MARK)
    return _SIGNED.sub(rf"\1{_MARK}", _QUERY.sub(f"?{_MARK}", _USER.sub(r"\1", text)))


def redact_value(value: object, secrets: Iterable[str]) -> object:
    """A JSON value with every text in it redacted."""
    secrets = tuple(secrets)
    if isinstance(value, str):
        return redact(value, secrets)
    if isinstance(value, Mapping):
        return {name: redact_value(item, secrets) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_value(item, secrets) for item in value]
    return value


def shorten(text: str, longest: int = 400) -> str:
    """The text as one line of printable characters, with a mark where its middle was left out."""
    words = " ".join(_ESCAPES.sub("", text).split())
    line = "".join(character if character.isprintable() else "?" for character in words)
    return line if len(line) <= longest else f"{line[: longest // 2]} … {line[-(longest // 2) :]}"


def _secrets(mapping: Mapping[str, object]) -> Iterator[str]:
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _secrets(value)
        elif isinstance(value, str) and _SECRET_NAME.search(name):
            yield value
