"""The forward proxy: what it passes on, what it refuses, and what it has seen."""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipstream.testing.proxy import ForwardProxy
from slipstream.testing.range_faults import Stall
from slipstream.testing.range_server import Faults
from tests.testing.range_client import FILE, TIMEOUT_S, Client, serve_twice

BASIC = {"Proxy-Authorization": "Basic " + base64.b64encode(b"me:p@ss:word").decode()}


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Client, Path]]:
    plain, tls, ca_bundle = serve_twice(tmp_path_factory.mktemp("proxy"))
    with plain, tls:
        yield Client(plain, None), Client(tls, ca_bundle), ca_bundle


@pytest.fixture
def plain(clients: tuple[Client, Client, Path]) -> Iterator[Client]:
    yield clients[0]
    clients[0].reset()


@pytest.fixture
def tls(clients: tuple[Client, Client, Path]) -> Iterator[Client]:
    yield clients[1]
    clients[1].reset()


def test_a_plain_request_goes_to_its_origin_without_the_proxys_headers(plain: Client) -> None:
    with ForwardProxy() as proxy:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=TIMEOUT_S)
        url = plain.server.url("a.bin") + "?v=1"
        connection.request("GET", url, headers={"Range": "bytes=0-9", "Proxy-Connection": "keep-alive", **BASIC})
        response = connection.getresponse()
        assert (response.status, response.read()) == (206, FILE[:10])
        connection.close()
        (passage,) = proxy.passages
    assert (passage.method, passage.target, passage.status, passage.finished) == ("GET", url, None, True)
    assert passage.received_bytes > 10
    assert passage.header("range") == "bytes=0-9"
    (request,) = plain.server.requests
    assert (request.path, request.query, request.range) == ("a.bin", "v=1", (0, 10))
    assert request.header("host") == f"127.0.0.1:{plain.server.port}"
    assert not [name for name in request.headers if name.lower().startswith("proxy-")]


def test_a_tunnel_carries_tls_end_to_end(tls: Client, clients: tuple[Client, Client, Path]) -> None:
    with ForwardProxy() as proxy:
        context = ssl.create_default_context(cafile=clients[2])
        connection = http.client.HTTPSConnection("127.0.0.1", proxy.port, timeout=TIMEOUT_S, context=context)
        connection.set_tunnel("127.0.0.1", tls.server.port)
        for start in (0, 50_000):
            connection.request("GET", "/a.bin", headers={"Range": f"bytes={start}-{start + 9999}"})
            assert connection.getresponse().read() == FILE[start : start + 10_000]
        connection.close()
        (passage,) = proxy.passages
    assert (passage.method, passage.target, passage.status) == ("CONNECT", f"127.0.0.1:{tls.server.port}", 200)
    assert passage.sent_bytes > 200
    assert passage.received_bytes > 20_000
    assert {request.connection for request in tls.server.requests} == {tls.server.connections}


def test_routes_stand_in_for_names_that_do_not_resolve(plain: Client) -> None:
    routes = {"weights.example:80": f"127.0.0.1:{plain.server.port}"}
    with ForwardProxy(routes=routes) as proxy:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy.url}))
        with opener.open("http://weights.example/a.bin", timeout=TIMEOUT_S) as response:
            assert response.read() == FILE
        assert [passage.target for passage in proxy.passages] == ["http://weights.example/a.bin"]
        proxy.reset()
        assert proxy.passages == []
    assert plain.server.requests[0].header("host") == "weights.example"


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_credentials_are_asked_for_and_accepted(plain: Client, method: str) -> None:
    target = plain.server.url("a.bin") if method == "GET" else f"127.0.0.1:{plain.server.port}"
    with ForwardProxy(credentials=("me", "p@ss:word")) as proxy:
        assert proxy.url == f"http://me:p%40ss%3Aword@127.0.0.1:{proxy.port}"
        for headers in ({}, {"Proxy-Authorization": "Basic bWU6bm8="}):
            refusal = _ask_proxy(proxy, method, target, headers)
            assert refusal.startswith(b"HTTP/1.1 407 ")
            assert b"Proxy-Authenticate: Basic" in refusal
        accepted = _ask_proxy(proxy, method, target, BASIC)
        assert accepted.split(b" ", 2)[1] == b"200"
        assert [passage.status for passage in proxy.passages] == [407, 407, 200 if method == "CONNECT" else None]
    assert len(plain.server.requests) == (method == "GET")


def test_an_origin_that_is_not_there_is_a_bad_gateway() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with ForwardProxy() as proxy:
        assert _ask_proxy(proxy, "CONNECT", f"127.0.0.1:{port}", {}).startswith(b"HTTP/1.1 502 ")
        assert _ask_proxy(proxy, "GET", f"http://127.0.0.1:{port}/a", {}).startswith(b"HTTP/1.1 502 ")


def test_a_proxy_can_refuse_everything(plain: Client) -> None:
    with ForwardProxy(refuse_status=403) as proxy:
        assert _ask_proxy(proxy, "GET", plain.server.url("a.bin"), {}).startswith(b"HTTP/1.1 403 ")
        assert [passage.status for passage in proxy.passages] == [403]
    assert plain.server.requests == []


def test_a_client_that_leaves_a_tunnel_ends_the_origins_side(plain: Client) -> None:
    plain.server.set_faults(Faults(Stall(after_bytes=10)))
    with ForwardProxy() as proxy:
        raw = socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT_S)
        raw.sendall(f"CONNECT 127.0.0.1:{plain.server.port} HTTP/1.1\r\n\r\n".encode())
        assert raw.recv(4096).startswith(b"HTTP/1.1 200 ")
        raw.sendall(b"GET /a.bin HTTP/1.1\r\n\r\n")
        plain.server.wait_requests(1)
        raw.close()
        plain.server.wait_open_connections(0)
        assert proxy.passages[0].finished


def test_nothing_of_the_proxy_remains() -> None:
    threads = threading.active_count()
    with ForwardProxy() as proxy:
        repr(proxy)
    assert not Path(f"/proc/{proxy.pid}").exists()
    assert threading.active_count() <= threads
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT_S)


def _ask_proxy(proxy: ForwardProxy, method: str, target: str, headers: dict[str, str]) -> bytes:
    """The head of what comes back."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    with socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT_S) as raw:
        raw.sendall("\r\n".join([*lines, "\r\n"]).encode())
        head = b""
        while b"\r\n\r\n" not in head and (piece := raw.recv(4096)):
            head += piece
    return head
