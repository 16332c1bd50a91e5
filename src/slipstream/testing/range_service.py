"""The process behind `range_server.RangeServer`: accepts, reads requests, decides, delivers, keeps the log.

    accept  ->  a thread for each connection:  read_request  ->  FaultPicker  ->  honest_answer, altered  ->  Sender

Run as `python -m slipstream.testing.range_service`, by `Commanded`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import resource
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from io import BufferedReader
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from slipstream.testing.commanded import obey, settings
from slipstream.testing.range_answers import Answer, Closing, Content, Exchange, Request, honest_answer
from slipstream.testing.range_delivery import Gate, Sender, close_orderly
from slipstream.testing.range_faults import MaxInFlight
from slipstream.testing.range_log import RequestLog
from slipstream.testing.range_schedule import Fault, FaultPicker, Faults

_BACKLOG = 512
_LONGEST_HEAD_BYTES = 1 << 16
_DISCARD_BYTES = 1 << 16


class RangeService:
    """Serves a folder. Locks: the log's is taken below `_changed`."""

    def __init__(self, root: str, tls: ssl.SSLContext | None, seed: int) -> None:
        self._root = Path(root)
        self._tls = tls
        self._seed = seed
        self.log = RequestLog()
        self._gate = Gate()
        self._changed = threading.Condition()
        self._memory: dict[str, Content] = {}
        self._open: dict[int, socket.socket] = {}
        self._in_flight = 0
        self._connections = 0
        self._picker = FaultPicker(Faults(), seed)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    # What RangeServer asks for.

    def set_faults(self, faults: list[Any]) -> None:
        picker = FaultPicker(Faults.from_json((module, name, fields) for module, name, fields in faults), self._seed)
        with self._changed:
            self._picker = picker

    def reset(self) -> None:
        self.set_faults([])
        self._gate.release()
        self.log.clear()

    def put(self, path: str, data: str) -> None:
        contents = base64.b64decode(data)
        fd = os.memfd_create(path.replace("/", "_")[-200:])
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(contents)
        etag = f'"{hashlib.blake2b(contents, digest_size=16).hexdigest()}"'
        with self._changed:
            replaced = self._memory.pop(path, None)
            self._memory[path] = Content.of(fd)._replace(etag=etag)
            if replaced:
                os.close(replaced.fd)

    def wait_held(self, count: int, timeout_s: float) -> int:
        return self._gate.wait_count(count, timeout_s)

    def release(self) -> None:
        self._gate.release()

    def connections(self) -> list[int]:
        with self._changed:
            return [len(self._open), self._connections]

    def wait_open_connections(self, at_most: int, timeout_s: float) -> int:
        with self._changed:
            self._changed.wait_for(lambda: len(self._open) <= at_most, timeout_s)
            return len(self._open)

    def close_connections(self) -> None:
        with self._changed:
            for connection in self._open.values():
                with contextlib.suppress(OSError):  # the client may have been faster
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)

    # A connection.

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with self._changed:
                self._connections += 1
                number = self._connections
                self._open[number] = connection
            threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                with self._changed:
                    self._open[number] = connection
                connection.do_handshake()
            with connection.makefile("rb") as lines:
                self._serve_requests(connection, lines, number)
        except (OSError, ValueError):
            pass  # the client went, or sent what is no HTTP
        finally:
            with self._changed:
                connection.close()
                del self._open[number]
                self._changed.notify_all()

    def _serve_requests(self, connection: socket.socket, lines: BufferedReader, number: int) -> None:
        for on_connection in count(1):
            request = read_request(lines)
            if request is None:
                break
            with self._open_content(request.path) as content:
                exchange = Exchange(request, content, on_connection)
                answer, goes_on = self._answer(connection, exchange, number)
            if answer.closing:
                time.sleep(answer.closing.pause_s)
                if answer.closing.waits_for_next:
                    lines.peek(1)
            if not goes_on:
                if answer.cut is None:
                    close_orderly(connection)
                break

    def _answer(self, connection: socket.socket, exchange: Exchange, number: int) -> tuple[Answer, bool]:
        """Sends the answer; returns it, and whether the connection is good for another."""
        begun = self._gate.begin()  # before its faults are picked, so that one that is held hears of the next release
        key, struck = self._begin(exchange, number)
        counted = not any(isinstance(fault, MaxInFlight) for fault, _ in struck)
        try:
            answer = _faulty_answer(exchange, struck)
            before_head = answer.cut is not None and answer.cut.after_bytes < 0
            self.log.note(key, status=None if before_head or answer.raw_head else answer.status)
            sender = Sender(
                connection,
                lambda: self._gate.wait_released(begun),
                lambda sent, waits: self.log.note(key, body_bytes=sent, state="waiting" if waits else "answering"),
            )
            return answer, sender.send(answer, with_body=exchange.request.method != "HEAD")
        finally:
            self.log.note(key, state="finished")
            with self._changed:
                self._in_flight -= counted
                self._changed.notify_all()

    def _begin(self, exchange: Exchange, connection: int) -> tuple[int, list[tuple[Fault, int]]]:
        """Decides which faults strike, and enters the request in the log."""
        with self._changed:
            exchange.in_flight = self._in_flight + 1
            struck = self._picker.pick(exchange)
            for fault, at in struck.copy():
                if isinstance(fault, MaxInFlight) and self._has_room(fault):
                    struck.remove((fault, at))
            self._in_flight += not any(isinstance(fault, MaxInFlight) for fault, _ in struck)
            return self.log.add(exchange, connection, tuple(type(fault).__name__ for fault, _ in struck)), struck

    def _has_room(self, fault: MaxInFlight) -> bool:
        return self._changed.wait_for(lambda: self._in_flight < fault.limit, fault.grace_s)

    @contextlib.contextmanager
    def _open_content(self, path: str) -> Iterator[Content | None]:
        """The file of this name, from memory or below the root; symbolic links may lead anywhere."""
        content = self._find_content(path)
        try:
            yield content
        finally:
            if content:
                os.close(content.fd)

    def _find_content(self, path: str) -> Content | None:
        with self._changed:
            if path in self._memory:
                stored = self._memory[path]
                return stored._replace(fd=os.dup(stored.fd))
        file = self._root / path
        if not path or path.startswith("/") or ".." in path.split("/") or "\0" in path or not file.is_file():
            return None
        return Content.of(os.open(file, os.O_RDONLY | os.O_CLOEXEC))


def read_request(lines: BufferedReader) -> Request | None:
    """The next request on a connection; None where it has ended.

    Raises:
        ValueError: what came is no HTTP request, or its head is longer than 64 KiB.
    """
    first = lines.readline(_LONGEST_HEAD_BYTES).decode("latin-1")
    if not first:
        return None
    method, target, version = first.split()
    if not version.startswith("HTTP/1."):
        raise ValueError(f"{version} is not served")
    headers: dict[str, str] = {}
    left = _LONGEST_HEAD_BYTES
    while line := lines.readline(left).decode("latin-1").rstrip("\r\n"):
        left -= len(line)
        if left <= 0:
            raise ValueError("the head is too long")
        name, value = line.split(":", 1)
        headers[name] = f"{headers[name]}, {value.strip()}" if name in headers else value.strip()
    path, _, query = target.partition("?")
    request = Request(method, unquote(path.removeprefix("/")), query, headers)
    unread = int(request.header("content-length") or 0)
    while unread > 0 and (read := lines.read(min(unread, _DISCARD_BYTES))):
        unread -= len(read)
    return request


def _faulty_answer(exchange: Exchange, struck: list[tuple[Fault, int]]) -> Answer:
    for fault, exchange.number in struck:
        fault.prepare(exchange)
    answer = honest_answer(exchange)
    for fault, exchange.number in struck:
        fault.alter(answer, exchange)
    if answer.closing is None and (exchange.request.header("connection") or "").lower() == "close":
        answer.closing = Closing(announced=True)
    if answer.closing and answer.closing.announced:
        answer.headers["Connection"] = "close"
    return answer


def main() -> None:
    """Serves until told to stop."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    asked = settings()
    tls = None
    if asked["tls"]:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*asked["tls"])
    service = RangeService(asked["root"], tls, asked["seed"])
    obey(
        {
            "set_faults": service.set_faults,
            "reset": service.reset,
            "put": service.put,
            "requests": service.log.to_json,
            "wait_requests": service.log.wait_count,
            "wait_held": service.wait_held,
            "release": service.release,
            "connections": service.connections,
            "wait_open_connections": service.wait_open_connections,
            "close_connections": service.close_connections,
        },
        service.port,
    )


if __name__ == "__main__":
    main()
