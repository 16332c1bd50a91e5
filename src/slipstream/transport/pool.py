"""Connections that wait for their next request."""

from __future__ import annotations

from collections import defaultdict
from threading import Lock
from time import monotonic

from slipstream.transport.connection import Connection
from slipstream.transport.origin import Origin

# Stores close idle connections after some seconds (S3: about 5 to 20; nginx: 75), and a request on a closed one is a
# round trip lost. Unmeasured.
_LONGEST_IDLE_S = 5.0


class Pool:
    """Idle connections by origin; the one used last comes first. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._idle: defaultdict[Origin, list[tuple[float, Connection]]] = defaultdict(list)
        self._closed = False

    def take(self, origin: Origin) -> Connection | None:
        """A connection that is worth trying, or None."""
        while True:
            with self._lock:
                idle = self._idle[origin]
                if not idle:
                    return None
                since, connection = idle.pop()
            if monotonic() - since < _LONGEST_IDLE_S and not connection.is_readable():
                return connection
            connection.close()

    def give_back(self, connection: Connection) -> None:
        """Keeps a connection whose last answer was received whole."""
        with self._lock:
            if not self._closed:
                self._idle[connection.origin].append((monotonic(), connection))
                return
        connection.close()

    def close(self) -> None:
        """Closes what is idle, and later what is given back."""
        with self._lock:
            self._closed = True
            connections = [connection for idle in self._idle.values() for _, connection in idle]
            self._idle.clear()
        for connection in connections:
            connection.close()
