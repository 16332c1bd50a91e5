"""What cannot be healed ends in one error that says what, where, how often, and what to do next."""

from __future__ import annotations

import re
import socket
import time
from typing import NamedTuple

import pytest

from slipstream.errors import AccessDeniedError, BlobNotFoundError, ReadError, SlipstreamError
from slipstream.testing.certificates import CertificateAuthority, ServerCertificate
from slipstream.testing.range_faults import (
    CloseEarly,
    Redirect,
    RequireHeader,
    Reset,
    Stall,
    Status,
    Trickle,
    s3_error,
)
from slipstream.testing.range_lies import (
    Chunked,
    CorruptHead,
    Gzip,
    NoContentRange,
    WholeBody,
    WrongContentRange,
    WrongLength,
)
from slipstream.testing.range_schedule import Fault, Faults, When
from slipstream.testing.range_server import RangeServer
from tests.transport.serving import NAME, RawServer, Served, fail, quick, read_head

LATER = When(after=6)  # the header and some ranges come well
TRIES = 3


class Case(NamedTuple):
    """A fault for ever, and the error it ends in."""

    fault: Fault
    error: type[SlipstreamError]
    attempts: int
    says: str
    status: int | None = None
    code: str | None = None


def refusal(status: int, error: type[SlipstreamError], says: str, code: str | None = None, tries: int = 1) -> Case:
    body = s3_error(code, "because of me") if code else ""
    return Case(Status(status, body=body, when=LATER), error, tries, says, status, code)


CASES = {
    "400": refusal(400, ReadError, "HTTP 400"),
    "401": refusal(401, AccessDeniedError, "access is denied.*storage_options"),
    "403": refusal(403, AccessDeniedError, "access is denied.*storage_options"),
    "404": refusal(404, BlobNotFoundError, "it does not exist.*check the URL"),
    "410": refusal(410, BlobNotFoundError, "it does not exist"),
    "NoSuchKey": refusal(404, BlobNotFoundError, "NoSuchKey: because of me.*check the URL", "NoSuchKey"),
    "AccessDenied": refusal(403, AccessDeniedError, "AccessDenied: because of me", "AccessDenied"),
    "418": refusal(418, ReadError, "HTTP 418"),
    "429": refusal(429, ReadError, "overloaded.*try again later", tries=TRIES),
    "500": refusal(500, ReadError, "has failed.*try again later", tries=TRIES),
    "503": refusal(503, ReadError, "overloaded.*try again later", tries=TRIES),
    "SlowDown": refusal(503, ReadError, "SlowDown: because of me.*less concurrency", "SlowDown", TRIES),
    "407": refusal(407, ReadError, "proxy.*HTTP_PROXY"),
    "reset before the head": Case(Reset(when=LATER), ReadError, TRIES, "closed.*server's log"),
    "reset before the body": Case(Reset(0, when=LATER), ReadError, TRIES, "closed.*server's log"),
    "end before the head": Case(CloseEarly(when=LATER), ReadError, TRIES, "closed before the answer.*server's log"),
    "end before the body": Case(CloseEarly(0, when=LATER), ReadError, TRIES, "closed.*before the end"),
    "stall before the head": Case(Stall(when=LATER), ReadError, TRIES, "in time while waiting for the first byte"),
    "stall before the body": Case(Stall(0, when=LATER), ReadError, TRIES, "in time while receiving.*firewall"),
    "another range": Case(WrongContentRange(4096, when=LATER), ReadError, TRIES, "was asked for bytes .*, and sends"),
    "nonsense for a range": Case(WrongContentRange(text="pages 1-2/3", when=LATER), ReadError, TRIES, "Content-Range"),
    "no Content-Range": Case(NoContentRange(when=LATER), ReadError, TRIES, "without a usable Content-Range"),
    "long": Case(WrongLength(100, when=LATER), ReadError, TRIES, "Content-Length is"),
    "long, and says so": Case(WrongLength(100, True, when=LATER), ReadError, TRIES, "and sends"),
    "in chunks": Case(Chunked(when=LATER), ReadError, 1, "in chunks"),
    "compressed": Case(Gzip(when=LATER), ReadError, 1, "Content-Encoding 'gzip'"),
    "said to be compressed": Case(Gzip(False, when=LATER), ReadError, 1, "Content-Encoding 'gzip'"),
    "all of it": Case(WholeBody(when=LATER), ReadError, 1, "does not serve ranges, so download", 200),
    "no HTTP": Case(CorruptHead("status_line", when=LATER), ReadError, TRIES, "not HTTP/1.1"),
    "no header": Case(CorruptHead("no_colon", when=LATER), ReadError, TRIES, "malformed header"),
    "a long header": Case(CorruptHead("long_header", when=LATER), ReadError, TRIES, "longer than 65,536 bytes"),
    "many headers": Case(CorruptHead("many_headers", when=LATER), ReadError, TRIES, "longer than 65,536 bytes"),
    "half a head": Case(CorruptHead("endless", when=LATER), ReadError, TRIES, "in time"),
    "no length": Case(CorruptHead("bad_content_length", when=LATER), ReadError, TRIES, "Content-Length is None"),
    "two lengths": Case(CorruptHead("two_content_lengths", when=LATER), ReadError, TRIES, "two lengths"),
    "a loop": Case(Redirect("/{path}", when=LATER), ReadError, 1, "redirects more than 5 times"),
    "a redirect to a file": Case(Redirect("file:///etc/passwd", when=LATER), ReadError, 1, "no http or https URL"),
    "a redirect to nonsense": Case(Redirect("http://[::1/x", when=LATER), ReadError, 1, "no http or https URL"),
    "a redirect to no port": Case(Redirect("http://h:99999/x", when=LATER), ReadError, 1, "no http or https URL"),
    "a redirect nowhere": Case(Status(302, when=LATER), ReadError, 1, "no http or https URL"),
    "the wrong token": Case(RequireHeader("Authorization", "x", when=LATER), AccessDeniedError, 1, "denied", 401),
}


OVER_TLS = tuple(name for name in CASES if name.startswith(("reset", "end", "stall", "half", "503", "404")))


@pytest.mark.parametrize(
    ("which", "name"), [*(("plain", name) for name in CASES), *(("tls", name) for name in OVER_TLS)]
)
def test_one_error_says_all(request: pytest.FixtureRequest, which: str, name: str) -> None:
    """The error's class, text and attributes say which blob, which range, what was answered, how often, by whom."""
    case, served = CASES[name], request.getfixturevalue(which)
    served.server.set_faults(Faults(case.fault))
    error = served.fail(quick(attempts=TRIES, first_byte_timeout_s=0.2, stall_timeout_s=0.2))
    text = str(error)
    assert type(error) is case.error
    assert re.search(case.says, text, re.IGNORECASE | re.DOTALL), text
    assert error.uri == served.url
    assert served.url in text
    assert error.endpoint == served.server.url("").rstrip("/")
    assert error.attempts == case.attempts
    assert (error.status, error.code) == (case.status, case.code)
    assert error.offset is not None
    assert error.length is not None
    assert 0 < error.offset < error.offset + error.length <= served.size
    assert f"bytes {error.offset}-{error.offset + error.length - 1}" in text
    assert text.count(". ") >= 1 or case.status in (200, 400, 418), "it says nothing about what to do"
    assert error.__cause__ is None


@pytest.mark.parametrize("name", ["404", "403", "503", "in chunks", "all of it", "compressed", "a loop", "two lengths"])
def test_the_first_look_fails_as_clearly(plain: Served, name: str) -> None:
    """What is wrong from the first request on is the same error, before any tensor."""
    case = CASES[name]
    fault = type(case.fault)(**{**vars(case.fault), "when": When()})
    plain.server.set_faults(Faults(fault))
    error = plain.fail(quick(attempts=TRIES))
    assert type(error) is case.error
    assert (error.uri, error.offset, error.attempts) == (plain.url, 0, case.attempts)
    assert len(plain.server.requests) in (case.attempts, 6)


def test_a_trickle_is_a_stall(plain: Served) -> None:
    """A server that sends a few bytes a second is given up, though it never pauses for long."""
    plain.server.set_faults(Faults(Trickle(2, 0.01, when=LATER)))
    error = plain.fail(quick(attempts=2, retries=2, stall_timeout_s=0.2))
    assert re.search(r"only \d+ bytes came in 0\.2 s", str(error))


def test_a_trickling_head_is_a_stall() -> None:
    """A head must be whole within first_byte_timeout_s, however steadily its bytes come."""

    def trickle(connection: socket.socket) -> None:
        read_head(connection)
        for byte in b"HTTP/1.1 206 Partial Content\r\n" * 50:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)

    with RawServer(trickle) as server:
        began = time.monotonic()
        error = fail(f"http://127.0.0.1:{server.port}/a.safetensors", quick(attempts=1, first_byte_timeout_s=0.3))
        assert time.monotonic() - began < 2.0
    assert "waiting for the first byte" in str(error)


def test_interim_answers_without_an_end_are_an_error() -> None:
    """A few announcements before an answer are passed over; a thousand are not."""

    def announce(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 5000)
        read_head(connection)

    with RawServer(announce) as server:
        error = fail(f"http://127.0.0.1:{server.port}/a.safetensors", quick(attempts=2))
    assert type(error) is ReadError
    assert error.attempts == 2


def test_framing_of_chunks_never_passes_for_a_tensor() -> None:
    """An answer with both a length and chunks is refused: the length would count the chunks' own framing."""

    def answer(connection: socket.socket) -> None:
        read_head(connection)
        head = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9/10\r\nContent-Length: 10\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n5\r\n".encode())
        read_head(connection)

    with RawServer(answer) as server:
        error = fail(f"http://127.0.0.1:{server.port}/a.safetensors", quick(attempts=2))
    assert "in chunks" in str(error)


def test_a_refused_connection_says_so() -> None:
    """Nobody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = fail(f"http://127.0.0.1:{port}/a.safetensors", quick(attempts=2))
    assert type(error) is ReadError
    assert error.attempts == 2
    assert re.search(r"the connection was refused.*2 attempts.*Check the host and port", str(error))


def test_an_unknown_host_says_so() -> None:
    """A name that cannot be resolved is not tried again, unless the resolver itself has a problem."""
    error = fail("http://nowhere.invalid/a.safetensors", quick(attempts=2))
    assert re.search(r"host name cannot be resolved.*Check the host in the URL", str(error))


@pytest.mark.parametrize("how", ["unknown authority", "expired", "another host"])
def test_a_certificate_that_is_not_trusted_says_so(both_served: dict[str, Served], tmp_path: object, how: str) -> None:
    """Who the server says to be is checked, at the first attempt and for good; the text names the remedy."""
    served = both_served["tls"]
    authority = CertificateAuthority(served.root / "..")
    certificates: dict[str, ServerCertificate] = {
        "unknown authority": authority.issue(),
        "expired": authority.issue_expired(),
        "another host": authority.issue_wrong_host(),
    }
    trusted = served.storage_options if how == "unknown authority" else {"ca_bundle": str(authority.ca_bundle)}
    with RangeServer(served.root, tls=certificates[how]) as server:
        error = fail(server.url(NAME), quick(), trusted)
        assert not server.requests
    assert type(error) is ReadError
    assert error.attempts == 1
    assert re.search(r"certificate cannot be verified.*ca_bundle", str(error))


def test_a_port_without_tls_says_so() -> None:
    """https:// to a port that speaks plain HTTP is told apart from other failures of TLS."""

    def refuse(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with RawServer(refuse) as server:
        error = fail(f"https://127.0.0.1:{server.port}/a.safetensors", quick())
    assert error.attempts == 1
    assert re.search(r"plain text.*write http://", str(error))


def test_a_port_with_tls_says_so(tls: Served) -> None:
    """http:// to a port that speaks TLS ends soon, and in an error of ours."""
    error = tls.fail(quick(attempts=2), tls.url.replace("https:", "http:"))
    assert type(error) is ReadError
    assert error.attempts == 2


def test_notes_tell_of_other_reads_that_failed(plain: Served) -> None:
    """Reads that fail side by side are one error, with the others as notes at most."""
    plain.server.set_faults(Faults(Status(404, when=When(after=1))))
    error = plain.fail()
    assert all("another read failed too" in note for note in getattr(error, "__notes__", []))
    assert len(getattr(error, "__notes__", [])) < 4
