"""Whole loads through everything that a client can heal: they end with the right bytes, and asked for no more."""

from __future__ import annotations

import pytest

from slipstream.testing.range_faults import (
    CloseConnection,
    CloseEarly,
    Delay,
    MaxInFlight,
    Rate,
    Redirect,
    Reset,
    Stall,
    Status,
    Trickle,
    s3_error,
)
from slipstream.testing.range_lies import CorruptHead, ExtraHeader, NoContentRange, WrongContentRange, WrongLength
from slipstream.testing.range_schedule import Fault, Faults, When
from tests.transport.serving import CHUNK_BYTES, FIRST_LOOK_BYTES, PATIENT, QUICK, Served, quick, sent_bytes

EVERY = When(first_attempts=1)  # the first request for each range
SOME = When(first_attempts=1, probability=0.3)
FEW = When(numbers=(1, 9))

REFUSALS: dict[str, Fault] = {
    "503 everywhere": Status(503, when=EVERY),
    "429": Status(429, when=SOME),
    "500": Status(500, when=SOME),
    "502": Status(502, when=SOME),
    "504": Status(504, when=SOME),
    "408": Status(408, when=SOME),
    "slow down": Status(503, body=s3_error("SlowDown"), when=SOME),
    "503 for nothing": Status(503, retry_after_s=0, when=SOME),
    "503 for a second": Status(503, retry_after_s=1, when=When(numbers=(9,))),
    "429 until a date": Status(429, retry_after_s=0.5, as_date=True, when=When(numbers=(9,))),
    "503 until nonsense": Status(503, headers=(("Retry-After", "soon"),), when=FEW),
    "reset before the head": Reset(when=EVERY),
    "reset before the body": Reset(0, when=SOME),
    "end before the head": CloseEarly(when=EVERY),
    "end before the body": CloseEarly(0, when=SOME),
    "stall before the head": Stall(when=FEW),
    "stall before the body": Stall(0, when=FEW),
    "stall in the body": Stall(30_000, when=FEW),
    "trickle": Trickle(3, 0.02, when=FEW),
    "another range": WrongContentRange(shift_bytes=4096, when=EVERY),
    "another total, badly written": WrongContentRange(text="bytes 0-1", when=SOME),
    "no Content-Range": NoContentRange(when=EVERY),
    "short": WrongLength(-100, when=SOME),
    "long": WrongLength(100, when=SOME),
    "long, and says so": WrongLength(100, content_range_admits=True, when=When(numbers=(9, 10))),
    "no HTTP": CorruptHead("status_line", when=EVERY),
    "no header": CorruptHead("no_colon", when=SOME),
    "a long header": CorruptHead("long_header", 200_000, when=FEW),
    "many headers": CorruptHead("many_headers", 200_000, when=FEW),
    "half a head": CorruptHead("endless", when=FEW),
    "no length": CorruptHead("bad_content_length", when=SOME),
    "two lengths": CorruptHead("two_content_lengths", when=SOME),
}
# A kept connection that ends before the head was probably closed while idle: that is no failure of the server's.
ON_KEPT_CONNECTIONS = ("reset before the head", "end before the head")
BREAKS: dict[str, Fault] = {
    "reset in the body": Reset(20_000, when=EVERY),
    "end in the body": CloseEarly(20_000, when=EVERY),
    "end behind the first byte": CloseEarly(1, when=SOME),
}
HARMLESS: dict[str, tuple[Fault, ...]] = {
    "slow": (Rate(3e6, when=SOME), Delay(0.02, when=SOME)),
    "in small pieces": (Trickle(1_000, 0.0005, when=FEW),),
    "an odd header": (ExtraHeader("X-Odd", "\xe4" * 200),),
    "short, and says so": (WrongLength(-100, content_range_admits=True, when=When(numbers=(9,))),),
    "each connection once, announced": (CloseConnection(announced=True),),
    "each connection once": (CloseConnection(),),
    "each connection thrice, the fourth request unanswered": (CloseConnection(3, waits_for_next=True),),
}


ENDED_BY_TIMEOUTS = tuple(name for name in REFUSALS if name.startswith(("stall", "trickle", "half")))
OVER_TLS = ("503 everywhere", *(name for name in REFUSALS if name.startswith(("reset", "end", "stall", "half"))))


@pytest.mark.parametrize(
    ("which", "name"), [*(("plain", name) for name in REFUSALS), *(("tls", name) for name in OVER_TLS)]
)
def test_a_refused_request_is_made_again(request: pytest.FixtureRequest, which: str, name: str) -> None:
    """A failure before any byte came costs one more request, which the figures tell."""
    served = request.getfixturevalue(which)
    served.server.set_faults(Faults(REFUSALS[name]))
    stats = served.load_whole(QUICK if name in ENDED_BY_TIMEOUTS else PATIENT)
    requests = served.server.requests
    struck = sum(bool(request.faults) for request in requests)
    assert struck
    if name in ON_KEPT_CONNECTIONS:
        assert 1 <= stats.retries < struck
    elif name in ENDED_BY_TIMEOUTS:
        assert struck <= stats.retries <= struck + 2  # on a busy computer others may be late too
    else:
        assert stats.retries == struck
    assert stats.requests == len(requests)
    assert stats.hedged == 0


@pytest.mark.parametrize(("which", "name"), [*(("plain", name) for name in BREAKS), ("tls", "end in the body")])
def test_a_broken_body_is_resumed_where_it_broke(request: pytest.FixtureRequest, which: str, name: str) -> None:
    """Bytes that have landed are not asked for again: each was sent once, but for the first look at the blob."""
    served = request.getfixturevalue(which)
    served.server.set_faults(Faults(BREAKS[name]))
    stats = served.load_whole(quick(attempts=2, retries=1000))  # each break brings bytes: no two in a row bring none
    requests = served.server.requests
    assert stats.retries == sum(bool(request.faults) and request.body_bytes < _asked(request) for request in requests)
    assert sent_bytes(requests) == FIRST_LOOK_BYTES + sum(map(len, served.tensors.values()))
    assert stats.discarded_bytes == 0


def _asked(request: object) -> int:
    span = getattr(request, "range")  # noqa: B009
    return int(span[1] - span[0])


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_allowed_is_no_failure(plain: Served, name: str) -> None:
    """Slow, short and last answers of a connection are within the rules, and cost no retry."""
    plain.server.set_faults(Faults(*HARMLESS[name]))
    stats = plain.load_whole(quick(attempts=1, retries=0))
    assert stats.retries == 0
    assert stats.requests >= len(plain.server.requests)  # those that an ended connection swallowed are not seen


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_and_remembered(plain: Served, status: int) -> None:
    """A redirect costs one request for the blob, not one for each range."""
    plain.server.set_faults(Faults(Redirect("/elsewhere/{path}", status, when=When(path="model*"))))
    plain.load_whole()
    requests = plain.server.requests
    assert [request.path for request in requests].count("model.safetensors") == 1
    assert {request.status for request in requests[1:]} == {206}


def test_every_range_is_asked_for_once(served: Served) -> None:
    """Without faults there is one request for each chunk and one for the header, and few connections."""
    stats = served.load_whole()
    requests = served.server.requests
    assert stats.requests == len(requests) == 1 + stats.reads
    assert stats.retries == stats.hedged == stats.discarded_bytes == 0
    assert stats.connections <= 4
    assert max(map(_asked, requests[1:])) <= CHUNK_BYTES
    assert sent_bytes(requests) == FIRST_LOOK_BYTES + sum(map(len, served.tensors.values()))


def test_concurrency_that_finds_itself_bows_to_a_limit(plain: Served) -> None:
    """Against a server that takes three requests at once, "auto" ends well, with few refusals."""
    plain.server.set_faults(Faults(MaxInFlight(3, grace_s=0.0), Delay(0.003)))
    plain.load_whole(quick(concurrency="auto", chunk_bytes=8192, attempts=20, retries=1000))
    refused = sum(plain.server.throttled.values())
    assert 0 < refused < len(plain.server.requests) / 2


def test_bytes_behind_the_end_of_a_body_are_never_the_next_answer(tls: Served) -> None:
    """A server that sends more than it announced in the same TLS record is not listened to any further."""
    from slipstream.transport.access import Grant
    from slipstream.transport.connection import Connection
    from slipstream.transport.origin import split_url

    grant = Grant(tls.url, ca_bundle=str(tls.storage_options["ca_bundle"]))
    origin, target = split_url(grant.url, grant)
    connection = Connection(origin)
    connection.open(timeout_s=5)
    head = connection.request(target, {"Range": "bytes=0-99999"}, timeout_s=5)
    assert head.status == 206
    landed = connection.receive(memoryview(bytearray(1)))
    assert landed == 1
    assert connection.is_readable()
    connection.close()
