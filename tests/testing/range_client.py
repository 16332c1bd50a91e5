"""A client without cleverness, for the tests of the range server: it reports what came and mends nothing."""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from slipstream.testing.certificates import CertificateAuthority
from slipstream.testing.range_server import RangeServer

TIMEOUT_S = 20.0
FILE = bytes(range(256)) * 400  # 102,400 bytes
SIZE = len(FILE)


class Response(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Client:
    """One connection at a time to one server."""

    def __init__(self, server: RangeServer, ca_bundle: Path | None) -> None:
        self.server = server
        self._tls = ssl.create_default_context(cafile=ca_bundle) if ca_bundle else None
        self.connection = self.connect()

    def connect(self) -> http.client.HTTPConnection:
        if self._tls:
            return http.client.HTTPSConnection("127.0.0.1", self.server.port, timeout=TIMEOUT_S, context=self._tls)
        return http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=TIMEOUT_S)

    def connect_raw(self, *, suppress_ragged_eofs: bool = True) -> socket.socket:
        raw = socket.create_connection(("127.0.0.1", self.server.port), TIMEOUT_S)
        if self._tls is None:
            return raw
        return self._tls.wrap_socket(raw, server_hostname="127.0.0.1", suppress_ragged_eofs=suppress_ragged_eofs)

    def ask_raw(self, range_: str = "bytes=0-999", *, suppress_ragged_eofs: bool = True) -> socket.socket:
        """Sends a request, and leaves its answer to the caller."""
        raw = self.connect_raw(suppress_ragged_eofs=suppress_ragged_eofs)
        raw.sendall(f"GET /a.bin HTTP/1.1\r\nHost: x\r\nRange: {range_}\r\n\r\n".encode())
        return raw

    def start(
        self,
        range_: str | None = "bytes=0-999",
        path: str = "a.bin",
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        """Sends a request and reads the head of its answer."""
        asked = {"Range": range_} if range_ else {}
        self.connection.request(method, urlsplit(self.server.url(path)).path, headers=asked | dict(headers or {}))
        return self.connection.getresponse()

    def ask(
        self,
        range_: str | None = "bytes=0-999",
        path: str = "a.bin",
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Sends a request and reads the whole answer."""
        response = self.start(range_, path, method, headers)
        return Response(response.status, response.headers, response.read())

    def reset(self) -> None:
        self.connection.close()
        self.server.reset()


def read_all(raw: socket.socket) -> bytes:
    """Everything until the server ends the connection."""
    pieces = []
    with raw:
        while piece := raw.recv(1 << 16):
            pieces.append(piece)
    return b"".join(pieces)


def read_until_reset(raw: socket.socket) -> bytes:
    """The body that came before the server's reset, if it was one.

    The kernel is asked, for Python's ssl shows a reset as an ordinary end up to 3.11 and in the first 3.12.
    """
    poller = select.poll()
    poller.register(raw.fileno(), 0)
    ((_, events),) = poller.poll(TIMEOUT_S * 1000)
    assert events & select.POLLERR
    pieces = []
    with raw, contextlib.suppress(ConnectionResetError):
        while piece := raw.recv(1 << 16):
            pieces.append(piece)
    return b"".join(pieces).partition(b"\r\n\r\n")[2]


def serve_twice(folder: Path) -> tuple[RangeServer, RangeServer, Path]:
    """A plain server and one with TLS, of the same file `a.bin`, and what a client trusts."""
    root = folder / "root"
    (root / "model").mkdir(parents=True)
    for name in ("a.bin", "model/b.bin"):
        (root / name).write_bytes(FILE)
    (root / "empty").write_bytes(b"")
    authority = CertificateAuthority(folder)
    return RangeServer(root), RangeServer(root, tls=authority.issue()), authority.ca_bundle
