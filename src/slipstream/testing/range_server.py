"""An HTTP server of ranges that fails, dawdles and lies on command. Real sockets, plain or TLS.

    with RangeServer(tmp_path, seed=7) as server:
        server.set_faults(Faults(Status(503, retry_after_s=1, when=When(first=2)), Rate(50e6)))
        read(server.url("model/a.safetensors"))
        assert [request.status for request in server.requests] == [503, 503, 206]

It serves GET and HEAD with the ranges, validators and keep-alive of RFC 9110, in a process of its own
(`range_service`), with sendfile where nothing slows it down. The faults are in `range_faults` and `range_lies`.
"""

from __future__ import annotations

import base64
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from slipstream.testing.certificates import ServerCertificate
from slipstream.testing.commanded import Commanded
from slipstream.testing.range_log import SeenRequest
from slipstream.testing.range_schedule import Faults, When

__all__ = ["Faults", "RangeServer", "SeenRequest", "When"]


class RangeServer:
    """Serves the files below a folder on 127.0.0.1, from construction until `close`.

    Threads may share it, though one that waits makes the others wait.

    Attributes:
        port: where it listens.
        pid: the server's process id.
    """

    def __init__(
        self, root: Path, *, tls: ServerCertificate | tuple[str | Path, str | Path] | None = None, seed: int = 0
    ) -> None:
        """Starts the server.

        Args:
            root: the folder; what its symbolic links lead to is served too.
            tls: PEM files of a certificate with its key; None serves plain HTTP.
            seed: what faults with a probability depend on.

        Raises:
            OSError: it did not start; the reason is on the standard error.
        """
        self._scheme = "https" if tls else "http"
        self._server = Commanded(
            "slipstream.testing.range_service",
            {"root": str(root), "tls": [str(tls[0]), str(tls[1])] if tls else None, "seed": seed},
        )
        self.port: int = self._server.greeting
        self.pid = self._server.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RangeServer {self._scheme}://127.0.0.1:{self.port}, process {self.pid}>"

    def close(self) -> None:
        """Ends the process, and with it every connection. Further calls do nothing."""
        self._server.close()

    def url(self, path: str, *, host: str = "127.0.0.1") -> str:
        """The URL of a file below the root, under any name that this machine has for itself."""
        return f"{self._scheme}://{host}:{self.port}/{quote(path.removeprefix('/'))}"

    def put(self, path: str, data: bytes) -> None:
        """Serves these bytes from memory under this path, before any file; a later `put` replaces them."""
        self._server.ask("put", path=path, data=base64.b64encode(data).decode())

    def set_faults(self, faults: Faults) -> None:
        """Following requests meet these faults and no others; what their schedules count begins again."""
        self._server.ask("set_faults", faults=faults.to_json())

    def reset(self) -> None:
        """Ends every fault, lets every held answer go, and forgets the log. What stalls goes on to stall."""
        self._server.ask("reset")

    def release(self) -> None:
        """Lets every answer go that waits at the gate of a `Hold`, or is on its way there."""
        self._server.ask("release")

    def wait_held(self, count: int, timeout_s: float = 20.0) -> None:
        """Waits until at least `count` answers are at the gate of a `Hold`.

        Raises:
            TimeoutError: so many did not come.
        """
        held = self._server.ask("wait_held", count=count, timeout_s=timeout_s)
        if held < count:
            raise TimeoutError(f"{held} answers came to the gate in {timeout_s} s, not {count}")

    @property
    def requests(self) -> list[SeenRequest]:
        """All requests since the start or the last `reset`, in the order in which they came."""
        return [SeenRequest.from_json(fields) for fields in self._server.ask("requests")]

    def wait_requests(self, count: int, timeout_s: float = 20.0) -> list[SeenRequest]:
        """Waits until at least `count` requests have come; returns all that have.

        Raises:
            TimeoutError: so many did not come.
        """
        came = self._server.ask("wait_requests", count=count, timeout_s=timeout_s)
        if came < count:
            raise TimeoutError(f"{came} requests came in {timeout_s} s, not {count}")
        return self.requests

    @property
    def throttled(self) -> dict[str, int]:
        """For each path, how many requests a `MaxInFlight` has refused."""
        return dict(Counter(request.path for request in self.requests if "MaxInFlight" in request.faults))

    @property
    def connections(self) -> int:
        """How many connections there have been since the start."""
        accepted: int = self._server.ask("connections")[1]
        return accepted

    @property
    def open_connections(self) -> int:
        """How many connections are open; one that a client has just closed may still count."""
        still_open: int = self._server.ask("connections")[0]
        return still_open

    def wait_open_connections(self, at_most: int, timeout_s: float = 20.0) -> None:
        """Waits until no more than so many connections are open.

        Raises:
            TimeoutError: more remained.
        """
        remaining = self._server.ask("wait_open_connections", at_most=at_most, timeout_s=timeout_s)
        if remaining > at_most:
            raise TimeoutError(f"{remaining} connections are open after {timeout_s} s, not {at_most}")

    def close_connections(self) -> None:
        """Breaks every open connection, stalled ones too, as a server does that is started again."""
        self._server.ask("close_connections")
