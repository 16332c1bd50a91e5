"""A forward HTTP proxy that records what passes: tunnels (CONNECT) and plain requests (an absolute URI).

    with ForwardProxy(routes={"weights.example:443": f"127.0.0.1:{server.port}"}) as proxy:
        os.environ["HTTPS_PROXY"] = proxy.url
        read("https://weights.example/model/a.safetensors")
        assert [passage.target for passage in proxy.passages] == ["weights.example:443"]

It runs in a process of its own, as `range_server` does.
"""

from __future__ import annotations

import base64
import contextlib
import http
import socket
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from io import BufferedReader
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

from slipstream.testing.commanded import Commanded, obey, settings
from slipstream.testing.range_answers import find_header

_BACKLOG = 128
_CONNECT_TIMEOUT_S = 10.0
_PIECE_BYTES = 1 << 16
_LONGEST_LINE_BYTES = 1 << 16
_SETTLE_TIMEOUT_S = 0.2  # bytes are with the client a moment before they are counted
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Passage:
    """One request to the proxy, and what passed because of it.

    Attributes:
        method: CONNECT, or what was asked for plainly.
        target: host:port for CONNECT, otherwise the absolute URI.
        headers: as the proxy received them.
        status: the proxy's own answer: 200 for a tunnel, 407, 502; None where the answer is the origin's.
        sent_bytes: from the client to the origin, without the proxy's own part.
        received_bytes: from the origin to the client.
        finished: both sides have ended.
    """

    method: str
    target: str
    headers: dict[str, str] = field(repr=False)
    status: int | None = None
    sent_bytes: int = 0
    received_bytes: int = 0
    finished: bool = False

    def header(self, name: str) -> str | None:
        """The header's value, whatever the case of its name; None without it."""
        return find_header(self.headers, name)


class ForwardProxy:
    """Listens on 127.0.0.1 from construction until `close`. One connection carries one request or tunnel.

    Attributes:
        port: where it listens.
        url: what HTTP_PROXY and HTTPS_PROXY are set to, with the credentials if there are any.
        pid: the proxy's process id.
    """

    def __init__(
        self,
        *,
        credentials: tuple[str, str] | None = None,
        routes: Mapping[str, str] | None = None,
        refuse_status: int | None = None,
    ) -> None:
        """Starts the proxy.

        Args:
            credentials: user and password of Basic authentication; requests without them get 407.
            routes: for a host:port as the client names it, the host:port that is connected to. Others are resolved.
            refuse_status: every request gets this status and goes nowhere.

        Raises:
            OSError: it did not start; the reason is on the standard error.
        """
        self._proxy = Commanded(
            __name__, {"credentials": credentials, "routes": dict(routes or {}), "refuse_status": refuse_status}
        )
        self.port: int = self._proxy.greeting
        self.pid = self._proxy.pid
        user = "".join(f"{quote(part, safe='')}{end}" for part, end in zip(credentials or (), ":@", strict=False))
        self.url = f"http://{user}127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ForwardProxy 127.0.0.1:{self.port}, process {self.pid}>"

    def close(self) -> None:
        """Ends the process, and with it every connection. Further calls do nothing."""
        self._proxy.close()

    @property
    def passages(self) -> list[Passage]:
        """All requests since the start or the last `reset`, in the order in which they came."""
        return [Passage(**fields) for fields in self._proxy.ask("passages")]

    def reset(self) -> None:
        """Forgets the passages so far. Their connections stay."""
        self._proxy.ask("reset")


class ProxyService:
    """The proxy's process. All that changes is under `_changed`."""

    def __init__(
        self, credentials: list[str] | None, routes: Mapping[str, str], refuse_status: int | None = None
    ) -> None:
        self._authorization = credentials and "Basic " + base64.b64encode(":".join(credentials).encode()).decode()
        self._routes = routes
        self._refuse_status = refuse_status
        self._changed = threading.Condition()
        self._passages: dict[int, Passage] = {}
        self._connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def passages(self) -> list[dict[str, Any]]:
        with self._changed:
            self._changed.wait_for(lambda: all(one.finished for one in self._passages.values()), _SETTLE_TIMEOUT_S)
            return [asdict(one) for one in self._passages.values()]

    def reset(self) -> None:
        with self._changed:
            self._passages.clear()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, ValueError), client.makefile("rb") as lines:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            method, target, version, head = _read_head(lines)
            asked = Passage(method, target, dict(head))
            key = self._begin(asked)
            try:
                self._pass_on(client, lines, key, asked, version)
            finally:
                self._note(key, finished=True)

    def _pass_on(self, client: socket.socket, lines: BufferedReader, key: int, asked: Passage, version: str) -> None:
        if self._refuse_status is not None:
            self._refuse(client, key, self._refuse_status)
            return
        if self._authorization and asked.header("proxy-authorization") != self._authorization:
            self._refuse(client, key, 407, 'Proxy-Authenticate: Basic realm="tests"\r\n')
            return
        tunnels = asked.method == "CONNECT"
        url = urlsplit(f"//{asked.target}" if tunnels else asked.target)
        address = f"{url.hostname}:{url.port or _DEFAULT_PORTS[url.scheme]}"
        host, _, port = self._routes.get(address, address).rpartition(":")
        try:
            origin = socket.create_connection((host, int(port)), _CONNECT_TIMEOUT_S)
        except OSError:
            self._refuse(client, key, 502)
            return
        with origin:
            origin.settimeout(None)
            if tunnels:
                self._note(key, status=200)
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                origin.sendall(_plain_head(asked, url.netloc, url.path, url.query, version))
            self._relay(client, lines, origin, key)

    def _relay(self, client: socket.socket, lines: BufferedReader, origin: socket.socket, key: int) -> None:
        """Both ways, until both have ended."""
        upward = threading.Thread(target=self._relay_up, args=(lines, origin, key), daemon=True)
        upward.start()
        with contextlib.suppress(OSError):
            while piece := origin.recv(_PIECE_BYTES):
                client.sendall(piece)
                self._count(key, received_bytes=len(piece))
        for end in (client, origin):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        upward.join()

    def _relay_up(self, lines: BufferedReader, origin: socket.socket, key: int) -> None:
        with contextlib.suppress(OSError):
            while piece := lines.read1(_PIECE_BYTES):
                origin.sendall(piece)
                self._count(key, sent_bytes=len(piece))
        with contextlib.suppress(OSError):
            origin.shutdown(socket.SHUT_WR)

    def _refuse(self, client: socket.socket, key: int, status: int, header: str = "") -> None:
        self._note(key, status=status)
        head = f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\n{header}Content-Length: 0\r\nConnection: close"
        client.sendall(f"{head}\r\n\r\n".encode())

    def _begin(self, passage: Passage) -> int:
        with self._changed:
            self._connections += 1
            self._passages[self._connections] = passage
            return self._connections

    def _note(self, key: int, **changes: Any) -> None:
        with self._changed:
            if key in self._passages:
                self._passages[key] = replace(self._passages[key], **changes)
                self._changed.notify_all()

    def _count(self, key: int, *, sent_bytes: int = 0, received_bytes: int = 0) -> None:
        with self._changed:
            if passage := self._passages.get(key):
                self._note(
                    key,
                    sent_bytes=passage.sent_bytes + sent_bytes,
                    received_bytes=passage.received_bytes + received_bytes,
                )


def _read_head(lines: BufferedReader) -> tuple[str, str, str, list[tuple[str, str]]]:
    method, target, version = lines.readline(_LONGEST_LINE_BYTES).decode("latin-1").split()
    headers = []
    while line := lines.readline(_LONGEST_LINE_BYTES).decode("latin-1").rstrip("\r\n"):
        name, value = line.split(":", 1)
        headers.append((name, value.strip()))
    return method, target, version, headers


def _plain_head(asked: Passage, netloc: str, path: str, query: str, version: str) -> bytes:
    """What the origin is asked: RFC 9112, section 3.2.2 for the target, RFC 9110, section 7.6.1 for the headers."""
    target = (path or "/") + (f"?{query}" if query else "")
    kept = [f"{name}: {value}" for name, value in asked.headers.items() if not _is_for_proxy(name)]
    head = [f"{asked.method} {target} {version}", f"Host: {netloc}", *kept, "Connection: close"]
    return "\r\n".join([*head, "\r\n"]).encode("latin-1")


def _is_for_proxy(name: str) -> bool:
    return name.lower() in ("host", "connection", "keep-alive", "proxy-connection", "proxy-authorization")


def main() -> None:
    """Serves until told to stop."""
    service = ProxyService(**settings())
    obey({"passages": service.passages, "reset": service.reset}, service.port)


if __name__ == "__main__":
    main()
