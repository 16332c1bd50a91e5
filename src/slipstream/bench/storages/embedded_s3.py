"""S3 on this machine: SeaweedFS, a real S3 server, with its data on disk: uploaded once, and kept for the next run.

It serves from the page cache where memory holds that beside what a sample makes of it, so that the network stack and
the processors, which it shares with the clients, are the limit; else from the disk, and none of it is in the page cache
before a sample. Which of both stands in the facts. The copy for tensorizer is in a bucket of its own, since each bucket
has files of its own: only what a sample loads has to be in memory.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from slipstream.bench.machine import describe_mount
from slipstream.bench.page_cache import make_cold, make_warm
from slipstream.bench.records import StorageFacts, StorageKind
from slipstream.bench.storages.base import Counters, PageCache, PlacedModel, Report, StorageUnavailableError
from slipstream.bench.storages.local_files import model_slug
from slipstream.bench.storages.object_store import ObjectStore
from slipstream.bench.storages.scratch import scratch_folder
from slipstream.testing.seaweedfs import SeaweedFS, why_unavailable
from slipstream.testing.servers import Launch, ServerError

if TYPE_CHECKING:
    from slipstream.bench.models import Model

_BUCKET, _TENSORIZER_BUCKET = "models", "tensorizer"
_PEAK_MODELS = 2  # so many times the model's size are used at most: by the Run:ai streamer, from S3
_SENT = "SeaweedFS_s3_bucket_traffic_sent_bytes_total{"
_METRICS_TIMEOUT_S = 5.0
_HEADROOM_BYTES = 2 << 30  # for the sample's libraries and the server


class _Server(SeaweedFS):
    """SeaweedFS that counts what it sends."""

    ports_needed = SeaweedFS.ports_needed + 1

    def launch(self, ports: Sequence[int]) -> Launch:
        launch = super().launch(ports[:-1])
        return Launch([*launch.command, f"-metricsPort={ports[-1]}"], launch.environment)

    def sent_bytes(self) -> int:
        """Bytes of all answers so far."""
        # The proxies of the environment are for others.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.ports[-1]}/metrics", timeout=_METRICS_TIMEOUT_S) as answer:
            lines = answer.read().decode().splitlines()
        return sum(int(float(line.split()[-1])) for line in lines if line.startswith(_SENT))


class EmbeddedS3:
    """An S3 server of this process's own, from `place` to the end. See Storage."""

    kind: StorageKind = "embedded-s3"

    def __init__(self, name: str, cache: Path, *, pause_s: float = 0.0) -> None:
        """
        Args:
            name: as in records.
            cache: where the server's data is kept.
            pause_s: before each sample.
        """
        self.name = name
        self.pause_s = pause_s
        self._cache = cache
        self._stack = ExitStack()
        self._server: _Server | None = None
        self._store: ObjectStore | None = None
        self._data = cache
        self._from_memory = True

    def __repr__(self) -> str:
        return f"<EmbeddedS3 {self.name}: {self._server or 'not started'}>"

    def __enter__(self) -> Self:
        reason = why_unavailable()
        if reason is not None:
            raise StorageUnavailableError(f"{self.name} cannot be emulated here: {reason}; or give a real bucket: "
                                          f"--storage {self.name}=s3://bucket/prefix")  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server = self._store = None
        self._stack.close()

    def place(self, model: Model, report: Report, *, tensorizer_file: Path | None = None) -> None:
        """See Storage. Starts the server on the data of that model."""
        self._data = self._cache / f"seaweedfs-{model_slug(model)}"
        self._lock()
        for folder in self._data.glob("m[0-9]*"):  # its masters' of earlier starts, which are named after their ports
            shutil.rmtree(folder, ignore_errors=True)
        scratch = self._stack.enter_context(scratch_folder(self._cache))
        try:
            server = self._stack.enter_context(_Server(data=self._data, directory=scratch))
            for bucket in (_BUCKET, _TENSORIZER_BUCKET):
                server.create_bucket(bucket)
        except ServerError as error:
            raise StorageUnavailableError(f"{self.name} cannot be emulated here: {error}") from error
        store = ObjectStore(
            self.name,
            f"s3://{_BUCKET}",
            tensorizer_uri=f"s3://{_TENSORIZER_BUCKET}",
            storage_options=server.storage_options,
            pause_s=self.pause_s,
            inherit=False,
        )
        store.place(model, report, tensorizer_file=tensorizer_file)
        self._server, self._store = server, store
        served = max(sum(file.stat().st_size for file in self._files(each)) for each in (_BUCKET, _TENSORIZER_BUCKET))
        needed = served + _PEAK_MODELS * model.nbytes + _HEADROOM_BYTES
        self._from_memory = needed <= _available_and_cached_bytes()

    def facts(self) -> StorageFacts:
        """See Storage."""
        source = "the page cache" if self._from_memory else "the disk"
        mount = {**describe_mount(self._data), "served from": source}
        return replace(self._placed().facts(), kind=self.kind, emulated=True, mount=mount)

    def begin(self, round_: int) -> PlacedModel:
        """See Storage."""
        return self._placed().begin(round_)

    def prepare(self, pid: int, *, page_cache: PageCache = "cold", tensorizer: bool = False) -> None:
        """See Storage."""
        if self._from_memory:
            make_warm(self._files(_TENSORIZER_BUCKET if tensorizer else _BUCKET))
        else:
            make_cold([*self._files(_BUCKET), *self._files(_TENSORIZER_BUCKET)])

    def counters(self) -> Counters:
        """See Storage. What the server itself counted."""
        assert self._server is not None, "no model has been placed"
        try:
            return Counters(network_received_bytes=self._server.sent_bytes())
        except OSError:
            return Counters()

    def end(self) -> Mapping[str, object]:
        """See Storage."""
        return {}

    def _placed(self) -> ObjectStore:
        assert self._store is not None, "no model has been placed"
        return self._store

    def _files(self, bucket: str) -> list[Path]:
        return sorted(self._data.glob(f"{bucket}_*.dat"))

    def _lock(self) -> None:
        """Two servers on the same data would ruin it."""
        self._data.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._data / "in-use", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._stack.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageUnavailableError(
                f"another benchmark serves {self._data}; let it end first, or choose another --cache"
            ) from None


def _available_and_cached_bytes() -> int:
    """Memory that is free, or would be if it were asked for: MemAvailable of proc(5)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0
