"""What a server answers to a request for bytes of a file: RFC 9110, as plain values. No sockets, no faults.

    Request, Content  ->  Exchange  ->  honest_answer  ->  Answer (status, headers, where the body's bytes are)

`range_faults` alters what comes out, and `range_delivery` sends it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Literal, NamedTuple, TypeAlias

BEFORE_HEAD = -1
"""A place in an answer: before its status line. Other places are numbers of bytes of the body."""

_SINGLE_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True)
class Request:
    """A request as received; `path` is decoded, without the slash at its start."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]

    def header(self, name: str) -> str | None:
        """The header's value, whatever the case of its name."""
        return find_header(self.headers, name)


def find_header(headers: Mapping[str, str], name: str) -> str | None:
    """The value of a header, whatever the case of its name; None without it."""
    return next((value for key, value in headers.items() if key.lower() == name.lower()), None)


class Content(NamedTuple):
    """An open file, and what its ETag and Last-Modified say."""

    fd: int
    size: int
    etag: str
    modified: str

    @classmethod
    def of(cls, fd: int) -> Content:
        """A regular file on disk; the ETag holds until the file is written or replaced."""
        status = os.fstat(fd)
        etag = f'"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"'
        return cls(fd, status.st_size, etag, formatdate(status.st_mtime, usegmt=True))


class FileBytes(NamedTuple):
    """The bytes [start, end) of a file."""

    fd: int
    start: int
    end: int


Body: TypeAlias = bytes | FileBytes


def body_length(body: Body) -> int:
    """In bytes."""
    return body.end - body.start if isinstance(body, FileBytes) else len(body)


def body_bytes(body: Body, start: int, end: int) -> bytes:
    """The bytes [start, end) of a body; fewer where the file has become shorter."""
    if isinstance(body, bytes):
        return body[start:end]
    return os.pread(body.fd, end - start, body.start + start)


@dataclass
class Exchange:
    """A request, what it asks for, and the circumstances in which it came.

    Attributes:
        content: the file; None where there is none of that name.
        etag: what the server says that the file's is; None says nothing.
        honours_if_match: whether If-Match is looked at.
        on_connection: the how-manyth request this is on its connection, from 1 on.
        in_flight: how many requests are being answered, with this one.
        number: for the fault that looks at it: the how-manyth request this is that the fault concerns, from 1 on.
    """

    request: Request
    content: Content | None
    on_connection: int = 1
    in_flight: int = 1
    number: int = 1
    etag: str | None = field(init=False)
    honours_if_match: bool = True

    def __post_init__(self) -> None:
        self.etag = self.content.etag if self.content else None

    @property
    def span(self) -> tuple[int, int] | None:
        """The range that was asked for, [start, end); None without a Range. One beyond the file stays beyond it."""
        text = self.request.header("range")
        return parse_range(text, self.content.size) if text and self.content else None


@dataclass
class Cut:
    """The end of an answer that is not finished, after so many bytes of its body."""

    how: Literal["reset", "close", "stall"]
    after_bytes: int


@dataclass
class Closing:
    """The end of a connection behind an answer that was complete."""

    announced: bool
    pause_s: float = 0.0
    waits_for_next: bool = False


@dataclass
class Answer:
    """What is sent, and how. Faults change it in place."""

    status: int
    headers: dict[str, str]
    body: Body
    raw_head: bytes | None = None
    chunk_bytes: int | None = None
    delay_s: float = 0.0
    bytes_per_s: float | None = None
    piece_bytes: int | None = None
    pause_s: float = 0.0
    hold_after: int | None = None
    cut: Cut | None = None
    closing: Closing | None = None

    def replace_body(self, body: Body) -> None:
        """Sends this instead, and says its length."""
        self.body = body
        self.headers["Content-Length"] = str(body_length(body))


def plain_answer(status: int, text: str = "", content_type: str = "text/plain") -> Answer:
    """An answer with a text of its own."""
    body = text.encode()
    return Answer(status, {"Content-Type": content_type, "Content-Length": str(len(body))}, body)


def honest_answer(exchange: Exchange) -> Answer:
    """What a server without a fault answers to GET and HEAD."""
    request, content = exchange.request, exchange.content
    if request.method not in ("GET", "HEAD"):
        return plain_answer(405, "only GET and HEAD\n")
    if content is None:
        return plain_answer(404, f"no file {request.path}\n")
    required = request.header("if-match")
    if required and exchange.honours_if_match and not _matches(required, exchange.etag):
        return plain_answer(412, f"the ETag is {exchange.etag}\n")
    headers = {"Accept-Ranges": "bytes", "Last-Modified": content.modified, "Content-Type": "application/octet-stream"}
    if exchange.etag is not None:
        headers["ETag"] = exchange.etag
    if_range = request.header("if-range")
    span = exchange.span if if_range in (None, exchange.etag, content.modified) else None
    if span is None:
        answer = Answer(200, headers, b"")
        answer.replace_body(FileBytes(content.fd, 0, content.size))
    elif span[0] >= content.size:
        answer = plain_answer(416)
        answer.headers["Content-Range"] = f"bytes */{content.size}"
    else:
        start, end = span
        answer = Answer(206, headers | {"Content-Range": f"bytes {start}-{end - 1}/{content.size}"}, b"")
        answer.replace_body(FileBytes(content.fd, start, end))
    return answer


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """The one range that a Range header asks for, [start, end), not beyond the file unless all of it is.

    None for what RFC 9110, section 14.2, lets a server ignore: other units, several ranges, an end before the start.
    """
    match = _SINGLE_RANGE.fullmatch(text.strip())
    if not match or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    start = int(first)
    end = int(last) + 1 if last else max(size, start + 1)
    if end <= start:
        return None
    return (start, min(end, size)) if start < size else (start, end)


def _matches(required: str, etag: str | None) -> bool:
    """RFC 9110, section 13.1.1: the comparison is strong, so a weak ETag never matches."""
    if required.strip() == "*":
        return True
    return etag is not None and not etag.startswith("W/") and etag in (tag.strip() for tag in required.split(","))
