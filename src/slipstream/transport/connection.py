"""One persistent HTTP/1.1 connection that receives bodies straight into the caller's memory.

Why not http.client: a body is read there through a BufferedReader, a SocketIO and, with TLS, two more Python calls for
each record of 16 KB. Calling SSLSocket.read directly takes 1.1 instead of 1.9 CPU seconds per GB on two cores, and
5.3 instead of 9.0 s for 5.6 GB with eight connections (docs/performance.md). Plain sockets gain little (in both cases
recv_into into the destination), but know after each call how many bytes are there. Source: RFC 9112.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import select
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar, cast

from slipstream.errors import UsageError
from slipstream.transport.failures import Failure, Kind, explain_os_error
from slipstream.transport.fork_gate import OPENSSL
from slipstream.transport.origin import Origin, tls_context

T = TypeVar("T")

_UNSENDABLE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
_MOST_HEAD_BYTES = 64 << 10
_FIRST_READ_BYTES = 16 << 10  # of the answer: the head, and what of the body came with it
_MOST_ERROR_BYTES = 16 << 10
_MOST_INTERIM = 8  # answers such as 100 and 103 before the real one


@dataclass(frozen=True, slots=True)
class Head:
    """The first part of a response.

    Attributes:
        status: of HTTP.
        headers: by lower-case name; of several equal ones the first.
    """

    status: int
    headers: Mapping[str, str]

    @property
    def length(self) -> int | None:
        """Bytes of the body; None where the response does not say, or sends it in chunks (RFC 9112, 6.3)."""
        text = "" if "transfer-encoding" in self.headers else self.headers.get("content-length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection can be used again after the body."""
        return "close" not in self.headers.get("connection", "").lower() and "transfer-encoding" not in self.headers


class Connection:
    """Used by one thread at a time; `abort` may be called from any.

    Attributes:
        origin: where it leads.
        served: how many responses it has given.
    """

    def __init__(self, origin: Origin) -> None:
        """Looks the host up, which nobody can abort; `open` connects.

        Raises:
            Failure: it cannot be found.
        """
        self.origin = origin
        self.served = 0
        self._rest = memoryview(b"")  # of the body, received with the head
        self._aborted = False
        target = origin.proxy or origin
        try:
            self._addresses = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
            self._socket = socket.socket(*self._addresses[0][:3])
        except OSError as error:
            raise _at_proxy(explain_os_error(error, "connecting"), origin) from None

    def open(self, *, timeout_s: float) -> None:
        """Connects: TCP, the proxy's tunnel, TLS.

        Raises:
            Failure: any of them failed. The connection is to be closed all the same.
        """
        until = monotonic() + timeout_s
        try:
            self._connect(until)
        except OSError as error:
            raise _at_proxy(explain_os_error(error, "connecting"), self.origin) from None
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.origin.scheme == "https":
                if self.origin.proxy is not None:
                    self._open_tunnel(self.origin.proxy.authorization, until)
                self._greet(until)
        except OSError as error:
            raise explain_os_error(error, "greeting") from None

    def request(self, target: str, headers: Mapping[str, str], *, timeout_s: float) -> Head:
        """Sends a GET and receives the head of the answer; the body is received by `receive`.

        Raises:
            Failure: STALE where the server had closed the connection after an earlier answer.
            UsageError: a header cannot be sent; nothing was.
        """
        lines = [f"GET {self._absolute(target)} HTTP/1.1", f"Host: {self.origin.host_header}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if self.origin.proxy is not None and self.origin.scheme == "http" and self.origin.proxy.authorization:
            lines.append(f"Proxy-Authorization: {self.origin.proxy.authorization}")
        if any(_UNSENDABLE.search(line) for line in lines):
            raise UsageError("a token or header in storage_options holds a character that no HTTP header may have")
        try:
            self._socket.settimeout(timeout_s)
            with OPENSSL.inside() if isinstance(self._socket, ssl.SSLSocket) else contextlib.nullcontext():
                self._socket.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
            head = self._receive_head(monotonic() + timeout_s)
        except TimeoutError as error:
            raise explain_os_error(error, "waiting for the first byte") from None
        except OSError as error:
            failure = explain_os_error(error, "waiting for an answer")
            raise self._stale() if self.served and failure.kind is Kind.LOST else failure from None
        self.served += 1
        return head

    def receive(self, target: memoryview) -> int:
        """Receives some bytes of the body into memory; returns how many, 0 at the end of the connection.

        Raises:
            OSError: as the system says; TimeoutError where nothing came in time.
        """
        return self.take_rest(target) or self.receive_more(len(target), target)

    def take_rest(self, target: memoryview) -> int:
        """Copies what of the body came with the head; returns how many bytes.

        By memmove, which releases the interpreter's lock: the first bytes touch a huge page that must be cleared.
        """
        count = min(len(self._rest), len(target))
        if count:
            source, self._rest = bytes(self._rest[:count]), self._rest[count:]
            ctypes.memmove((ctypes.c_char * count).from_buffer(target), source, count)
        return count

    @property
    def receive_more(self) -> Callable[[int, memoryview], int]:
        """`receive` for a quick loop, once `take_rest` has nothing left: takes the length and the target."""
        if isinstance(self._socket, ssl.SSLSocket):
            return cast(Callable[[int, memoryview], int], self._socket.read)
        return self._receive_plain

    def _receive_plain(self, length: int, target: memoryview) -> int:
        return self._socket.recv_into(target, length)

    def receive_error(self, head: Head, *, timeout_s: float) -> bytes:
        """What a refusal says, as far as it is short and comes in time."""
        until = monotonic() + timeout_s
        body = bytearray(_MOST_ERROR_BYTES)
        wanted = min(head.length if head.length is not None else len(body), len(body))
        count = 0
        with contextlib.suppress(OSError):
            while count < wanted:
                self._wait_until(until)
                more = self.receive(memoryview(body)[count:wanted])
                if not more:
                    break
                count += more
                if head.length is None and body.rfind(b"0\r\n\r\n", 0, count) >= 0:  # the last chunk
                    break
        return bytes(body[:count])

    def set_timeout(self, timeout_s: float) -> None:
        """How long each further `receive` may wait."""
        self._socket.settimeout(timeout_s)

    def abort(self) -> None:
        """Makes the call that another thread is in, and every later one, end at once."""
        self._aborted = True
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # not SSLSocket's, which forgets the TLS state

    def is_readable(self) -> bool:
        """Whether something came unasked, as the end of the connection does: then it cannot be used again."""
        if self._rest or (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    def _absolute(self, target: str) -> str:
        plain_proxy = self.origin.proxy is not None and self.origin.scheme == "http"
        return f"http://{self.origin.host_header}{target}" if plain_proxy else target

    def _connect(self, until: float) -> None:
        """TCP, to the first of the host's addresses that answers."""
        for place, (family, kind, protocol, _, address) in enumerate(self._addresses):
            if place:
                self._socket.close()
                self._socket = socket.socket(family, kind, protocol)
            now = monotonic()
            self._wait_until(now + (until - now) / (len(self._addresses) - place))
            try:
                self._socket.connect(address)
                return
            except OSError:
                if self._aborted or place == len(self._addresses) - 1:
                    raise

    def _open_tunnel(self, authorization: str, until: float) -> None:
        host = f"[{self.origin.host}]" if ":" in self.origin.host else self.origin.host
        lines = [f"CONNECT {host}:{self.origin.port} HTTP/1.1", f"Host: {host}:{self.origin.port}"]
        if authorization:
            lines.append(f"Proxy-Authorization: {authorization}")
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        head = self._receive_head(until)
        if head.status != 200:
            text = f"the proxy answered HTTP {head.status} to CONNECT"
            raise Failure(Kind.REFUSED if head.status < 500 else Kind.FAULT, text, network="proxy")
        if self._rest:  # it would pass for an answer of the server that TLS has vouched for
            raise Failure(Kind.REFUSED, "the proxy put bytes of its own into the tunnel", network="proxy")

    def _greet(self, until: float) -> None:
        """TLS. In two steps, so that `abort` finds the socket that waits."""
        host = self.origin.host
        with OPENSSL.inside():
            context = tls_context(self.origin.ca_bundle)
            self._socket.getpeername()  # of a connection that is reset already, wrap_socket would lose the socket
            tls = context.wrap_socket(self._socket, server_hostname=host, do_handshake_on_connect=False)
        self._socket = tls
        self._work_until(until, tls.do_handshake)

    def _wait_until(self, until: float) -> None:
        """Lets the next call wait until then.

        Raises:
            OSError: that has passed, or the connection was aborted before there was something to abort.
        """
        self._socket.settimeout(self._left_s(until))

    def _left_s(self, until: float) -> float:
        left_s = until - monotonic()
        if left_s <= 0:
            raise TimeoutError
        if self._aborted:
            raise ConnectionAbortedError
        return left_s

    def _work_until(self, until: float, step: Callable[[], T]) -> T:
        """Has OpenSSL do something that takes several records, waiting for them outside of the gate for forks.

        Raises:
            OSError: see `_wait_until`, and what the step raises.
        """
        self._socket.setblocking(False)
        poll = select.poll()
        while True:
            left_s = self._left_s(until)
            try:
                with OPENSSL.inside():
                    done = step()
                self._socket.settimeout(left_s)
                return done
            except ssl.SSLWantReadError:
                events = select.POLLIN
            except ssl.SSLWantWriteError:
                events = select.POLLOUT
            poll.register(self._socket, events)
            poll.poll(left_s * 1000)

    def _receive_head(self, until: float) -> Head:
        """The head of the answer itself, behind those that only announce it."""
        for _ in range(_MOST_INTERIM):
            head = self._receive_any_head(until)
            if head.status >= 200:
                return head
        raise Failure(Kind.FAULT, f"it sent {_MOST_INTERIM} interim answers and none to the request")

    def _receive_any_head(self, until: float) -> Head:
        buffer = bytearray(max(_FIRST_READ_BYTES, len(self._rest)))
        count = self.take_rest(memoryview(buffer))
        while (end := buffer.find(b"\r\n\r\n", 0, count)) < 0:
            if count == len(buffer):
                if count >= _MOST_HEAD_BYTES:
                    raise Failure(Kind.FAULT, f"the answer's headers are longer than {_MOST_HEAD_BYTES:,} bytes")
                buffer += bytes(count)
            more = self._receive_of_head(memoryview(buffer)[count:], until)
            if not more:
                raise self._stale() if self.served and not count else _closed()
            count += more
        self._rest = memoryview(buffer)[end + 4 : count]
        return _parse_head(bytes(memoryview(buffer)[:end]))

    def _receive_of_head(self, target: memoryview, until: float) -> int:
        tls = self._socket
        if isinstance(tls, ssl.SSLSocket):
            return cast(int, self._work_until(until, lambda: tls.read(len(target), target)))
        self._wait_until(until)
        return self._receive_plain(len(target), target)

    def _stale(self) -> Failure:
        return Failure(Kind.STALE, "the server had closed the connection")


def _closed() -> Failure:
    return Failure(Kind.LOST, "the connection was closed before the answer", network="reset")


def _at_proxy(failure: Failure, origin: Origin) -> Failure:
    if origin.proxy is not None:
        failure.network = "proxy"
        failure.text = f"the proxy {origin.proxy.host}:{origin.proxy.port}: {failure.text}"
    return failure


def _parse_head(head: bytes) -> Head:
    """Status and headers; obsolete line folding and header lines without a name are refused (RFC 9112, 2.2 and 5.2)."""
    status_line, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = status_line.partition(" ")
    status = rest[:3]
    if not version.startswith("HTTP/1.") or not (status.isascii() and status.isdigit() and len(status) == 3):
        raise Failure(Kind.FAULT, "the answer is not HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise Failure(Kind.FAULT, "the answer has a malformed header")
        kept = headers.setdefault(name.lower(), value.strip())
        if kept != value.strip() and name.lower() == "content-length":
            raise Failure(Kind.FAULT, "the answer has two lengths")
    if version == "HTTP/1.0":  # where connections end by default
        headers.setdefault("connection", "close")
    return Head(int(status), headers)
