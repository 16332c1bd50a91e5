"""Where slipstream itself lies, for samples that load nothing else: how long its import takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import slipstream
from slipstream.bench.machine import describe_mount
from slipstream.bench.records import StorageFacts, StorageKind
from slipstream.bench.storages.base import Counters, PageCache, PlacedModel, Report, StorageUnavailableError

if TYPE_CHECKING:
    from slipstream.bench.models import Model


class Environment:
    """The folder that slipstream is imported from. See Storage; there is nothing to be placed or made cold."""

    kind: StorageKind = "directory"
    pause_s = 0.0

    def __init__(self, name: str) -> None:
        """`name` is as in records."""
        self.name = name
        self._model: Model | None = None

    def __repr__(self) -> str:
        return f"<Environment {self.name}: {self._folder}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    @property
    def _folder(self) -> Path:
        return Path(slipstream.__file__).resolve().parents[1]

    def place(self, model: Model, report: Report, *, tensorizer_file: Path | None = None) -> None:
        """See Storage."""
        if model.files:
            raise StorageUnavailableError(f"{self.name} is where slipstream lies, and holds no model; give a directory")
        self._model = model

    def facts(self) -> StorageFacts:
        """See Storage."""
        return StorageFacts(
            name=self.name,
            kind=self.kind,
            emulated=False,
            uri=str(self._folder),
            mount=dict(describe_mount(self._folder)),
        )

    def begin(self, round_: int) -> PlacedModel:
        """See Storage."""
        assert self._model is not None, "no model has been placed"
        return PlacedModel(model=self._model, uris=())

    def prepare(self, pid: int, *, page_cache: PageCache = "cold", tensorizer: bool = False) -> None:
        """See Storage."""

    def counters(self) -> Counters:
        """See Storage."""
        return Counters()

    def end(self) -> Mapping[str, object]:
        """See Storage."""
        return {}
