"""A directory of a mounted volume, as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from slipstream.bench.machine import describe_mount
from slipstream.bench.records import StorageFacts, StorageKind
from slipstream.bench.storages.base import Counters, PageCache, PlacedModel, Report
from slipstream.bench.storages.devices import BlockDevice, NoBlockDeviceError, find_device
from slipstream.bench.storages.local_files import place_locally, set_page_cache

if TYPE_CHECKING:
    from slipstream.bench.models import Model


class DirectoryStorage:
    """A real volume, or this machine's own disk. See Storage."""

    kind: StorageKind = "directory"
    pause_s = 0.0

    def __init__(self, name: str, directory: Path | None = None) -> None:
        """
        Args:
            name: as in records.
            directory: where; None is wherever the model lies.
        """
        self.name = name
        self._directory = directory
        self._placed: PlacedModel | None = None
        self._device: BlockDevice | None = None

    def __repr__(self) -> str:
        return f"<DirectoryStorage {self.name}: {self._directory or 'where the model lies'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    @property
    def folder(self) -> Path:
        """Where the model's files are."""
        return self._model().files[0].parent

    def place(self, model: Model, report: Report, *, tensorizer_file: Path | None = None) -> None:
        """See Storage."""
        self._placed = place_locally(model, self._directory, report, tensorizer_file=tensorizer_file)
        try:
            self._device = find_device(self.folder)
        except NoBlockDeviceError:
            self._device = None

    def facts(self) -> StorageFacts:
        """See Storage."""
        return StorageFacts(
            name=self.name,
            kind=self.kind,
            emulated=False,
            uri=str(self.folder),
            mount=dict(describe_mount(self.folder)),
        )

    def begin(self, round_: int) -> PlacedModel:
        """See Storage."""
        return self._model()

    def prepare(self, pid: int, *, page_cache: PageCache = "cold", tensorizer: bool = False) -> None:
        """See Storage."""
        set_page_cache(self._model(), page_cache, tensorizer=tensorizer)

    def counters(self) -> Counters:
        """See Storage. What others read from the disk counts too."""
        return Counters(device_read_bytes=self._device.read_bytes() if self._device else None)

    def end(self) -> Mapping[str, object]:
        """See Storage."""
        return {}

    def _model(self) -> PlacedModel:
        assert self._placed is not None, "no model has been placed"
        return self._placed
