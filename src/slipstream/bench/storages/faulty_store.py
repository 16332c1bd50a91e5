"""A web server on loopback whose answers fail, stall or dawdle by chance: the range server of slipstream.testing.

For every sample it is another process, and other requests are struck: by the number of the round, so that the same
round of another run meets the same luck.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from slipstream.bench.page_cache import make_warm
from slipstream.bench.records import StorageFacts, StorageKind
from slipstream.bench.storages.base import Counters, PageCache, PlacedModel, Report
from slipstream.bench.storages.range_servers import measure_connection
from slipstream.bench.storages.range_store import BUCKET, link_files
from slipstream.bench.storages.scratch import scratch_folder
from slipstream.testing.range_faults import CloseEarly, Delay, Reset, Stall, Status
from slipstream.testing.range_schedule import Fault
from slipstream.testing.range_server import Faults, RangeServer, When

if TYPE_CHECKING:
    from slipstream.bench.models import Model

INDEX = "model.safetensors.index.json"
_SOME_BYTES = 1 << 20
_ONE_KIND = When(probability=0.02 / 3)
NO_FAULTS = Faults()
MIXED_FAULTS = Faults(
    Status(503, when=_ONE_KIND),
    Reset(_SOME_BYTES, when=_ONE_KIND),
    CloseEarly(_SOME_BYTES, when=_ONE_KIND),
    Stall(_SOME_BYTES, when=When(probability=0.005)),
)
"""Of a hundred requests two fail, by a 503, a reset or a short body; of two hundred one stalls."""


class FaultyStore:
    """A web server with faults. See Storage.

    Loaders are given plain URLs: of the model's files or, where it has an index, of that alone.
    """

    kind: StorageKind = "range-server"
    pause_s = 0.0

    def __init__(self, name: str, cache: Path, faults: Faults = NO_FAULTS, *, first_byte_s: float = 0.0) -> None:
        """
        Args:
            name: as in records.
            cache: where a folder is made for the time that the server runs.
            faults: what goes wrong.
            first_byte_s: from every request to the first byte of its answer, at least.
        """
        self.name = name
        self._cache = cache
        self._faults = faults
        self._delays = Faults(Delay(first_byte_s)) if first_byte_s else NO_FAULTS
        self._first_byte_s = first_byte_s
        self._held: dict[str, float] = {}
        self._stack = ExitStack()
        self._model: Model | None = None
        self._root = cache
        self._paths: tuple[str, ...] = ()
        self._server: RangeServer | None = None

    def __repr__(self) -> str:
        return f"<FaultyStore {self.name}: {self._server or 'not started'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()
        self._stack.close()

    def place(self, model: Model, report: Report, *, tensorizer_file: Path | None = None) -> None:
        """See Storage. The files are served from where they lie."""
        self._model = model
        index = model.files[0].with_name(INDEX)
        linked = [*model.files, *([index] if index.exists() else [])]
        self._root = link_files(self._stack.enter_context(scratch_folder(self._cache)) / "served", linked)
        names = [index.name] if index.exists() else [file.name for file in model.files]
        self._paths = tuple(f"{BUCKET}/{name}" for name in names)
        if self._first_byte_s:
            report("measuring how late a first byte comes", 0, 0)
            self._held = self._measure(model.files[0])

    def facts(self) -> StorageFacts:
        """See Storage. The faults stand in `mount`."""
        faults = ", ".join(map(_say, self._faults.faults)) or "none"
        return StorageFacts(
            name=self.name,
            kind=self.kind,
            emulated=bool(self._first_byte_s),
            uri=f"http://127.0.0.1/{BUCKET}/",
            limits={"first_byte_s": self._first_byte_s} if self._first_byte_s else {},
            held=self._held,
            mount={"served from": "the page cache", "server": "range server", "faults": faults},
        )

    def begin(self, round_: int) -> PlacedModel:
        """See Storage. Starts another server."""
        assert self._model is not None, "no model has been placed"
        self._stop()
        self._server = RangeServer(self._root, seed=round_)
        self._server.set_faults(Faults(*self._delays.faults, *self._faults.faults))
        urls = tuple(map(self._server.url, self._paths))
        return PlacedModel(model=self._model, uris=urls, urls=urls)

    def prepare(self, pid: int, *, page_cache: PageCache = "cold", tensorizer: bool = False) -> None:
        """See Storage."""
        assert self._model is not None, "no model has been placed"
        make_warm(self._model.files)

    def counters(self) -> Counters:
        """See Storage. What the server itself counted."""
        assert self._server is not None, "no sample has begun"
        return Counters(network_received_bytes=sum(request.body_bytes for request in self._server.requests))

    def end(self) -> Mapping[str, object]:
        """See Storage. How many requests the server saw, on how many connections, and which faults struck."""
        assert self._server is not None, "no sample has begun"
        requests = self._server.requests
        known = {type(fault).__name__ for fault in self._faults.faults}
        struck = Counter(fault for request in requests for fault in request.faults if fault in known)
        return {"served": len(requests), "accepted": self._server.connections, "struck": dict(struck)}

    def _measure(self, file: Path) -> dict[str, float]:
        """What a plain receiver sees of the delay."""
        with RangeServer(self._root) as server:
            server.set_faults(self._delays)
            measured = measure_connection(server.url(f"{BUCKET}/{file.name}"), file.stat().st_size, None)
        return {"first_byte_s": measured["first_byte_s"]}

    def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


def _say(fault: Fault) -> str:
    """ "Stall 0.5 %"."""
    share = fault.when.probability
    return f"{type(fault).__name__}{f' {share * 100:.2g} %' if share < 1 else ''}"
