"""A cloud's volume, emulated: this machine's disk with the volume's limits and its read-ahead.

    place:   the model's files          ->  which disk?
             a plain reader, free       ->  what the disk gives
             Throttle                   ->  limits and read-ahead set
             a plain reader, throttled  ->  whether they hold
    prepare: the sample's process into a group of its own with these limits

Both readings stand in the record's `held`, so that a limit that was never reached can be told from one that held.

The kernel (6.18) counts in tenths of a second and lets one or two of them pass at once where somebody begins to read:
0.5 GB came at 1.0 to 1.5 times the limit. Of 5 GB at 1 GB/s that is 4 % at most, so take large models here.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from slipstream.bench.errors import BenchError
from slipstream.bench.records import StorageFacts, StorageKind
from slipstream.bench.storages.base import Counters, PageCache, PlacedModel, Report, StorageUnavailableError
from slipstream.bench.storages.cgroups import Limits
from slipstream.bench.storages.devices import NoBlockDeviceError, find_device
from slipstream.bench.storages.directory import DirectoryStorage
from slipstream.bench.storages.plain_reader import PlainReader
from slipstream.bench.storages.throttle import Throttle

if TYPE_CHECKING:
    from pathlib import Path

    from slipstream.bench.models import Model

GP3 = Limits(bytes_per_s=1000 << 20, iops=16_000)
IO2 = Limits(bytes_per_s=4000 << 20, iops=100_000)
PROBE_S = 2.0
QUICK_PROBE_S = 0.5
_TOLERANCE = 1.25  # a reader saw 0.91 to 1.04 times a limit that holds, over either time


class ThrottledVolume:
    """A disk that is as slow as a volume of a cloud for the processes of samples. See Storage."""

    kind: StorageKind = "throttled"
    pause_s = 0.0

    def __init__(self, name: str, limits: Limits, directory: Path, *, probe_s: float = PROBE_S) -> None:
        """
        Args:
            name: as in records.
            limits: of the volume.
            directory: on the disk that is throttled.
            probe_s: for each of the four looks that are taken when the model is placed.
        """
        self.name = name
        self.limits = limits
        self._directory = directory
        self._probe_s = probe_s
        self._disk = DirectoryStorage(name, directory)
        self._stack = ExitStack()
        self._throttle: Throttle | None = None
        self._held: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<ThrottledVolume {self.name}: {self._throttle or self.limits}>"

    def __enter__(self) -> Self:
        self._make_throttle()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._throttle = None
        self._stack.close()

    def place(self, model: Model, report: Report, *, tensorizer_file: Path | None = None) -> None:
        """See Storage. From here on the disk's read-ahead is the volume's.

        Raises:
            StorageUnavailableError: the disk cannot be throttled, or a plain reader was faster than the limits.
        """
        self._disk.place(model, report, tensorizer_file=tensorizer_file)
        largest = max(self._disk.begin(0).files, key=lambda file: file.stat().st_size)
        throttle = self._make_throttle()
        try:
            with PlainReader(largest) as reader:
                report(f"measuring what {throttle.device.name} gives", 0, 0)
                free = reader.measure(self._probe_s)
                self._stack.enter_context(throttle)
                throttle.add(reader.pid)
                report(f"measuring whether the throttle of {throttle.device.name} holds", 0, 0)
                held = reader.measure(self._probe_s)
        except OSError as error:
            raise BenchError(f"whether the throttle holds could not be measured: {error}") from error
        self._throttle = throttle
        self._held = held | {f"device_{name}": value for name, value in free.items()}
        self._require_held(held)

    def facts(self) -> StorageFacts:
        """See Storage. `held` also has what the disk gave without the limits: device_bytes_per_s, device_iops."""
        limits = {
            "bytes_per_s": float(self.limits.bytes_per_s),
            "iops": float(self.limits.iops),
            "read_ahead_kib": float(self.limits.read_ahead_kib),
        }
        return replace(self._disk.facts(), kind=self.kind, emulated=True, limits=limits, held=self._held)

    def begin(self, round_: int) -> PlacedModel:
        """See Storage."""
        return self._disk.begin(round_)

    def prepare(self, pid: int, *, page_cache: PageCache = "cold", tensorizer: bool = False) -> None:
        """See Storage."""
        assert self._throttle is not None, "no model has been placed"
        self._disk.prepare(pid, page_cache=page_cache, tensorizer=tensorizer)
        self._throttle.renew()
        self._throttle.add(pid)

    def counters(self) -> Counters:
        """See Storage. Only what the samples' processes read counts."""
        assert self._throttle is not None, "no model has been placed"
        return Counters(device_read_bytes=self._throttle.read_bytes())

    def end(self) -> Mapping[str, object]:
        """See Storage."""
        return {}

    def _make_throttle(self) -> Throttle:
        try:
            return Throttle(find_device(self._directory), self.limits)
        except NoBlockDeviceError as error:
            raise StorageUnavailableError(f"{self.name} cannot be emulated here: {error}") from error

    def _require_held(self, held: Mapping[str, float]) -> None:
        limits = {"bytes_per_s": self.limits.bytes_per_s, "iops": self.limits.iops}
        if self._probe_s < QUICK_PROBE_S:  # too short a look to call it broken
            return
        for name, value in held.items():
            if value > limits[name] * _TOLERANCE:
                raise StorageUnavailableError(
                    f"the throttle of {self.name} does not hold: a plain reader got {value:,.0f} {name}, and the limit "
                    f"is {limits[name]:,}. Perhaps the file system reads through another device; give a real volume "
                    f"(--storage {self.name}=/mnt/{self.name}), or measure the disk as it is (--unthrottled)"
                )
