"""A server on loopback that a model streams from over HTTP: as fast as it can, or as slow as a cloud's object store.

S3 takes 30 ms or so for a first byte and gives a connection 85 to 90 MB/s (AWS, "Performance design patterns for Amazon
S3", and the sources in docs/performance.md). What a plain receiver sees of such limits is measured when the model is
placed, and stands in `held`. What is served is in the page cache, so the processors, which the server shares with its
clients, are the limit where none is set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from slipstream.bench.page_cache import make_warm
from slipstream.bench.records import StorageFacts, StorageKind
from slipstream.bench.storages.base import Counters, PageCache, PlacedModel, Report, StorageUnavailableError
from slipstream.bench.storages.object_store import aws_variables
from slipstream.bench.storages.range_servers import (
    RangeServing,
    StoreLimits,
    measure_connection,
    serve_ranges,
    why_no_tls,
)
from slipstream.bench.storages.scratch import scratch_folder
from slipstream.testing.servers import ServerError

if TYPE_CHECKING:
    from slipstream.bench.models import Model

BUCKET = "models"
CLOUD = StoreLimits(connection_bytes_per_s=90_000_000, first_byte_s=0.030)
NO_LIMITS = StoreLimits()


class RangeStore:
    """A server of this process's own that passes for an S3 server, from `place` to the end. See Storage."""

    kind: StorageKind = "range-server"

    def __init__(
        self, name: str, cache: Path, limits: StoreLimits = CLOUD, *, tls: bool = False, pause_s: float = 0.0
    ) -> None:
        """
        Args:
            name: as in records.
            cache: where a folder is made for the time that the server runs.
            limits: of each connection.
            tls: whether https is spoken, with a certificate of an authority of its own.
            pause_s: before each sample.
        """
        self.name = name
        self.limits = limits
        self.tls = tls
        self.pause_s = pause_s
        self._cache = cache
        self._stack = ExitStack()
        self._server: RangeServing | None = None
        self._model: Model | None = None
        self._tensorizer_file: Path | None = None
        self._held: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<RangeStore {self.name}: {self._server or 'not started'}>"

    def __enter__(self) -> Self:
        if self.tls and (why := why_no_tls()):
            raise StorageUnavailableError(f"{self.name} cannot be had here: {why}")
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
        root = link_files(scratch / "served", [*model.files, *([tensorizer_file] if tensorizer_file else [])])
        try:
            self._server = self._stack.enter_context(serve_ranges(root, scratch, self.limits, tls=self.tls))
        except (ServerError, OSError) as error:
            raise StorageUnavailableError(f"{self.name} cannot be emulated here: {error}") from error
        limits = self.limits.facts()
        if limits:
            report("measuring what a connection gets", 0, 0)
            largest = max(model.files, key=lambda file: file.stat().st_size)
            url, bundle = self._server.url(f"{BUCKET}/{largest.name}"), self._server.storage_options.get("ca_bundle")
            held = measure_connection(url, largest.stat().st_size, bundle)
            self._held = {name: value for name, value in held.items() if name in limits}

    def facts(self) -> StorageFacts:
        """See Storage."""
        limits = self.limits.facts()
        return StorageFacts(
            name=self.name,
            kind=self.kind,
            emulated=bool(limits),
            uri=f"s3://{BUCKET}/",
            limits=limits,
            held=self._held,
            mount={
                "served from": "the page cache",
                "server": self._running().name,
                **({"protocol": "https"} if self.tls else {}),
            },
        )

    def begin(self, round_: int) -> PlacedModel:
        """See Storage."""
        assert self._model is not None, "no model has been placed"
        server, copy = self._running(), self._tensorizer_file
        keys = [f"{BUCKET}/{file.name}" for file in self._model.files]
        return PlacedModel(
            model=self._model,
            uris=tuple(f"s3://{key}" for key in keys),
            urls=tuple(map(server.url, keys)),
            tensorizer_uri=f"s3://{BUCKET}/{copy.name}" if copy else None,
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

    def _running(self) -> RangeServing:
        assert self._server is not None, "no model has been placed"
        return self._server


def link_files(root: Path, files: Sequence[Path]) -> Path:
    """Makes a folder in which the folder `BUCKET` has these files, by links; returns it."""
    (root / BUCKET).mkdir(parents=True, exist_ok=True)
    for file in files:
        (root / BUCKET / file.name).symlink_to(file)
    return root
