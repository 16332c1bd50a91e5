"""Answers of an HTTP server of ranges that come whole but are not what was asked for: faults of another kind."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from typing import Literal

from slipstream.testing.range_answers import Answer, Cut, Exchange, FileBytes, body_bytes, body_length
from slipstream.testing.range_schedule import Fault

# Lies about the range.


@dataclass(frozen=True)
class WrongContentRange(Fault):
    """The Content-Range of a 206 is shifted, or gives another total, or is `text`. The body is what was asked for."""

    shift_bytes: int = 0
    extra_total_bytes: int = 0
    text: str | None = None

    def alter(self, answer: Answer, exchange: Exchange) -> None:
        span, content = exchange.span, exchange.content
        if answer.status == 206 and span and content:
            start, end = span[0] + self.shift_bytes, span[1] + self.shift_bytes
            wrong = f"bytes {start}-{end - 1}/{content.size + self.extra_total_bytes}"
            answer.headers["Content-Range"] = wrong if self.text is None else self.text


@dataclass(frozen=True)
class NoContentRange(Fault):
    """A 206 does not say which range it is."""

    def alter(self, answer: Answer, exchange: Exchange) -> None:
        answer.headers.pop("Content-Range", None)


@dataclass(frozen=True)
class WholeBody(Fault):
    """Range is ignored: 200 with the whole file."""

    def alter(self, answer: Answer, exchange: Exchange) -> None:
        if answer.status in (206, 416) and exchange.content:
            answer.status = 200
            answer.headers.pop("Content-Range", None)
            answer.replace_body(FileBytes(exchange.content.fd, 0, exchange.content.size))


@dataclass(frozen=True)
class WrongLength(Fault):
    """A 206 with so many bytes more or, if negative, fewer. Content-Length is what is sent; zeros follow the file.

    Attributes:
        content_range_admits: Content-Range is what is sent too; otherwise it is what was asked for.
    """

    extra_bytes: int
    content_range_admits: bool = False

    def alter(self, answer: Answer, exchange: Exchange) -> None:
        span, content = exchange.span, exchange.content
        if answer.status != 206 or not span or not content:
            return
        start, end = span[0], max(span[0], span[1] + self.extra_bytes)
        honest = FileBytes(content.fd, start, min(end, content.size))
        beyond = bytes(max(0, end - content.size))
        answer.replace_body(body_bytes(honest, 0, body_length(honest)) + beyond if beyond else honest)
        if self.content_range_admits:
            answer.headers["Content-Range"] = f"bytes {start}-{end - 1}/{content.size}"


# Another file, or no way to tell.


@dataclass(frozen=True)
class ChangedEtag(Fault):
    """The ETag is another, once for all or for `each_request`; If-Match with the old one gets 412 unless ignored."""

    each_request: bool = False
    ignores_if_match: bool = False

    def prepare(self, exchange: Exchange) -> None:
        suffix = f"-{exchange.number}" if self.each_request else ""
        if exchange.etag is not None:
            exchange.etag = f'{exchange.etag.rstrip(chr(34))}-changed{suffix}"'
        exchange.honours_if_match &= not self.ignores_if_match


@dataclass(frozen=True)
class WeakEtag(Fault):
    """The ETag is weak. If-Match, which a weak one never matches, is ignored unless told otherwise."""

    ignores_if_match: bool = True

    def prepare(self, exchange: Exchange) -> None:
        exchange.etag = f"W/{exchange.etag}" if exchange.etag else None
        exchange.honours_if_match &= not self.ignores_if_match


@dataclass(frozen=True)
class NoEtag(Fault):
    """There is no ETag, and no Last-Modified unless it is kept; If-Match is ignored."""

    keeps_last_modified: bool = True

    def prepare(self, exchange: Exchange) -> None:
        exchange.etag = None
        exchange.honours_if_match = False

    def alter(self, answer: Answer, exchange: Exchange) -> None:
        if not self.keeps_last_modified:
            answer.headers.pop("Last-Modified", None)


# How it is written.


@dataclass(frozen=True)
class CorruptHead(Fault):
    """What comes instead of the head, or in it.

    Attributes:
        how: `status_line`: bytes that are no HTTP; `no_colon`: a line that is no header; `long_header`: a value of
            `size_bytes`; `many_headers`: a head of about that size; `endless`: a head that breaks off, without the
            connection being closed; `bad_content_length`, `two_content_lengths`: a length that is none, or that
            contradicts another.
        size_bytes: of the long ones.
    """

    how: Literal[
        "status_line",
        "no_colon",
        "long_header",
        "many_headers",
        "endless",
        "bad_content_length",
        "two_content_lengths",
    ]
    size_bytes: int = 1 << 20

    def alter(self, answer: Answer, exchange: Exchange) -> None:
        headers = answer.headers
        if self.how == "status_line":
            answer.raw_head = b"\x16\x03\x01 2OO garbage\r\n\r\n"
        elif self.how == "no_colon":
            headers["X-Before"] = "1\r\nthis line is no header"
        elif self.how == "long_header":
            headers["X-Long"] = "x" * self.size_bytes
        elif self.how == "many_headers":
            headers.update({f"X-Many-{n:06}": "x" * 80 for n in range(self.size_bytes // 100)})
        elif self.how == "endless":
            answer.raw_head = b"HTTP/1.1 206 Partial Content\r\nContent-Len"
            answer.cut = Cut("stall", 0)
        elif self.how == "bad_content_length":
            headers["Content-Length"] = "12 apples"
        else:
            headers["X-Before"] = f"1\r\nContent-Length: {body_length(answer.body) + 1}"


@dataclass(frozen=True)
class ExtraHeader(Fault):
    """One more header, or another value for one."""

    name: str
    value: str

    def alter(self, answer: Answer, exchange: Exchange) -> None:
        answer.headers[self.name] = self.value


@dataclass(frozen=True)
class Gzip(Fault):
    """Content-Encoding: gzip, though nobody asked for it.

    Attributes:
        compresses: the body is compressed too; otherwise only the header says so.
    """

    compresses: bool = True

    def alter(self, answer: Answer, exchange: Exchange) -> None:
        answer.headers["Content-Encoding"] = "gzip"
        if self.compresses:
            answer.replace_body(gzip.compress(body_bytes(answer.body, 0, body_length(answer.body)), 1))


@dataclass(frozen=True)
class Chunked(Fault):
    """No fault in itself: Transfer-Encoding: chunked, without a Content-Length."""

    chunk_bytes: int = 1000

    def alter(self, answer: Answer, exchange: Exchange) -> None:
        answer.headers.pop("Content-Length", None)
        answer.headers["Transfer-Encoding"] = "chunked"
        answer.chunk_bytes = self.chunk_bytes
