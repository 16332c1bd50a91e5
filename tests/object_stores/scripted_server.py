"""A server on loopback that answers as a test says: for what no server in the tests says by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import NamedTuple, Self


class Said(NamedTuple):
    """An answer; a status of 0 is none at all, for as long as the server lives."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}


class ScriptedServer:
    """Answers each request with what a function says for its method and path.

    Attributes:
        requests: method and path of each, in order.
        headers: those of the last request.
    """

    def __init__(self, answer: Said | Callable[[str, str], Said]) -> None:
        self.requests: list[tuple[str, str]] = []
        self.headers: dict[str, str] = {}
        self._over = threading.Event()
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                scripted.requests.append((self.command, self.path))
                scripted.headers = dict(self.headers)
                said = answer if isinstance(answer, Said) else answer(self.command, self.path)
                if not said.status:
                    scripted._over.wait()
                    return
                self.send_response(said.status)
                for name, value in said.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(said.body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(said.body)

            do_GET = do_HEAD = do_PUT = do_POST = answer  # noqa: N815

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def s3_refusal(code: str, message: str, more: str = "") -> bytes:
    """The body of a refusal, as S3 words it."""
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return (
        f"{head}<Error><Code>{code}</Code><Message>{message}</Message>{more}<RequestId>R1</RequestId></Error>".encode()
    )


def s3_page(keys: list[str], following: str | None) -> bytes:
    """One page of a listing, as S3 words it."""
    items = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;e&quot;</ETag>"
        f"<Size>7</Size></Contents>"
        for key in keys
    )
    token = f"<NextContinuationToken>{following}</NextContinuationToken>" if following else ""
    more = str(following is not None).lower()
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult>'
    return f"{head}<IsTruncated>{more}</IsTruncated>{token}{items}</ListBucketResult>".encode()
