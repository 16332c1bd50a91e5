"""Records of any number of files, merged and put in groups; medians over the samples of each.

Place    what may be compared with one another: an experiment, a storage, a model, a destination, a machine
Entry    one loader with one setting there: its samples, and the medians of what they measured
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median

from slipstream.bench.errors import ResultsError
from slipstream.bench.experiments import EXPERIMENTS
from slipstream.bench.records import Figures, ModelFacts, Record, Role, StorageFacts, read_records
from slipstream.bench.report.noise import typical_scatter
from slipstream.bench.report.published import PublishedTable, read_published

CONTENDERS = {
    "slipstream": "slipstream",
    "runai": "Run:ai Model Streamer",
    "safetensors": "safetensors",
    "tensorizer": "Tensorizer",
    "fastsafetensors": "fastsafetensors",
    "instanttensor": "InstantTensor",
    "floor": "raw floor",
}
"""In their order, with the names that people know them by. Plugins come before the floor."""

_LEVELS = ("concurrency", "num_readers")
_SAME_MACHINE = ("cpu", "cores", "architecture", "kernel", "gpu", "virtualisation")


@dataclass(frozen=True)
class Entry:
    """One loader with one setting in one place.

    Attributes:
        records: all of its samples, of every status, in the order in which they were taken.
    """

    records: tuple[Record, ...]

    @property
    def contender(self) -> str:
        """The loader's name as in records."""
        return self.records[0].contender

    @property
    def title(self) -> str:
        """The loader's name for people."""
        return contender_title(self.contender)

    @property
    def label(self) -> str:
        """The setting in words."""
        return self.records[0].label

    @property
    def role(self) -> Role:
        """What it is compared as."""
        return self.records[0].role

    @cached_property
    def level(self) -> int | None:
        """The concurrency or number of readers, where that is all that was set; else None."""
        settings = self.records[0].settings
        if len(settings) != 1:
            return None
        ((name, value),) = settings.items()
        return value if name in _LEVELS and isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def is_default(self) -> bool:
        """Whether nothing was set."""
        return not self.records[0].settings

    @cached_property
    def figures(self) -> tuple[Figures, ...]:
        """Of the samples that have any."""
        return tuple(record.figures for record in self.records if record.status == "ok" and record.figures is not None)

    @property
    def failures(self) -> tuple[Record, ...]:
        """The samples without figures."""
        return tuple(record for record in self.records if record.status != "ok" or record.figures is None)

    @property
    def status(self) -> str:
        """ "ok" where any sample has figures; else "failed" or "unavailable"."""
        return "ok" if self.figures else self.records[-1].status if self.records[-1].status != "ok" else "failed"

    @property
    def reason(self) -> str:
        """Why the last sample without figures has none, in one line."""
        reasons = [record.reason for record in self.failures]
        return " ".join(reasons[-1].split()) if reasons else ""

    @property
    def verified(self) -> bool:
        """Whether the tensors of every sample with figures were compared with the model."""
        return bool(self.figures) and all(r.verified for r in self.records if r.status == "ok" and r.figures)

    def values(self, measure: Callable[[Figures], float | None]) -> list[float]:
        """What the samples measured, of those that did."""
        return [value for each in self.figures if (value := measure(each)) is not None]

    def median(self, measure: Callable[[Figures], float | None]) -> float | None:
        """Of one measure by itself, over the samples that have it."""
        values = self.values(measure)
        return median(values) if values else None

    def most(self, measure: Callable[[Figures], float | None]) -> float | None:
        """The highest of the samples."""
        return max(self.values(measure), default=None)

    @cached_property
    def seconds(self) -> float | None:
        """The median time."""
        return self.median(lambda each: each.seconds)

    @cached_property
    def nbytes(self) -> int:
        """What was handed out, or the model's size where that was not counted."""
        counted = self.most(lambda each: each.nbytes)
        return int(counted) if counted else self.records[0].model.nbytes

    @property
    def seconds_per_gb(self) -> float | None:
        """The median time by 10^9 bytes."""
        return None if self.seconds is None or not self.nbytes else self.seconds / (self.nbytes / 1e9)

    @property
    def gb_per_s(self) -> float | None:
        """10^9 bytes a second, at the median time."""
        return self.nbytes / 1e9 / self.seconds if self.seconds else None

    @property
    def cpu_s_per_gb(self) -> float | None:
        """CPU seconds by 10^9 bytes, the median."""
        cpu_s = self.median(lambda each: each.cpu_s)
        return None if cpu_s is None or not self.nbytes else cpu_s / (self.nbytes / 1e9)

    @property
    def setting(self) -> str:
        """Loader and setting: "Run:ai Model Streamer, concurrency 16"."""
        return f"{self.title}, {self.label}" if self.label else self.title


@dataclass(frozen=True)
class Place:
    """What may be compared with one another.

    Attributes:
        experiment: its name in records.
        storage: the facts of the last record.
        model: what was loaded.
        destination: "cpu", "cuda:0"; "" where only floors were measured.
        machine: as the last record describes it.
        machine_number: from 1, in the order in which the report meets them.
        entries: the loaders, in the order of tables; floors last.
    """

    experiment: str
    storage: StorageFacts
    model: ModelFacts
    destination: str
    machine: Mapping[str, str | int]
    machine_number: int
    entries: tuple[Entry, ...]

    @property
    def loaders(self) -> tuple[Entry, ...]:
        """The entries without the floors."""
        return tuple(entry for entry in self.entries if entry.role != "floor")

    @property
    def floors(self) -> tuple[Entry, ...]:
        """The plain readers."""
        return tuple(entry for entry in self.entries if entry.role == "floor")

    def of(self, contender: str) -> tuple[Entry, ...]:
        """One loader's entries."""
        return tuple(entry for entry in self.entries if entry.contender == contender)

    @cached_property
    def contenders(self) -> tuple[str, ...]:
        """The loaders' names, in their order."""
        return tuple(dict.fromkeys(entry.contender for entry in self.loaders))

    @cached_property
    def floor(self) -> Entry | None:
        """The fastest plain reader."""
        return fastest(self.floors)

    def best(self, contender: str) -> Entry | None:
        """The setting with which a loader was fastest."""
        return fastest(self.of(contender))

    def default(self, contender: str) -> Entry | None:
        """A loader with nothing set, where that has figures."""
        return next((entry for entry in self.of(contender) if entry.is_default and entry.figures), None)

    @cached_property
    def best_peer(self) -> Entry | None:
        """The fastest of the others, with its best setting."""
        return fastest(entry for entry in self.loaders if entry.role == "peer")

    @cached_property
    def scatter(self) -> float:
        """The relative standard deviation of a typical entry's seconds."""
        return typical_scatter(entry.values(lambda each: each.seconds) for entry in self.entries)

    def of_floor(self, entry: Entry) -> float | None:
        """An entry's bytes a second as a fraction of the fastest plain reader's."""
        if self.floor is None or not self.floor.gb_per_s or not entry.gb_per_s:
            return None
        return entry.gb_per_s / self.floor.gb_per_s

    def published(self, contender: str) -> PublishedTable | None:
        """The reference document's figures of a loader here."""
        return read_published().table(self.experiment, self.storage.name, contender)

    @property
    def storages(self) -> list[StorageFacts]:
        """The facts of all runs; they differ where limits held differently well."""
        found: list[StorageFacts] = []
        for entry in self.entries:
            found += [record.storage for record in entry.records if record.storage not in found]
        return found

    @property
    def where(self) -> str:
        """Experiment and storage: "gp3", "vllm · gp3"."""
        same = self.experiment == self.storage.name
        return self.experiment if same else f"{self.experiment} · {self.storage.name}"

    @property
    def model_title(self) -> str:
        """The model in words: "llama-3-8b, 8 layers"."""
        return self.model.name + (f", {counted(self.model.layers, 'layer')}" if self.model.layers is not None else "")


def fastest(entries: Iterable[Entry]) -> Entry | None:
    """The one that took least for each byte, of those with figures."""
    timed = [(entry.seconds_per_gb, entry) for entry in entries]
    return min(
        ((seconds, entry) for seconds, entry in timed if seconds is not None),
        key=lambda pair: pair[0],
        default=(0, None),
    )[1]


def contender_title(contender: str) -> str:
    """The name that people know a loader by."""
    return CONTENDERS.get(contender, contender)


def counted(count: int, noun: str) -> str:
    """ "1 layer", "32 layers"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def read_results(paths: Sequence[Path]) -> list[Record]:
    """The records of several files, each record once, in the order in which they were taken.

    Raises:
        ResultsError: a file cannot be read, is no file of results, or there is nothing in all of them.
    """
    records: list[Record] = []
    for path in paths:
        try:
            records += read_records(path)
        except OSError as error:
            raise ResultsError(
                f"{path} cannot be read: {error.strerror or error}; give a file that `slipstream bench run` wrote",
                uri=str(path),
            ) from error
    if not records:
        names = ", ".join(str(path) for path in paths)
        raise ResultsError(f"there is no record in {names}; `slipstream bench run` writes them")
    unique = {(record.run, record.taken_at, record.key, record.status): record for record in records}
    return sorted(unique.values(), key=lambda record: record.taken_at)


def group_records(records: Iterable[Record]) -> list[Place]:
    """Puts records in places, and what was measured there in the order of tables."""
    machines: dict[tuple[str, ...], int] = {}
    key: tuple[object, ...]
    groups: dict[tuple[object, ...], list[Record]] = {}
    floors: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        machine = machines.setdefault(_machine_key(record), len(machines) + 1)
        key = (record.experiment, record.storage.name, _model_key(record.model), machine)
        if record.role == "floor":
            floors.setdefault(key, []).append(record)
        else:
            groups.setdefault((*key, record.destination), []).append(record)
    for key, those in floors.items():
        found = [group for group in groups if group[:-1] == key]
        for group in found or [(*key, "")]:
            groups.setdefault(group, []).extend(those)
    places = [_place(those, str(group[-1]), group[-2]) for group, those in groups.items()]
    return sorted(places, key=_place_order)


def _place(records: Sequence[Record], destination: str, machine: object) -> Place:
    last = max(records, key=lambda record: record.taken_at)
    entries: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        entries.setdefault((record.contender, record.label), []).append(record)
    assert isinstance(machine, int)
    return Place(
        last.experiment,
        last.storage,
        last.model,
        destination,
        last.machine,
        machine,
        tuple(sorted((Entry(tuple(those)) for those in entries.values()), key=_entry_order)),
    )


def _machine_key(record: Record) -> tuple[str, ...]:
    """What tells machines apart; of memory whole GiB, as a few pages more or less make no other machine."""
    memory = record.machine.get("memory_bytes", 0)
    gib = f"{memory / 2**30:.0f}" if isinstance(memory, int) else memory
    return (*(str(record.machine.get(name, "")) for name in _SAME_MACHINE), gib)


def _model_key(model: ModelFacts) -> tuple[object, ...]:
    return model.name, model.layers, model.nbytes


def _entry_order(entry: Entry) -> tuple[object, ...]:
    known = list(CONTENDERS)
    place = known.index(entry.contender) if entry.contender in CONTENDERS else len(known)
    return entry.role == "floor", place, entry.contender, not entry.is_default, entry.level or 0, entry.label


def _place_order(place: Place) -> tuple[object, ...]:
    """As the experiments and their storages are ordered; those that are not known come last."""
    experiments = tuple(EXPERIMENTS)
    known = EXPERIMENTS.get(place.experiment)
    storages = known.storages if known else ()
    experiment = experiments.index(place.experiment) if known else len(experiments)
    storage = storages.index(place.storage.name) if place.storage.name in storages else len(storages)
    return (experiment, place.experiment, storage, place.storage.name, place.machine_number, -place.model.nbytes,
            place.model.name, place.destination)  # fmt: skip
