"""Is this response the range that was asked for? Pure functions over the heads of responses. Source: RFC 9110, 14."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from slipstream.transport.connection import Head
from slipstream.transport.failures import Answer, Failure, Kind
from slipstream.transport.origin import parse_url

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
_UNSATISFIED = re.compile(r"bytes \*/(\d{1,19})")


@dataclass(frozen=True, slots=True)
class Pin:
    """What a blob was when it was first looked at, and must still be.

    Attributes:
        size: bytes.
        etag: an entity tag, or what stands for one; None where the store gives nothing of the kind.
    """

    size: int
    etag: str | None


@dataclass(frozen=True, slots=True)
class Part:
    """What a response is going to send.

    Attributes:
        length: bytes of its body.
        pin: what the blob is.
    """

    length: int
    pin: Pin


def check_part(head: Head, start: int, length: int, pin: Pin | None) -> Part:
    """What the body of a 200 or 206 will be: the range from `start` on, whole or a part of it.

    Args:
        head: of the response.
        start: first byte asked for.
        length: how many were asked for, at least 1.
        pin: what the blob must be; None for the first look at it.

    Raises:
        Failure: it is something else than asked for, or the blob has changed.
    """
    if head.headers.get("content-encoding", "identity") != "identity":
        raise Failure(Kind.REFUSED, f"it comes with Content-Encoding {head.headers['content-encoding']!r}, unasked")
    part = _whole(head, start, length) if head.status == 200 else _range(head, start, length)
    if pin is not None and part.pin.size != pin.size:
        raise Failure(Kind.CHANGED, f"it had {pin.size:,} bytes, and now has {part.pin.size:,}")
    if pin is not None and None not in (pin.etag, part.pin.etag) and _strong(pin.etag) != _strong(part.pin.etag):
        raise Failure(Kind.CHANGED, f"its ETag was {pin.etag}, and now is {part.pin.etag}")
    return part


def unsatisfied_size(head: Head) -> int | None:
    """The blob's size, of a 416."""
    match = _UNSATISFIED.fullmatch(head.headers.get("content-range", ""))
    return int(match[1]) if match else None


def find_validator(head: Head) -> str | None:
    """What changes whenever the blob does: its ETag, else its time of change in the form of a weak one."""
    etag = head.headers.get("etag")
    if etag:
        return etag
    changed = head.headers.get("last-modified")
    return f'W/"{changed}"' if changed else None


def redirected(url: str, head: Head) -> str:
    """Where a redirect leads.

    Raises:
        Failure: nowhere, to another scheme than http and https, or from https to http.
    """
    location = head.headers.get("location", "")
    try:
        new = urljoin(url, location)
        parts, _ = parse_url(new)
    except ValueError:
        location = ""
    if not location:
        raise Failure(Kind.REFUSED, f"HTTP {head.status} redirects to no http or https URL")
    if parts.scheme == "http" and urlsplit(url).scheme == "https":
        raise Failure(Kind.REFUSED, f"HTTP {head.status} redirects from https to http, which would give up encryption")
    return new


def _range(head: Head, start: int, length: int) -> Part:
    match = _CONTENT_RANGE.fullmatch(head.headers.get("content-range", ""))
    if match is None:
        raise Failure(Kind.FAULT, "it answered 206 without a usable Content-Range")
    first, last, size = map(int, match.groups())
    if first != start or not first <= last < min(first + length, size):
        text = f"it was asked for bytes {start}-{start + length - 1}, and sends {first}-{last} of {size}"
        raise Failure(Kind.FAULT, text)
    if "transfer-encoding" in head.headers:
        raise Failure(Kind.REFUSED, "it sends a range in chunks (Transfer-Encoding) instead of saying its length")
    if head.length != last - first + 1:
        raise Failure(Kind.FAULT, f"it announces {last - first + 1:,} bytes, but Content-Length is {head.length}")
    return Part(head.length, Pin(size, find_validator(head)))


def _whole(head: Head, start: int, length: int) -> Part:
    """A server that ignores ranges sends everything: good enough for what is small and wanted from its start."""
    if start == 0 and head.length is not None and head.length <= length:
        return Part(head.length, Pin(head.length, find_validator(head)))
    text = "it answered 200 with the whole blob: it does not serve ranges, so download the blob first"
    raise Failure(Kind.REFUSED, text, answer=Answer(200))


def _strong(etag: str | None) -> str:
    return (etag or "").removeprefix("W/")
