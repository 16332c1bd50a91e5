"""Answers that are not what was asked for: each is as wrong as it says, and not otherwise."""

from __future__ import annotations

import gzip
import http.client

import pytest

from slipstream.testing.range_lies import (
    ChangedEtag,
    Chunked,
    CorruptHead,
    ExtraHeader,
    Gzip,
    NoContentRange,
    NoEtag,
    WeakEtag,
    WholeBody,
    WrongContentRange,
    WrongLength,
)
from slipstream.testing.range_server import Faults, When
from tests.testing.range_client import FILE, SIZE, TIMEOUT_S, Client


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (WrongContentRange(shift_bytes=1), f"bytes 11-20/{SIZE}"),
        (WrongContentRange(extra_total_bytes=-3), f"bytes 10-19/{SIZE - 3}"),
        (WrongContentRange(text="bytes 10-19/*"), "bytes 10-19/*"),
        (NoContentRange(), None),
    ],
)
def test_the_content_range_lies_and_the_body_does_not(
    client: Client, fault: WrongContentRange | NoContentRange, expected: str | None
) -> None:
    client.server.set_faults(Faults(fault))
    status, headers, body = client.ask("bytes=10-19")
    assert (status, headers["Content-Range"], body) == (206, expected, FILE[10:20])


def test_a_range_can_be_ignored(client: Client) -> None:
    client.server.set_faults(Faults(WholeBody()))
    for range_ in ("bytes=10-19", "bytes=9999999-"):
        status, headers, body = client.ask(range_)
        assert (status, headers["Content-Range"], body) == (200, None, FILE)


@pytest.mark.parametrize(
    ("extra_bytes", "start", "expected"),
    [
        (5, 10, FILE[10:25]),
        (-4, 10, FILE[10:16]),
        (-99, 10, b""),
        (7, SIZE - 10, FILE[-10:] + bytes(7)),
    ],
)
def test_a_206_can_be_longer_or_shorter_than_asked(
    client: Client, extra_bytes: int, start: int, expected: bytes
) -> None:
    client.server.set_faults(Faults(WrongLength(extra_bytes)))
    status, headers, body = client.ask(f"bytes={start}-{start + 9}")
    assert (status, headers["Content-Length"], body) == (206, str(len(expected)), expected)
    assert headers["Content-Range"] == f"bytes {start}-{start + 9}/{SIZE}"
    client.server.set_faults(Faults(WrongLength(extra_bytes, content_range_admits=True)))
    admitted = client.ask(f"bytes={start}-{start + 9}").headers["Content-Range"]
    assert admitted == f"bytes {start}-{start + len(expected) - 1}/{SIZE}"


def test_a_new_etag_from_some_request_on_gets_412_for_the_old(client: Client) -> None:
    client.server.set_faults(Faults(ChangedEtag(when=When(after=2))))
    old = client.ask().headers["ETag"]
    assert client.ask(headers={"If-Match": old}).headers["ETag"] == old
    assert client.ask(headers={"If-Match": old}).status == 412
    new = client.ask().headers["ETag"]
    assert new != old
    assert client.ask(headers={"If-Match": new}).status == 206


def test_a_new_etag_can_come_with_if_match_ignored(client: Client) -> None:
    old = client.ask().headers["ETag"]
    client.server.set_faults(Faults(ChangedEtag(ignores_if_match=True)))
    answer = client.ask(headers={"If-Match": old})
    assert (answer.status, answer.headers["ETag"] != old) == (206, True)


def test_every_answer_can_have_an_etag_of_its_own(client: Client) -> None:
    client.server.set_faults(Faults(ChangedEtag(each_request=True)))
    etags = [client.ask().headers["ETag"] for _ in range(3)]
    assert len(set(etags)) == 3
    assert all(etag.startswith('"') and etag.endswith('"') and etag.count('"') == 2 for etag in etags)


def test_a_weak_etag_never_matches_where_if_match_is_honoured(client: Client) -> None:
    client.server.set_faults(Faults(WeakEtag()))
    etag = client.ask().headers["ETag"]
    assert etag.startswith('W/"')
    assert client.ask(headers={"If-Match": etag}).status == 206
    client.server.set_faults(Faults(WeakEtag(ignores_if_match=False)))
    assert client.ask(headers={"If-Match": etag}).status == 412


def test_there_may_be_no_etag_and_no_date(client: Client) -> None:
    client.server.set_faults(Faults(NoEtag()))
    answer = client.ask(headers={"If-Match": '"old"'})
    assert (answer.status, answer.headers["ETag"]) == (206, None)
    assert answer.headers["Last-Modified"]
    client.server.set_faults(Faults(NoEtag(keeps_last_modified=False)))
    assert client.ask().headers["Last-Modified"] is None


def test_a_body_can_come_compressed_unasked(client: Client) -> None:
    client.server.set_faults(Faults(Gzip()))
    status, headers, body = client.ask()
    assert (status, headers["Content-Encoding"], int(headers["Content-Length"])) == (206, "gzip", len(body))
    assert gzip.decompress(body) == FILE[:1000]
    client.server.set_faults(Faults(Gzip(compresses=False)))
    status, headers, body = client.ask()
    assert (status, headers["Content-Encoding"], body) == (206, "gzip", FILE[:1000])


def test_a_chunked_body_is_whole(client: Client) -> None:
    client.server.set_faults(Faults(Chunked(chunk_bytes=300)))
    for _ in range(2):
        status, headers, body = client.ask()
        assert (status, headers["Transfer-Encoding"], headers["Content-Length"]) == (206, "chunked", None)
        assert body == FILE[:1000]


def test_any_header_can_be_added(client: Client) -> None:
    client.server.set_faults(Faults(ExtraHeader("Content-Type", "text/html"), ExtraHeader("X-A", "1")))
    headers = client.ask().headers
    assert (headers.get_all("Content-Type"), headers["X-A"]) == (["text/html"], "1")


def test_a_garbage_status_line_is_no_http(client: Client) -> None:
    client.server.set_faults(Faults(CorruptHead("status_line")))
    with pytest.raises(http.client.BadStatusLine):
        client.ask()
    client.connection.close()
    assert client.server.requests[0].status is None


@pytest.mark.parametrize("how", ["long_header", "many_headers"])
def test_a_head_can_be_too_long(client: Client, how: str) -> None:
    client.server.set_faults(Faults(CorruptHead(how)))  # type: ignore[arg-type]
    with pytest.raises(http.client.HTTPException, match="got more than"):
        client.ask()


def test_a_header_may_lack_its_colon(client: Client) -> None:
    client.server.set_faults(Faults(CorruptHead("no_colon")))
    with client.ask_raw() as raw:
        assert b"\r\nthis line is no header\r\n" in raw.recv(65536)


def test_a_content_length_may_be_none_or_two(client: Client) -> None:
    client.server.set_faults(Faults(CorruptHead("two_content_lengths")))
    response = client.start()
    assert sorted(response.headers.get_all("Content-Length") or []) == ["1000", "1001"]
    client.connection.close()
    client.server.set_faults(Faults(CorruptHead("bad_content_length")))
    assert client.start().headers["Content-Length"] == "12 apples"


def test_a_head_may_never_end(client: Client) -> None:
    client.server.set_faults(Faults(CorruptHead("endless")))
    with client.ask_raw() as raw:
        assert raw.recv(4096).startswith(b"HTTP/1.1 206")
        raw.settimeout(0.05)
        with pytest.raises(TimeoutError):
            raw.recv(1)
        raw.settimeout(TIMEOUT_S)
    client.server.wait_open_connections(0)
