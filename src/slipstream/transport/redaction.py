"""What of a URL may be shown: signed queries and user information are secrets."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_URL = re.compile(r"(?i)\bhttps?://[^\s\"'<>]+")


def redact_url(url: str) -> str:
    """The URL without its user information, and with a mark where its query was."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" + ("?(redacted)" if parts.query else "")


def redact_text(text: str) -> str:
    """A text of somebody else with every URL in it redacted."""
    return _URL.sub(lambda match: redact_url(match[0]), text)
