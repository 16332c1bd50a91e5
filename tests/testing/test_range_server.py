"""The range server without a fault: RFC 9110, its log, and that nothing of it remains."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from slipstream.testing.process_watch import see_descriptors
from slipstream.testing.range_answers import parse_range
from slipstream.testing.range_faults import Hold, Status
from slipstream.testing.range_server import Faults, RangeServer, When
from tests.testing.range_client import FILE, SIZE, TIMEOUT_S, Client


@pytest.mark.parametrize(
    ("range_", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-299", 100, 300),
        ("bytes=102000-", 102000, SIZE),
        ("bytes=102000-999999", 102000, SIZE),
        ("bytes=-10", SIZE - 10, SIZE),
        ("bytes=-999999", 0, SIZE),
    ],
)
def test_a_range_gets_206_with_its_bytes(client: Client, range_: str, start: int, end: int) -> None:
    status, headers, body = client.ask(range_)
    assert (status, body) == (206, FILE[start:end])
    assert headers["Content-Range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert headers["Content-Length"] == str(end - start)
    assert headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize("range_", [None, "bytes=5-2", "bytes=0-1,5-6", "lines=0-1", "bytes=-"])
def test_no_range_or_one_that_is_none_gets_200_with_the_whole(client: Client, range_: str | None) -> None:
    status, headers, body = client.ask(range_)
    assert (status, body) == (200, FILE)
    assert "Content-Range" not in headers


@pytest.mark.parametrize("range_", [f"bytes={SIZE}-", "bytes=999999-1000000", "bytes=-0"])
def test_a_range_beyond_the_end_gets_416_with_the_size(client: Client, range_: str) -> None:
    status, headers, _ = client.ask(range_)
    assert (status, headers["Content-Range"]) == (416, f"bytes */{SIZE}")


def test_an_empty_file_has_no_range_and_an_empty_whole(client: Client) -> None:
    assert client.ask("bytes=0-", "empty").status == 416
    assert client.ask(None, "empty")[::2] == (200, b"")


def test_head_answers_as_get_does_without_the_body(client: Client) -> None:
    status, headers, body = client.ask(None, method="HEAD")
    assert (status, headers["Content-Length"], body) == (200, str(SIZE), b"")


@pytest.mark.parametrize("path", ["missing", "model", "../secret", "model/../../secret", "%2e%2e/secret", ""])
def test_what_is_no_file_below_the_root_is_not_found(client: Client, path: str) -> None:
    client.connection.request("GET", "/" + path)
    response = client.connection.getresponse()
    response.read()
    assert response.status == 404


def test_other_methods_are_refused_with_their_body_read(client: Client) -> None:
    client.connection.request("PUT", "/a.bin", body=b"x" * 200_000)
    response = client.connection.getresponse()
    response.read()
    assert response.status == 405
    assert client.ask().status == 206
    assert len({request.connection for request in client.server.requests}) == 1


def test_the_etag_is_strong_stable_and_honoured(client: Client) -> None:
    etag = client.ask().headers["ETag"]
    assert etag.startswith('"')
    assert client.ask().headers["ETag"] == etag
    assert client.ask(headers={"If-Match": etag}).status == 206
    assert client.ask(headers={"If-Match": f'"other", {etag}'}).status == 206
    assert client.ask(headers={"If-Match": "*"}).status == 206
    assert client.ask(headers={"If-Match": '"other"'}).status == 412
    assert client.ask(headers={"If-Range": etag}).status == 206
    assert client.ask(headers={"If-Range": '"other"'}).status == 200


def test_the_etag_follows_the_file(tmp_path: Path) -> None:
    with RangeServer(tmp_path) as server:
        client = Client(server, None)
        etags = set()
        for contents in (b"1", b"22"):
            (tmp_path / "a.bin").write_bytes(contents)
            etags.add(client.ask().headers["ETag"])
        client.reset()
    assert len(etags) == 2


def test_a_body_can_come_from_memory(client: Client) -> None:
    client.server.put("made/up.bin", b"0123456789")
    first = client.ask("bytes=2-4", "made/up.bin")
    assert (first.status, first.body) == (206, b"234")
    client.server.put("made/up.bin", b"x" * 3_000_000)
    second = client.ask(None, "made/up.bin")
    assert second.body == b"x" * 3_000_000
    assert first.headers["ETag"] != second.headers["ETag"]


def test_names_are_quoted_in_urls(client: Client) -> None:
    client.server.put("a b/ü%?.bin", b"1")
    assert client.ask(None, "a b/ü%?.bin").body == b"1"
    assert client.server.url("a.bin", host="localhost").split("//")[1].startswith("localhost:")


def test_the_log_tells_what_came_and_what_was_sent(client: Client) -> None:
    before = client.server.connections
    client.ask("bytes=10-19", headers={"Authorization": "Bearer t", "X-Two": "1"})
    client.ask("bytes=-5", "missing")
    client.connection.close()
    client.ask(None, method="HEAD")
    first, second, third = client.server.requests
    assert (first.number, first.method, first.path, first.range) == (1, "GET", "a.bin", (10, 20))
    assert (first.status, first.body_bytes, first.faults, first.state) == (206, 10, (), "finished")
    assert first.headers["Authorization"] == first.header("authorization") == "Bearer t"
    assert (second.status, second.range, second.header("authorization")) == (404, None, None)
    assert (third.method, third.body_bytes) == ("HEAD", 0)
    assert [first.connection, second.connection, third.connection] == [before + 1, before + 1, before + 2]
    assert client.server.connections == before + 2


def test_the_query_is_logged_apart_from_the_path(client: Client) -> None:
    client.connection.request("GET", "/a.bin?X-Amz-Signature=abc&b=%20")
    client.connection.getresponse().read()
    (request,) = client.server.requests
    assert (request.path, request.query, request.status) == ("a.bin", "X-Amz-Signature=abc&b=%20", 200)


def test_a_client_that_says_close_gets_that(client: Client) -> None:
    answer = client.ask(headers={"Connection": "close"})
    assert answer.headers["Connection"] == "close"
    client.server.wait_open_connections(0)


def test_what_is_no_http_closes_the_connection_without_an_answer(client: Client) -> None:
    for sent in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 70_000 + b"\r\n\r\n"):
        with client.connect_raw() as raw:
            try:
                raw.sendall(sent)
                assert raw.recv(100) == b""
            except ConnectionError:
                pass
    assert client.ask().status == 206


def test_two_hundred_connections_are_served_at_once(client: Client) -> None:
    connections = [client.connect() for _ in range(200)]
    client.server.set_faults(Faults(Hold()))
    try:
        for number, connection in enumerate(connections):
            connection.request("GET", "/a.bin", headers={"Range": f"bytes={number}-{number + 99}"})
        client.server.wait_held(200)
        assert client.server.open_connections == 200
        client.server.release()
        for number, connection in enumerate(connections):
            assert connection.getresponse().read() == FILE[number : number + 100]
    finally:
        for connection in connections:
            connection.close()
    client.server.wait_open_connections(0)
    assert client.server.open_connections == 0


def test_reset_ends_faults_opens_the_gate_and_forgets_the_log(client: Client) -> None:
    client.server.set_faults(Faults(Hold(after_bytes=100), Status(503, when=When(path="other"))))
    with client.ask_raw() as raw:
        client.server.wait_held(1)
        (request,) = client.server.requests
        assert (request.status, request.body_bytes, request.state) == (206, 100, "waiting")
        client.server.reset()
        assert client.server.requests == []
        received = b""
        while not received.endswith(FILE[:1000]):
            received += raw.recv(4096)
    assert client.ask(path="other").status == 404
    assert [request.number for request in client.server.requests] == [1]


def test_wait_requests_returns_when_they_came_and_says_when_not(client: Client) -> None:
    raw = []
    asker = threading.Timer(0.05, lambda: raw.append(client.ask_raw()))
    asker.start()
    try:
        assert [request.path for request in client.server.wait_requests(1)] == ["a.bin"]
    finally:
        asker.join()
        raw[0].close()
    for wait in (client.server.wait_requests, client.server.wait_held):
        with pytest.raises(TimeoutError, match="not 9"):
            wait(9, timeout_s=0.01)


def test_close_connections_breaks_idle_and_busy_ones(client: Client) -> None:
    client.ask()
    idle = client.connection.sock
    client.server.set_faults(Faults(Hold(after_bytes=0)))
    with client.ask_raw() as busy:
        client.server.wait_held(1)
        client.server.close_connections()
        assert idle.recv(1) == b""
        while busy.recv(4096):
            pass
    client.server.release()
    client.server.wait_open_connections(0)


def test_the_process_port_and_pipes_are_gone_after_the_block(tmp_path: Path) -> None:
    threads, descriptors = threading.active_count(), see_descriptors()
    with RangeServer(tmp_path) as server:
        client = socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S)
        repr(server)
    with client:
        assert client.recv(1) == b""
    server.close()
    assert not Path(f"/proc/{server.pid}").exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S)
    assert threading.active_count() <= threads
    assert see_descriptors() <= descriptors


def test_the_server_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys, os, signal\n"
        "from slipstream.testing.range_server import RangeServer\n"
        "server = RangeServer(pathlib.Path(sys.argv[1]))\n"
        "print(server.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, check=False)
    pid = int(parent.stdout)
    deadline = time.monotonic() + TIMEOUT_S
    while _is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _is_alive(pid)


def test_close_ends_the_server_though_a_forked_child_holds_its_pipe(tmp_path: Path) -> None:
    with RangeServer(tmp_path) as server:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        os.close(reader)
        started = time.monotonic()
        server.close()
        took_s = time.monotonic() - started
        os.close(writer)
        os.waitpid(child, 0)
    assert took_s < 5


def test_a_server_that_cannot_start_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="range_service ended with exit code 1"):
        RangeServer(tmp_path, tls=(tmp_path / "no.pem", tmp_path / "no.key"))
    assert "FileNotFoundError" in capfd.readouterr().err


def test_ranges_are_parsed_half_open_and_stay_beyond_the_end_if_they_are() -> None:
    assert parse_range("bytes=0-9", 100) == (0, 10)
    assert parse_range("bytes=90-200", 100) == (90, 100)
    assert parse_range("bytes=200-300", 100) == (200, 301)
    assert parse_range("bytes=0-", 0) == (0, 1)


def test_a_server_that_is_gone_is_an_error_for_its_user(tmp_path: Path) -> None:
    server = RangeServer(tmp_path)
    os.kill(server.pid, 9)
    with pytest.raises(OSError):  # noqa: PT011 -- a broken pipe or an ended process, whichever is seen first
        _ = server.requests
    server.close()


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
