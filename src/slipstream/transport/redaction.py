"""What of a URL may be shown: signed queries and user information are secrets."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from urllib.parse import unquote, urlsplit

_URL = re.compile(r"(?i)\bhttps?://[^\s\"'<>]+")
_QUERY = re.compile(r"\?[^\s\"'<>]*=[^\s\"'<>]*")
_SHORTEST_SECRET = 6  # shorter values are words such as "1" and "GET", whose loss would garble a text


def redact_url(url: str) -> str:
    """The URL without its user information, and with a mark where its query was. Takes malformed ones too."""
    bare, mark, _ = url.partition("#")[0].partition("?")
    scheme, _, rest = bare.rpartition("://")
    host, slash, path = rest.partition("/")
    if not _is_host(f"//{host}"):  # perhaps the slash or the question mark is part of a password
        host, slash, path = url.rpartition("@")[2].partition("?")[0].rpartition("://")[2].partition("/")
    shown = f"{scheme}://" if scheme else ""
    return f"{shown}{host.rpartition('@')[2]}{slash}{path}" + ("?(redacted)" if mark else "")


def redact_text(text: str) -> str:
    """A text of somebody else with every URL in it redacted, and every query."""
    return _QUERY.sub("?(redacted)", _URL.sub(lambda match: redact_url(match[0]), text))


def find_secrets(url: str, headers: Mapping[str, str]) -> set[str]:
    """What of a request must not be repeated, should the server do so: its query, and its headers' values."""
    query = urlsplit(url).query
    values = {item.partition("=")[2] for item in query.split("&")}
    words = {word for value in headers.values() for word in (value, value.rpartition(" ")[2], *_login(value))}
    return {secret for secret in {query, *values, *map(unquote, values), *words} if len(secret) >= _SHORTEST_SECRET}


def _login(header: str) -> tuple[str, ...]:
    """What Basic authentication hides hardly: user with password, and the password."""
    scheme, _, encoded = header.partition(" ")
    try:
        login = b64decode(encoded).decode() if scheme == "Basic" else ""
    except ValueError:
        return ()
    return login, login.partition(":")[2]


def redact_secrets(text: str, secrets: Iterable[str]) -> str:
    """A text with a mark in the place of each secret."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "(redacted)")
    return text


def _is_host(netloc: str) -> bool:
    try:
        return urlsplit(netloc).port != 0
    except ValueError:
        return False
