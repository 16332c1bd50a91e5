"""What an HTTP server of ranges remembers of the requests that came."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from slipstream.testing.range_answers import Exchange, find_header

# An answer is in the client's hands a moment before it is in the log.
_SETTLE_TIMEOUT_S = 0.2


@dataclass(frozen=True)
class SeenRequest:
    """A request that came, and what became of it.

    Attributes:
        number: from 1 on, in the order of arrival.
        connection: the number of the connection that it came on, from 1 on.
        method: GET, HEAD, or what was asked.
        path: decoded, without the slash at its start.
        query: what followed the `?`.
        range: what was asked for, [start, end); None without a Range.
        headers: as received; lines of the same name are joined.
        status: what was sent; None until it is.
        faults: the names of the faults that struck.
        body_bytes: bytes of the body handed to the kernel.
        state: `waiting` is held or stalled.
    """

    number: int
    connection: int
    method: str
    path: str
    query: str
    range: tuple[int, int] | None
    headers: dict[str, str] = field(repr=False)
    status: int | None = None
    faults: tuple[str, ...] = ()
    body_bytes: int = 0
    state: Literal["answering", "waiting", "finished"] = "answering"

    def header(self, name: str) -> str | None:
        """The header's value, whatever the case of its name; None without it."""
        return find_header(self.headers, name)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> SeenRequest:
        """What `RequestLog.to_json` made of one, after its way through JSON, which knows no tuples."""
        span = fields["range"]
        return cls(**fields | {"range": span and tuple(span), "faults": tuple(fields["faults"])})


class RequestLog:
    """The requests since the last `clear`. Threads may share it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._seen: list[SeenRequest] = []
        self._forgotten = 0

    def add(self, exchange: Exchange, connection: int, faults: tuple[str, ...]) -> int:
        """Enters a request; returns the key for `note`."""
        request = exchange.request
        with self._changed:
            number = len(self._seen) + 1
            self._seen.append(
                SeenRequest(
                    number,
                    connection,
                    request.method,
                    request.path,
                    request.query,
                    exchange.span,
                    dict(request.headers),
                    faults=faults,
                )
            )
            self._changed.notify_all()
            return self._forgotten + number - 1

    def note(self, key: int, **changes: Any) -> None:
        """What has become of a request, unless it is forgotten."""
        with self._changed:
            place = key - self._forgotten
            if place >= 0:
                self._seen[place] = replace(self._seen[place], **changes)
                self._changed.notify_all()

    def clear(self) -> None:
        """Forgets all requests, also those that are being answered."""
        with self._changed:
            self._forgotten += len(self._seen)
            self._seen.clear()

    def wait_count(self, count: int, timeout_s: float) -> int:
        """Waits for at least `count` requests; returns how many there are."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._seen) >= count, timeout_s)
            return len(self._seen)

    def to_json(self) -> list[dict[str, Any]]:
        """All, each as a dictionary, once every answer is finished or waits, or a moment has passed."""
        with self._changed:
            self._changed.wait_for(lambda: all(seen.state != "answering" for seen in self._seen), _SETTLE_TIMEOUT_S)
            return [asdict(seen) for seen in self._seen]
