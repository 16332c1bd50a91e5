"""Proxies: from the environment and from storage_options, with passwords, and those that cannot be trusted."""

from __future__ import annotations

import base64
import socket
from urllib.parse import urlsplit

import pytest

from slipstream.errors import ReadError, UsageError
from slipstream.testing.proxy import ForwardProxy
from tests.transport.serving import NAME, RawServer, Served, fail, quick, read_head


def variable(served: Served) -> str:
    return f"{urlsplit(served.url).scheme.upper()}_PROXY"


def test_the_environment_names_the_proxy(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY carries plain requests, HTTPS_PROXY tunnels; the server's certificate is checked all the same."""
    with ForwardProxy() as proxy:
        monkeypatch.setenv(variable(served), proxy.url)
        served.load_whole()
        passages = proxy.passages
    assert passages
    assert {passage.method for passage in passages} == {"CONNECT" if served.storage_options else "GET"}


def test_no_proxy_exempts_hosts(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """What NO_PROXY lists is asked directly."""
    monkeypatch.setenv(variable(served), "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "example.com,127.0.0.1")
    served.load_whole()


def test_the_options_name_the_proxy(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """storage_options come before the environment, with its exemptions."""
    monkeypatch.setenv(variable(served), "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "*")
    with ForwardProxy() as proxy:
        served.load_whole(proxy=proxy.url)
        assert proxy.passages


def test_the_proxy_resolves_names(plain: Served) -> None:
    """A host that only the proxy knows is no obstacle."""
    with ForwardProxy(routes={"weights.invalid:80": f"127.0.0.1:{plain.server.port}"}) as proxy:
        plain.load_whole(url=f"http://weights.invalid/{NAME}", proxy=proxy.url)
        assert {passage.target for passage in proxy.passages} == {f"http://weights.invalid/{NAME}"}


def test_a_password_is_for_the_proxy_alone(served: Served) -> None:
    """Proxy-Authorization goes to the proxy, never into the tunnel nor on to the server."""
    with ForwardProxy(credentials=("me", "p@ss:word")) as proxy:
        served.load_whole(proxy=proxy.url)
        expected = "Basic " + base64.b64encode(b"me:p@ss:word").decode()
        assert {passage.header("Proxy-Authorization") for passage in proxy.passages} == {expected}
    assert all(request.header("Proxy-Authorization") is None for request in served.server.requests)


def test_the_servers_credentials_do_not_reach_the_proxy_through_a_tunnel(tls: Served) -> None:
    """What is said to the server is between it and us."""
    with ForwardProxy() as proxy:
        tls.load_whole(proxy=proxy.url, bearer_token="token-of-the-tests")
        assert all(passage.header("Authorization") is None for passage in proxy.passages)
    assert all(request.header("Authorization") for request in tls.server.requests)


def test_a_proxy_that_wants_a_password(served: Served) -> None:
    """407 is one error at once, and names where proxies are set."""
    with ForwardProxy(credentials=("me", "secret")) as proxy:
        error = served.fail(proxy=f"http://127.0.0.1:{proxy.port}")
        assert len(proxy.passages) == 1
    assert type(error) is ReadError
    assert error.attempts == 1
    assert "407" in str(error)
    assert "HTTPS_PROXY" in str(error)


@pytest.mark.parametrize(("status", "attempts"), [(403, 1), (502, 3)])
def test_a_proxy_that_makes_no_tunnel(tls: Served, status: int, attempts: int) -> None:
    """A tunnel that is refused is an error that names the proxy; what may pass is tried again."""
    with ForwardProxy(refuse_status=status) as proxy:
        error = tls.fail(quick(attempts=3), proxy=proxy.url)
    assert error.attempts == attempts
    assert f"the proxy answered HTTP {status} to CONNECT" in str(error)
    assert "HTTPS_PROXY" in str(error)


def test_a_proxy_that_is_not_there(served: Served) -> None:
    """The error names the proxy, which the URL does not."""
    error = served.fail(quick(attempts=2), proxy="http://127.0.0.1:1")
    assert "the proxy 127.0.0.1:1: the connection was refused" in str(error)
    assert error.attempts == 2


@pytest.mark.parametrize(
    "proxy", ["socks5://127.0.0.1:1080", "https://127.0.0.1:1", "http://me:secret@[::1", "http://h:port", "http://"]
)
def test_what_is_no_http_proxy(plain: Served, proxy: str) -> None:
    """A proxy that is not understood is an error of use, without its password."""
    error = plain.fail(proxy=proxy)
    assert type(error) is UsageError
    assert "secret" not in str(error)


def test_a_proxy_cannot_speak_for_the_server() -> None:
    """Bytes that a proxy puts behind its answer to CONNECT are outside of TLS, and never taken for the server's."""
    body = b"weights of the proxy's own"
    head = f"HTTP/1.1 206 Partial Content\r\nContent-Length: {len(body)}\r\nContent-Range: bytes 0-25/26\r\n\r\n"

    def serve(connection: socket.socket) -> None:
        assert read_head(connection).startswith(b"CONNECT")
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n" + head.encode() + body)
        connection.recv(1 << 16)

    with RawServer(serve) as proxy:
        error = fail("https://127.0.0.1:1/a.safetensors", quick(), {"proxy": f"http://127.0.0.1:{proxy.port}"})
    assert type(error) is ReadError
    assert "the proxy put bytes of its own into the tunnel" in str(error)
