"""An answer on its way through a connection: whole, at a rate, in trickles, held back, cut off.

Answer  ->  head  ->  [0, hold)  gate  [hold, cut)  ->  reset, close or stall
                 \\->  the whole body                ->  the next request
"""

from __future__ import annotations

import contextlib
import fcntl
import http
import os
import select
import socket
import ssl
import struct
import termios
import threading
import time
from collections.abc import Callable

from slipstream.testing.range_answers import BEFORE_HEAD, Answer, Body, Cut, FileBytes, body_bytes, body_length

_PIECE_BYTES = 1 << 20
_SENDFILE_BYTES = 4 << 20
_PACES_PER_S = 20.0  # a rate is kept over a twentieth of a second
_DRAIN_TIMEOUT_S = 1.0
_DRAIN_POLL_S = 0.001
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # socket(7), SO_LINGER


class Gate:
    """Where answers wait to be released."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting = 0
        self._released = 0

    def begin(self) -> int:
        """Notes that an answer may come to the gate later; what `wait_released` is then given."""
        with self._changed:
            return self._released

    def wait_released(self, begun: int) -> None:
        """Waits until `release` has been called since `begin`: no answer may be late for it."""
        with self._changed:
            if self._released > begun:
                return
            self._waiting += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._released > begun)

    def release(self) -> None:
        """Lets all go that wait now, or have begun and are on their way."""
        with self._changed:
            self._released += 1
            self._waiting = 0
            self._changed.notify_all()

    def wait_count(self, count: int, timeout_s: float) -> int:
        """Waits until at least `count` wait; returns how many do."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting >= count, timeout_s)
            return self._waiting


class Sender:
    """Sends an answer through a connection. For one thread.

    Attributes:
        body_sent: bytes of the answer's body handed to the kernel so far.
    """

    def __init__(
        self, connection: socket.socket, wait_released: Callable[[], None], on_progress: Callable[[int, bool], None]
    ) -> None:
        """`on_progress` is called with `body_sent`, and whether the answer waits at the gate or for ever."""
        self._connection = connection
        self._wait_released = wait_released
        self._on_progress = on_progress
        self._paced_until = 0.0
        self.body_sent = 0

    def send(self, answer: Answer, *, with_body: bool) -> bool:
        """Sends as much of an answer as it wants; returns whether the connection is good for another.

        Raises:
            OSError: the client is gone.
        """
        self.body_sent = 0
        time.sleep(answer.delay_s)
        end = body_length(answer.body) if with_body else 0
        stops: list[tuple[int, Cut | None]] = []
        if answer.hold_after is not None:
            stops.append((answer.hold_after, None))
        if answer.cut is not None:
            stops.append((answer.cut.after_bytes, answer.cut))
        stops.sort(key=lambda stop: (stop[0], stop[1] is not None))
        head_sent = False
        for place, cut in stops:
            if place != BEFORE_HEAD:
                if not head_sent:
                    self._connection.sendall(_head(answer))
                    head_sent = True
                self._send_until(answer, min(place, end))
            if cut is not None:
                self._cut(cut)
                return False
            self._wait_at_gate()
        if not head_sent:
            self._connection.sendall(_head(answer))
        self._send_until(answer, end)
        if answer.chunk_bytes and with_body:
            self._connection.sendall(b"0\r\n\r\n")
        return answer.closing is None and answer.raw_head is None

    def _send_until(self, answer: Answer, end: int) -> None:
        """The body up to its byte `end`."""
        paced = answer.bytes_per_s is not None or answer.piece_bytes is not None
        if isinstance(answer.body, FileBytes) and not (paced or answer.chunk_bytes or self._is_tls):
            self._send_file(answer.body, end)
            return
        piece_bytes = answer.chunk_bytes or _PIECE_BYTES
        if answer.bytes_per_s is not None:
            piece_bytes = min(piece_bytes, max(1, int(answer.bytes_per_s / _PACES_PER_S)))
        if answer.piece_bytes is not None:
            piece_bytes = min(piece_bytes, answer.piece_bytes)
        while self.body_sent < end:
            piece = _read_piece(answer.body, self.body_sent, min(end, self.body_sent + piece_bytes))
            time.sleep(answer.pause_s)
            if answer.bytes_per_s is not None:
                self._wait_pace(len(piece) / answer.bytes_per_s)
            self._connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if answer.chunk_bytes else piece)
            self._count(len(piece))

    def _send_file(self, body: FileBytes, end: int) -> None:
        socket_fd = self._connection.fileno()
        while self.body_sent < end:
            wanted = min(end - self.body_sent, _SENDFILE_BYTES)
            sent = os.sendfile(socket_fd, body.fd, body.start + self.body_sent, wanted)
            if not sent:
                raise OSError("the file has become shorter")
            self._count(sent)

    def _count(self, sent: int) -> None:
        self.body_sent += sent
        self._on_progress(self.body_sent, False)

    def _wait_pace(self, seconds: float) -> None:
        now = time.monotonic()
        self._paced_until = max(now, self._paced_until) + seconds
        time.sleep(self._paced_until - now)

    def _wait_at_gate(self) -> None:
        self._on_progress(self.body_sent, True)
        self._wait_released()
        self._on_progress(self.body_sent, False)

    def _cut(self, cut: Cut) -> None:
        if cut.how == "stall":
            self._on_progress(self.body_sent, True)
            wait_gone(self._connection)
        elif cut.how == "reset":
            self._wait_drained()
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        else:
            close_orderly(self._connection)

    def _wait_drained(self) -> None:
        """Until the client's kernel has all that was sent: a reset throws away the rest."""
        deadline = time.monotonic() + _DRAIN_TIMEOUT_S
        while time.monotonic() < deadline:
            unacknowledged = fcntl.ioctl(self._connection.fileno(), termios.TIOCOUTQ, bytes(4))
            if not int.from_bytes(unacknowledged, "little"):
                return
            time.sleep(_DRAIN_POLL_S)

    @property
    def _is_tls(self) -> bool:
        return isinstance(self._connection, ssl.SSLSocket)


def wait_gone(connection: socket.socket) -> None:
    """Until the client has closed its end, or somebody shuts the connection down."""
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    poller.poll()


def close_orderly(connection: socket.socket) -> None:
    """Says to the client that nothing more comes: a FIN, in TLS behind a close_notify."""
    if isinstance(connection, ssl.SSLSocket):
        connection.settimeout(0)  # what the client says to it is not waited for
        with contextlib.suppress(OSError, ValueError):
            connection.unwrap()
    with contextlib.suppress(OSError):  # it may be gone
        socket.socket.shutdown(connection, socket.SHUT_WR)


def _head(answer: Answer) -> bytes:
    if answer.raw_head is not None:
        return answer.raw_head
    try:
        phrase = http.HTTPStatus(answer.status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {answer.status} {phrase}", *(f"{name}: {value}" for name, value in answer.headers.items())]
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1")


def _read_piece(body: Body, start: int, end: int) -> bytes:
    piece = body_bytes(body, start, end)
    if not piece:
        raise OSError("the file has become shorter")
    return piece
