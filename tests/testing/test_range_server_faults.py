"""Slowness, broken connections and refusals: each does what it says, plain and under TLS, and when it should."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from slipstream.testing.range_faults import (
    CloseConnection,
    CloseEarly,
    Delay,
    Hold,
    MaxInFlight,
    Rate,
    Redirect,
    RequireHeader,
    Reset,
    Stall,
    Status,
    Trickle,
    azure_error,
    s3_error,
)
from slipstream.testing.range_server import Faults, RangeServer, When
from tests.testing.range_client import FILE, Client, read_all, read_until_reset

# How fast.


def test_a_delay_comes_before_the_first_byte(client: Client) -> None:
    client.server.set_faults(Faults(Delay(0.15)))
    started = time.monotonic()
    response = client.start()
    assert time.monotonic() - started >= 0.15
    assert response.read() == FILE[:1000]


def test_a_rate_holds_within_and_across_answers_of_a_connection(client: Client) -> None:
    client.server.set_faults(Faults(Rate(200_000)))
    started = time.monotonic()
    assert client.ask("bytes=0-29999").body + client.ask("bytes=30000-39999").body == FILE[:40_000]
    assert 0.2 <= time.monotonic() - started < 10


def test_a_trickle_comes_in_pieces_of_a_few_bytes(client: Client) -> None:
    client.server.set_faults(Faults(Trickle(piece_bytes=7, pause_s=0.005)))
    with client.ask_raw(range_="bytes=0-69") as raw:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += raw.recv(1)
        pieces: list[bytes] = []
        while sum(len(piece) for piece in pieces) < 70:
            pieces.append(raw.recv(4096))
    assert b"".join(pieces) == FILE[:70]
    assert len(pieces) > 2


def test_a_held_answer_waits_before_its_head_or_in_its_body(client: Client) -> None:
    for after_bytes in (None, 10):
        client.server.set_faults(Faults(Hold(after_bytes)))
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(client.ask)
            client.server.wait_held(1)
            assert not answer.done()
            assert client.server.requests[-1].body_bytes == (after_bytes or 0)
            client.server.release()
            assert answer.result().body == FILE[:1000]


# How it ends.


def test_a_reset_before_the_head_gives_nothing(client: Client) -> None:
    client.server.set_faults(Faults(Reset()))
    assert read_until_reset(client.ask_raw()) == b""
    (request,) = client.server.requests
    assert (request.status, request.faults, request.body_bytes) == (None, ("Reset",), 0)


@pytest.mark.parametrize("after_bytes", [0, 1, 50_000])
def test_a_reset_in_mid_body_comes_after_so_many_bytes(client: Client, after_bytes: int) -> None:
    client.server.set_faults(Faults(Reset(after_bytes)))
    assert read_until_reset(client.ask_raw(range_="bytes=0-")) == FILE[:after_bytes]
    (request,) = client.server.requests
    assert (request.status, request.body_bytes) == (206, after_bytes)


def test_a_close_before_the_head_gives_nothing(client: Client) -> None:
    client.server.set_faults(Faults(CloseEarly()))
    with pytest.raises(http.client.RemoteDisconnected):
        client.ask()


def test_a_close_in_mid_body_is_orderly(client: Client) -> None:
    client.server.set_faults(Faults(CloseEarly(after_bytes=123)))
    raw = client.ask_raw(suppress_ragged_eofs=False)
    head, _, body = read_all(raw).partition(b"\r\n\r\n")
    assert b"Content-Length: 1000" in head
    assert body == FILE[:123]


@pytest.mark.parametrize("after_bytes", [None, 0, 500])
def test_a_stall_lasts_until_the_client_goes(client: Client, after_bytes: int | None) -> None:
    client.server.set_faults(Faults(Stall(after_bytes)))
    with client.ask_raw() as raw:
        received = b""
        while after_bytes is not None and not received.endswith(b"\r\n\r\n" + FILE[:after_bytes]):
            received += raw.recv(4096)
        raw.settimeout(0.05)
        with pytest.raises(TimeoutError):
            raw.recv(1)
        assert [request.state for request in client.server.requests] == ["waiting"]
        assert client.server.open_connections == 1
    client.server.wait_open_connections(0)
    assert [request.state for request in client.server.requests] == ["finished"]


def test_a_stall_ends_with_the_server(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(FILE)
    with RangeServer(tmp_path) as server:
        server.set_faults(Faults(Stall(after_bytes=10)))
        raw = Client(server, None).ask_raw()
        server.wait_requests(1)
    with raw:
        try:
            while raw.recv(4096):
                pass
        except ConnectionResetError:
            pass


@pytest.mark.parametrize("pause_s", [0.0, 0.02])
def test_a_stale_connection_is_closed_silently_after_so_many_answers(client: Client, pause_s: float) -> None:
    client.server.set_faults(Faults(CloseConnection(after_responses=2, pause_s=pause_s)))
    assert "Connection" not in client.ask().headers
    connection = client.connection.sock
    answer = client.ask()
    assert (answer.body, "Connection" in answer.headers) == (FILE[:1000], False)
    assert connection.recv(1) == b""
    client.server.wait_open_connections(0)


def test_a_stale_connection_can_take_the_next_request_and_leave_it_unanswered(client: Client) -> None:
    client.server.set_faults(Faults(CloseConnection(waits_for_next=True)))
    assert client.ask().status == 206
    with pytest.raises(ConnectionError):
        client.ask()
    assert len(client.server.requests) == 1


def test_an_announced_close_says_so(client: Client) -> None:
    client.server.set_faults(Faults(CloseConnection(announced=True)))
    assert client.ask().headers["Connection"] == "close"
    assert client.ask().status == 206
    first, second = client.server.requests
    assert second.connection == first.connection + 1


# Refusals.


@pytest.mark.parametrize("status", [401, 403, 404, 408, 429, 500, 502, 503])
def test_a_status_is_sent_with_its_body_and_the_connection_goes_on(client: Client, status: int) -> None:
    body = s3_error("SlowDown", "Please reduce your request rate.")
    client.server.set_faults(
        Faults(Status(status, body=body, headers=(("x-amz-request-id", "7"),), when=When(first=1)))
    )
    refused = client.ask()
    assert (refused.status, refused.body.decode()) == (status, body)
    assert refused.headers["Content-Type"] == "application/xml"
    assert refused.headers["x-amz-request-id"] == "7"
    assert "Retry-After" not in refused.headers
    assert client.ask().status == 206
    assert [(seen.connection, seen.faults) for seen in client.server.requests] == [
        (client.server.connections, ("Status",)),
        (client.server.connections, ()),
    ]


def test_retry_after_comes_in_seconds_or_as_a_date(client: Client) -> None:
    client.server.set_faults(Faults(Status(503, retry_after_s=2)))
    assert client.ask().headers["Retry-After"] == "2"
    client.server.set_faults(Faults(Status(429, retry_after_s=30, as_date=True)))
    ahead_s = parsedate_to_datetime(client.ask().headers["Retry-After"]).timestamp() - time.time()
    assert 20 < ahead_s <= 31


def test_credentials_can_expire_after_some_requests(client: Client) -> None:
    body = azure_error("InvalidAuthenticationInfo", "Lifetime validation failed. The token is expired.")
    client.server.set_faults(Faults(Status(401, body=body, when=When(after=2))))
    assert [client.ask().status for _ in range(4)] == [206, 206, 401, 401]
    assert "<Code>InvalidAuthenticationInfo</Code>" in client.ask().body.decode()


def test_a_required_header_must_have_its_value(client: Client) -> None:
    client.server.set_faults(Faults(RequireHeader("Authorization", "Bearer good")))
    refused = client.ask(headers={"Authorization": "Bearer old"})
    assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert client.ask().status == 401
    assert client.ask(headers={"authorization": "Bearer good"}).status == 206


def test_more_requests_in_flight_than_allowed_are_throttled_and_counted(client: Client) -> None:
    client.server.set_faults(Faults(MaxInFlight(2, retry_after_s=1), Hold(after_bytes=10, when=When(first=2))))
    held = [client.ask_raw() for _ in range(2)]
    client.server.wait_held(2)
    refused = client.ask(path="model/b.bin")
    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert "<Code>SlowDown</Code>" in refused.body.decode()
    assert client.ask().status == 503
    assert client.ask().status == 503
    client.server.release()
    for raw in held:
        raw.close()
    client.server.wait_open_connections(1)
    assert client.ask().status == 206
    assert client.server.throttled == {"model/b.bin": 1, "a.bin": 2}


def test_so_many_in_flight_as_are_allowed_are_never_throttled(client: Client) -> None:
    client.server.set_faults(Faults(MaxInFlight(2, grace_s=5)))
    statuses: list[int] = []

    def ask_often() -> None:
        connection = client.connect()
        for _ in range(50):
            connection.request("GET", "/a.bin", headers={"Range": "bytes=0-9"})
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
        connection.close()

    askers = [threading.Thread(target=ask_often) for _ in range(2)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert statuses == [206] * 100


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_leads_to_another_path(client: Client, status: int) -> None:
    client.server.set_faults(Faults(Redirect("/model/{path}?moved=1", status, when=When(path="b.bin"))))
    answer = client.ask(path="b.bin")
    assert (answer.status, answer.headers["Location"], answer.body) == (status, "/model/b.bin?moved=1", b"")
    assert client.ask(path="model/b.bin").body == FILE[:1000]


@pytest.mark.parametrize("to", ["http://127.0.0.1:1/other", "file:///etc/passwd", "//host/x"])
def test_a_redirect_leads_to_any_url(client: Client, to: str) -> None:
    client.server.set_faults(Faults(Redirect(to)))
    assert client.ask().headers["Location"] == to


def test_a_redirect_to_itself_is_a_loop(client: Client) -> None:
    client.server.set_faults(Faults(Redirect("/{path}")))
    assert [client.ask(path="a b").headers["Location"] for _ in range(2)] == ["/a%20b", "/a%20b"]


# When.


def test_faults_strike_the_requests_of_their_schedule(client: Client) -> None:
    schedules = {
        When(numbers=(2, 4)): [206, 500, 206, 500, 206],
        When(first=2): [500, 500, 206, 206, 206],
        When(after=3): [206, 206, 206, 500, 500],
        When(after=1, first=2): [206, 500, 206, 206, 206],
        When(path="model/*"): [206] * 5,
        When(path="*.bin", method="GET"): [500] * 5,
        When(method="HEAD"): [206] * 5,
        When(probability=0.0): [206] * 5,
    }
    for when, expected in schedules.items():
        client.server.set_faults(Faults(Status(500, when=when)))
        assert [client.ask().status for _ in range(5)] == expected, when


def test_first_attempts_count_for_each_range_apart(client: Client) -> None:
    client.server.set_faults(Faults(Status(500, when=When(first_attempts=2))))
    ranges = ["bytes=0-9", "bytes=10-19", "bytes=0-9", "bytes=0-9", "bytes=10-19", "bytes=10-19"]
    assert [client.ask(range_).status for range_ in ranges] == [500, 500, 500, 206, 500, 206]


def test_only_requests_that_match_are_counted(client: Client) -> None:
    client.server.set_faults(Faults(Status(500, when=When(path="model/*", numbers=(2,)))))
    paths = ["model/b.bin", "a.bin", "a.bin", "model/b.bin", "model/b.bin"]
    assert [client.ask(path=path).status for path in paths] == [206, 206, 206, 500, 206]


def test_chance_depends_on_the_seed_and_the_range_not_on_the_order(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(FILE)
    ranges = [f"bytes={start}-{start + 9}" for start in range(0, 600, 10)] * 2
    faults = Faults(Status(500, when=When(probability=0.3)), CloseConnection(when=When(probability=0.3)))

    def struck(seed: int, order: list[str]) -> dict[str, list[tuple[str, ...]]]:
        with RangeServer(tmp_path, seed=seed) as server:
            server.set_faults(faults)
            client = Client(server, None)
            for range_ in order:
                client.connection.close()  # one request each, whatever became of the last
                client.ask(range_)
            client.connection.close()
            by_range: dict[str, list[tuple[str, ...]]] = {}
            for request in server.requests:
                by_range.setdefault(request.headers["Range"], []).append(request.faults)
            return by_range

    first = struck(1, ranges)
    assert struck(1, random.Random(0).sample(ranges, len(ranges))) == first
    assert struck(2, ranges) != first
    hits = sum("Status" in faults_ for attempts in first.values() for faults_ in attempts)
    assert 18 <= hits <= 54  # of 120, at 0.3
    assert any(attempts[0] != attempts[1] for attempts in first.values())


def test_faults_combine_in_one_answer(client: Client) -> None:
    client.server.set_faults(
        Faults(Delay(0.05), Status(503, body="x" * 1000), Trickle(400, 0.0), Reset(after_bytes=600))
    )
    assert read_until_reset(client.ask_raw()) == b"x" * 600
    (request,) = client.server.requests
    assert (request.status, request.faults) == (503, ("Delay", "Status", "Trickle", "Reset"))


def test_a_fault_that_cannot_be_made_is_refused_and_the_server_goes_on(client: Client) -> None:
    with pytest.raises(ValueError, match="oranges"):
        client.server._server.ask("set_faults", faults=[["slipstream.testing.range_faults", "oranges", {"when": {}}]])
    assert client.ask().status == 206


def test_a_client_that_resets_does_no_harm(client: Client) -> None:
    client.server.set_faults(Faults(Hold(after_bytes=10)))
    raw = client.ask_raw(range_="bytes=0-99999")
    client.server.wait_held(1)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()
    client.server.release()
    client.server.wait_open_connections(0)
    client.server.set_faults(Faults())
    assert client.ask().status == 206
