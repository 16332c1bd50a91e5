"""What can go wrong with one request, told apart by what is to be done about it.

A Failure never leaves this package: the client tries again, or makes one of the library's errors of it (wording.py).
Its text holds no secret: it is made of what the store, the system or TLS said, with every URL redacted.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from time import time

from slipstream.transport.advice import NetworkFault, find_fault, parse_refusal
from slipstream.transport.redaction import redact_secrets, redact_text

_LONGEST_MESSAGE = 300
_LONGEST_WAIT_S = 60.0
_THROTTLING = {"SlowDown", "ServerBusy", "RequestLimitExceeded", "rateLimitExceeded"}
_TITLE = re.compile(r"<title>([^<]{1,200})</title>", re.IGNORECASE)
_REQUEST_IDS = ("x-amz-request-id", "x-ms-request-id", "x-guploader-uploadid")


class Kind(Enum):
    """What a failure means for the next attempt."""

    LOST = auto()
    """The connection broke or stalled: again, from where it broke, on another connection."""
    STALE = auto()
    """A kept connection turned out to be closed before anything was answered: again at once."""
    BUSY = auto()
    """The store asks for fewer requests (429, 503): again, after a pause, with fewer in flight."""
    FAULT = auto()
    """The store failed (5xx, 408) or broke the protocol: again, after a pause."""
    EXPIRED = auto()
    """The signature or token is too old: again with a new one, once."""
    CHANGED = auto()
    """The blob is another one now."""
    REFUSED = auto()
    """The store answered, and would answer the same again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a store said when it did not send the range.

    Attributes:
        status: of HTTP.
        code: the store's own, e.g. "NoSuchKey"; empty where it gave none.
        message: the store's own, shortened and redacted.
        request_id: what the store's support asks for.
        region: where the bucket is, if the store said so.
    """

    status: int
    code: str = ""
    message: str = ""
    request_id: str = ""
    region: str = ""


class Failure(Exception):
    """One attempt that failed.

    Attributes:
        kind: what to do.
        text: what happened, in one clause.
        answer: what the store said, if it answered.
        network: what went wrong, if it did not answer.
        retry_after_s: how long the store asks to wait.
    """

    def __init__(
        self,
        kind: Kind,
        text: str,
        *,
        answer: Answer | None = None,
        network: NetworkFault | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.answer = answer
        self.network = network
        self.retry_after_s = retry_after_s


def explain_os_error(error: OSError, doing: str) -> Failure:
    """The failure for what the operating system, the resolver or TLS said while `doing` something."""
    said = error.strerror or type(error).__name__
    match error:
        case ssl.SSLCertVerificationError():
            text = f"the certificate cannot be verified ({error.verify_message})"
            return Failure(Kind.REFUSED, text, network="certificate")
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return Failure(Kind.LOST, f"the connection was closed while {doing}", network="reset")
        case ssl.SSLError() if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
            return Failure(Kind.REFUSED, "it answered a TLS greeting in plain text", network="plain")
        case ssl.SSLError():
            text = f"TLS failed while {doing} ({error.reason or said})"
            return Failure(Kind.LOST, text, network="tls")
        case socket.gaierror():
            kind = Kind.FAULT if error.errno == socket.EAI_AGAIN else Kind.REFUSED
            return Failure(kind, f"its host name cannot be resolved ({said})", network="dns")
        case TimeoutError():
            return Failure(Kind.LOST, f"it did not go on in time while {doing}", network="timeout")
        case ConnectionRefusedError():
            return Failure(Kind.FAULT, "the connection was refused", network="refused")
        case ConnectionError():
            return Failure(Kind.LOST, f"the connection was closed while {doing} ({said})", network="reset")
        case _:
            return Failure(Kind.LOST, f"the connection failed while {doing} ({said})", network="network")


def explain_answer(status: int, headers: Mapping[str, str], body: str, secrets: Iterable[str] = ()) -> Failure:
    """The failure for a response that is not the range that was asked for.

    Args:
        status: of the response.
        headers: of the response.
        body: as far as it came.
        secrets: of the request, which the response may repeat.
    """
    answer = _read_answer(status, headers, body, secrets)
    if status == 407:
        text = "the proxy wants a user and a password that it knows, HTTP 407"
        return Failure(Kind.REFUSED, text, answer=answer, network="proxy")
    text = f"HTTP {status}" + (f" {answer.code}" if answer.code else "")
    if answer.message:
        text += f": {answer.message}"
    return Failure(_kind(answer), text, answer=answer, retry_after_s=_retry_after(headers.get("retry-after")))


def _kind(answer: Answer) -> Kind:
    fault = find_fault(answer.status, answer.code or None)
    if fault == "changed":
        return Kind.CHANGED
    if fault == "expired" or answer.status == 401 or "expired" in answer.message.lower():
        return Kind.EXPIRED
    if fault != "busy" and answer.status not in (408, 425):
        return Kind.REFUSED
    return Kind.BUSY if answer.status in (429, 503) or answer.code in _THROTTLING else Kind.FAULT


def _read_answer(status: int, headers: Mapping[str, str], text: str, secrets: Iterable[str]) -> Answer:
    code, message, region = parse_refusal(text)
    if not code and not message and (title := _TITLE.search(text)):  # a web server's page for people
        message = title[1].strip().removeprefix(str(status)).strip()
    code = headers.get("x-ms-error-code") or code or ""
    region = headers.get("x-amz-bucket-region") or region or ""
    request_id = next((headers[name] for name in _REQUEST_IDS if name in headers), "")
    said = (code, message or "", request_id, region)
    return Answer(status, *(_clean(redact_secrets(part, secrets)) for part in said))


def _clean(text: str) -> str:
    """One printable line, shortened; what a store repeats of a request may hold its signed URL."""
    line = " ".join(redact_text(text).split())
    line = "".join(character for character in line if character.isprintable())
    return line if len(line) <= _LONGEST_MESSAGE else line[: _LONGEST_MESSAGE - 3] + "..."


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait: a number or a date (RFC 9110, 10.2.3); nonsense is ignored, and a minute is the most."""
    if value is None:
        return None
    from email.utils import parsedate_to_datetime  # here, because few answers need it, and it costs 8 ms

    try:
        seconds = float(value) if value.strip().isdecimal() else parsedate_to_datetime(value).timestamp() - time()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), _LONGEST_WAIT_S)
