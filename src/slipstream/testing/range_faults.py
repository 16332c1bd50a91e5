"""What can go wrong between a client and an HTTP server of ranges: slowness, broken connections, refusals.

    server.set_faults(Faults(
        Status(503, retry_after_s=1, body=s3_error("SlowDown"), when=When(first_attempts=1)),
        Reset(after_bytes=1000, when=When(path="*.safetensors", probability=0.1)),
        Rate(10e6),
    ))

Answers that come whole but are not what was asked for are in `range_lies`; when a fault strikes, in `range_schedule`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from email.utils import formatdate
from urllib.parse import quote

from slipstream.testing.range_answers import BEFORE_HEAD, Answer, Closing, Cut, Exchange, plain_answer
from slipstream.testing.range_schedule import Fault

# How fast.


@dataclass(frozen=True)
class Delay(Fault):
    """The answer begins this much later."""

    seconds: float

    def alter(self, answer: Answer, exchange: Exchange) -> None:
        answer.delay_s += self.seconds


@dataclass(frozen=True)
class Rate(Fault):
    """Bodies come at this rate, for each connection."""

    bytes_per_s: float

    def alter(self, answer: Answer, exchange: Exchange) -> None:
        answer.bytes_per_s = self.bytes_per_s


@dataclass(frozen=True)
class Trickle(Fault):
    """The body comes in pieces of a few bytes, with a pause before each."""

    piece_bytes: int = 3
    pause_s: float = 0.01

    def alter(self, answer: Answer, exchange: Exchange) -> None:
        answer.piece_bytes, answer.pause_s = self.piece_bytes, self.pause_s


@dataclass(frozen=True)
class Hold(Fault):
    """The answer waits at a gate until `RangeServer.release`: before its head, or after so many bytes of its body."""

    after_bytes: int | None = None

    def alter(self, answer: Answer, exchange: Exchange) -> None:
        answer.hold_after = _place(self.after_bytes)


# How it ends. `after_bytes` counts the body; None is before the head. The headers promise the whole body.


@dataclass(frozen=True)
class Reset(Fault):
    """A TCP reset."""

    after_bytes: int | None = None

    def alter(self, answer: Answer, exchange: Exchange) -> None:
        answer.cut = Cut("reset", _place(self.after_bytes))


@dataclass(frozen=True)
class CloseEarly(Fault):
    """An orderly end of the connection (FIN, in TLS behind a close_notify) in an answer that is not finished."""

    after_bytes: int | None = None

    def alter(self, answer: Answer, exchange: Exchange) -> None:
        answer.cut = Cut("close", _place(self.after_bytes))


@dataclass(frozen=True)
class Stall(Fault):
    """Nothing more comes, until the client goes or the server is closed."""

    after_bytes: int | None = None

    def alter(self, answer: Answer, exchange: Exchange) -> None:
        answer.cut = Cut("stall", _place(self.after_bytes))


@dataclass(frozen=True)
class CloseConnection(Fault):
    """The connection ends behind so many complete answers; silently, unless `announced` with `Connection: close`.

    Attributes:
        pause_s: how long it is idle before it is closed.
        waits_for_next: it is closed only when the next request begins to come in, which is not answered.
    """

    after_responses: int = 1
    announced: bool = False
    pause_s: float = 0.0
    waits_for_next: bool = False

    def alter(self, answer: Answer, exchange: Exchange) -> None:
        if exchange.on_connection >= self.after_responses:
            answer.closing = Closing(self.announced, self.pause_s, self.waits_for_next)


# Refusals.


@dataclass(frozen=True)
class Status(Fault):
    """Another status, with a body of its own.

    Attributes:
        retry_after_s: the Retry-After header, rounded up to whole seconds if `as_date`.
        as_date: it is sent as an HTTP date.
        headers: more of them; they replace.
    """

    status: int
    retry_after_s: float | None = None
    as_date: bool = False
    body: str = ""
    content_type: str = "application/xml"
    headers: tuple[tuple[str, str], ...] = ()

    def alter(self, answer: Answer, exchange: Exchange) -> None:
        _become(answer, plain_answer(self.status, self.body, self.content_type))
        if self.retry_after_s is not None:
            at = formatdate(math.ceil(time.time() + self.retry_after_s), usegmt=True)
            answer.headers["Retry-After"] = at if self.as_date else f"{self.retry_after_s:g}"
        answer.headers.update(self.headers)


@dataclass(frozen=True)
class RequireHeader(Fault):
    """A request without this header, of exactly this value, is refused.

    Attributes:
        headers: of the refusal.
    """

    name: str
    value: str
    status: int = 401
    body: str = ""
    content_type: str = "application/xml"
    headers: tuple[tuple[str, str], ...] = (("WWW-Authenticate", "Bearer"),)

    def applies(self, exchange: Exchange) -> bool:
        return exchange.request.header(self.name) != self.value

    def alter(self, answer: Answer, exchange: Exchange) -> None:
        _become(answer, plain_answer(self.status, self.body, self.content_type))
        answer.headers.update(self.headers)


@dataclass(frozen=True)
class MaxInFlight(Fault):
    """More requests than this at once are refused as S3 does; `RangeServer.throttled` counts them.

    Attributes:
        grace_s: how long a request waits for another to end before it is refused, as a client can have the last byte
            of an answer before the server knows that it is sent.
    """

    limit: int
    retry_after_s: float | None = None
    grace_s: float = 0.01

    def applies(self, exchange: Exchange) -> bool:
        return exchange.in_flight > self.limit

    def alter(self, answer: Answer, exchange: Exchange) -> None:
        Status(503, self.retry_after_s, body=s3_error("SlowDown")).alter(answer, exchange)


@dataclass(frozen=True)
class Redirect(Fault):
    """Elsewhere: `to` is any URL or path. `{path}` in it becomes the request's path: `/{path}` alone is a loop."""

    to: str
    status: int = 302

    def alter(self, answer: Answer, exchange: Exchange) -> None:
        _become(answer, plain_answer(self.status))
        answer.headers["Location"] = self.to.replace("{path}", quote(exchange.request.path))


def s3_error(code: str, message: str = "injected") -> str:
    """The body of an S3 error, e.g. SlowDown (503), ExpiredToken (400), AccessDenied (403)."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>4442587FB7D0A2F9</RequestId></Error>"
    )


def azure_error(code: str, message: str = "injected") -> str:
    """The body of an Azure Blob Storage error, e.g. AuthenticationFailed (403), InvalidAuthenticationInfo (401)."""
    return f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'


def _become(answer: Answer, other: Answer) -> None:
    answer.status, answer.headers, answer.body = other.status, other.headers, other.body


def _place(after_bytes: int | None) -> int:
    return BEFORE_HEAD if after_bytes is None else after_bytes
