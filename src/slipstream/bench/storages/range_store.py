"""A cloud's object store, emulated: a server on loopback that gives each connection so much, and takes its time first.

    client  --GET, Range-->  nginx: so many bytes a second for each connection
                               └─ asks first:  the range server of slipstream.testing, which answers after 30 ms

S3 takes 30 ms or so for a first byte and gives a connection 85 to 90 MB/s (AWS, "Performance design patterns for Amazon
S3", and the sources in docs/performance.md). Where nginx is not installed, the range server does it all, more slowly.
What a plain receiver sees of both is measured when the model is placed, and stands in `held`.
"""

from __future__ import annotations

import http.client
import os
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self
from urllib.parse import urlsplit

from slipstream.bench.page_cache import make_warm
from slipstream.bench.records import StorageFacts, StorageKind
from slipstream.bench.storages.base import Counters, PageCache, PlacedModel, Report, StorageUnavailableError
from slipstream.bench.storages.object_store import aws_variables
from slipstream.bench.storages.scratch import scratch_folder
from slipstream.testing import nginx
from slipstream.testing.nginx import Nginx
from slipstream.testing.range_faults import Delay, Rate
from slipstream.testing.range_server import Faults, RangeServer
from slipstream.testing.servers import ServerError

if TYPE_CHECKING:
    from slipstream.bench.models import Model

_BUCKET = "models"
_PIECE_S = 0.010  # a whole number of milliseconds, for which nginx pauses
_PROBE_BYTES = 8 << 20
_PROBES = 5
_LOG_FIELD_BYTES = -2


@dataclass(frozen=True)
class StoreLimits:
    """What a store gives to one connection.

    Attributes:
        connection_bytes_per_s: of each answer.
        first_byte_s: from a request to the first byte of its answer.
    """

    connection_bytes_per_s: int
    first_byte_s: float


CLOUD = StoreLimits(connection_bytes_per_s=90_000_000, first_byte_s=0.030)


class RangeStore:
    """A server of this process's own that is as slow as a cloud's store, from `place` to the end. See Storage."""

    kind: StorageKind = "range-server"

    def __init__(self, name: str, cache: Path, limits: StoreLimits = CLOUD, *, pause_s: float = 0.0) -> None:
        """
        Args:
            name: as in records.
            cache: where a folder is made for the time that the server runs.
            limits: of each connection.
            pause_s: before each sample.
        """
        self.name = name
        self.limits = limits
        self.pause_s = pause_s
        self._cache = cache
        self._stack = ExitStack()
        self._server: _Server | None = None
        self._model: Model | None = None
        self._tensorizer_file: Path | None = None
        self._held: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<RangeStore {self.name}: {self._server or 'not started'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server = None
        self._stack.close()

    def place(self, model: Model, report: Report, *, tensorizer_file: Path | None = None) -> None:
        """See Storage. The files are served from where they lie."""
        self._model, self._tensorizer_file = model, tensorizer_file
        scratch = self._stack.enter_context(scratch_folder(self._cache))
        root = scratch / "served"
        (root / _BUCKET).mkdir(parents=True, exist_ok=True)
        for file in [*model.files, *([tensorizer_file] if tensorizer_file else [])]:
            (root / _BUCKET / file.name).symlink_to(file)
        try:
            start = _run_range_server if nginx.why_unavailable() else _run_nginx
            self._server = self._stack.enter_context(start(root, scratch, self.limits))
        except (ServerError, OSError) as error:
            raise StorageUnavailableError(f"{self.name} cannot be emulated here: {error}") from error
        report("measuring what a connection gets", 0, 0)
        largest = max(model.files, key=lambda file: file.stat().st_size)
        self._held = _probe(self._server.url(f"{_BUCKET}/{largest.name}"), largest.stat().st_size)

    def facts(self) -> StorageFacts:
        """See Storage."""
        limits = {
            "connection_bytes_per_s": float(self.limits.connection_bytes_per_s),
            "first_byte_s": self.limits.first_byte_s,
        }
        return StorageFacts(
            name=self.name,
            kind=self.kind,
            emulated=True,
            uri=f"s3://{_BUCKET}/",
            limits=limits,
            held=self._held,
            mount={"served from": "the page cache", "server": self._running().name},
        )

    def begin(self, round_: int) -> PlacedModel:
        """See Storage."""
        assert self._model is not None, "no model has been placed"
        server, copy = self._running(), self._tensorizer_file
        keys = [f"{_BUCKET}/{file.name}" for file in self._model.files]
        return PlacedModel(
            model=self._model,
            uris=tuple(f"s3://{key}" for key in keys),
            urls=tuple(map(server.url, keys)),
            tensorizer_uri=f"s3://{_BUCKET}/{copy.name}" if copy else None,
            storage_options=server.storage_options,
            environment=aws_variables(server.storage_options),
        )

    def prepare(self, pid: int, *, page_cache: PageCache = "cold", tensorizer: bool = False) -> None:
        """See Storage. Serves from the page cache, so that its limits are the limit."""
        assert self._model is not None, "no model has been placed"
        make_warm([self._tensorizer_file] if tensorizer and self._tensorizer_file else self._model.files)

    def counters(self) -> Counters:
        """See Storage. What the server itself counted."""
        return Counters(network_received_bytes=self._running().sent_bytes())

    def end(self) -> Mapping[str, object]:
        """See Storage."""
        return {}

    def _running(self) -> _Server:
        assert self._server is not None, "no model has been placed"
        return self._server


class _Server(Protocol):
    """One of the two servers."""

    name: str
    storage_options: Mapping[str, str]

    def url(self, path: str) -> str: ...

    def sent_bytes(self) -> int: ...


class _LimitedNginx:
    """nginx, which counts by its log of requests."""

    name = "nginx"

    def __init__(self, server: Nginx) -> None:
        self._server = server
        self._sent = self._read = 0
        self.storage_options: Mapping[str, str] = server.storage_options

    def url(self, path: str) -> str:
        return self._server.url(path)

    def sent_bytes(self) -> int:
        with self._server.access_log.open() as log:
            log.seek(self._read)
            while (line := log.readline()).endswith("\n"):
                self._sent += int(line.split()[_LOG_FIELD_BYTES])
                self._read = log.tell()
        return self._sent


class _LimitedRangeServer:
    """The range server of the tests, which keeps every request."""

    name = "range server"

    def __init__(self, server: RangeServer) -> None:
        self._server = server
        self.storage_options: Mapping[str, str] = {
            "endpoint": f"http://127.0.0.1:{server.port}",
            "access_key_id": "any",
            "secret_access_key": "any",
            "region": "us-east-1",
        }

    def url(self, path: str) -> str:
        return self._server.url(path)

    def sent_bytes(self) -> int:
        return sum(request.body_bytes for request in self._server.requests)


@contextmanager
def _run_nginx(root: Path, scratch: Path, limits: StoreLimits) -> Iterator[_Server]:
    with RangeServer(root) as gate:
        gate.put("go", b"")
        gate.set_faults(Faults(Delay(limits.first_byte_s)))
        with Nginx(
            root,
            limit_rate=str(limits.connection_bytes_per_s),
            piece_bytes=max(1, int(limits.connection_bytes_per_s * _PIECE_S)),
            gate_port=gate.port,
            workers=max(2, (os.cpu_count() or 1) // 2),
            access_log=True,
            directory=scratch,
        ) as server:
            yield _LimitedNginx(server)


@contextmanager
def _run_range_server(root: Path, scratch: Path, limits: StoreLimits) -> Iterator[_Server]:
    with RangeServer(root) as server:
        server.set_faults(Faults(Delay(limits.first_byte_s), Rate(limits.connection_bytes_per_s)))
        yield _LimitedRangeServer(server)


def _probe(url: str, size: int) -> dict[str, float]:
    """What one connection gets: medians over a few ranges of the size that loaders ask for."""
    parts = urlsplit(url)
    first_bytes, rates = [], []
    nbytes = min(_PROBE_BYTES, size)
    buffer = memoryview(bytearray(nbytes))
    with closing(http.client.HTTPConnection(parts.netloc, timeout=60)) as connection:
        for _ in range(_PROBES):
            start = time.perf_counter()
            connection.request("GET", parts.path, headers={"Range": f"bytes=0-{nbytes - 1}"})
            answer = connection.getresponse()
            begun = time.perf_counter()
            rest = buffer
            while rest and (count := answer.readinto(rest)):
                rest = rest[count:]
            answer.read()
            if rest or answer.status != http.client.PARTIAL_CONTENT:
                raise StorageUnavailableError(f"the emulated store answered {answer.status} with {nbytes - len(rest)} "
                                              f"of {nbytes} bytes")  # fmt: skip
            first_bytes.append(begun - start)
            rates.append(nbytes / (time.perf_counter() - begun))
    return {"first_byte_s": statistics.median(first_bytes), "connection_bytes_per_s": statistics.median(rates)}
