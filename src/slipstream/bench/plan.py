"""Which samples a run takes, all of them known before the first: pure functions.

experiments, storages, repeats  ──plan_stages──▶  stages, each with what is open at once and its samples in turns
stages, records of earlier runs ──leave_out───▶  the same without what has been measured
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from slipstream.bench.experiments import Entry, Experiment
from slipstream.bench.models import Model
from slipstream.bench.records import Record, RecordKey, Role

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Row:
    """An entry of an experiment, as records have it.

    Attributes:
        entry: which.
        label: which settings, in words.
        role: what it is compared as.
        needs_tensorizer: whether it loads the copy in tensorizer's format.
    """

    entry: Entry
    label: str
    role: Role
    needs_tensorizer: bool = False


@dataclass(frozen=True, kw_only=True)
class PlannedSample:
    """One sample.

    Attributes:
        experiment: of which.
        model: what is loaded.
        storage: its name there, and `storage_name` in records.
        row: who, and how.
        round: the number of the repeat, from 0.
        destination: plain readers read to "cpu", whoever they are compared with.
    """

    experiment: Experiment
    model: Model
    storage: str
    storage_name: str
    row: Row
    round: int
    destination: str

    @property
    def key(self) -> RecordKey:
        """As its record will have it."""
        return RecordKey(
            self.experiment.name,
            self.storage_name,
            self.row.entry.contender,
            self.row.label,
            self.destination,
            self.model.facts.name,
            self.model.facts.layers,
            self.round,
        )


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Samples of one experiment that are taken while the same storages are open.

    Attributes:
        experiment: of which.
        model: what is loaded.
        storages: their names in the experiment.
        samples: in the order in which they are taken.
    """

    experiment: Experiment
    model: Model
    storages: tuple[str, ...]
    samples: tuple[PlannedSample, ...]


def choose_entries(experiment: Experiment, *, contenders: Sequence[str] | None, quick: bool) -> list[Entry]:
    """The experiment's entries, of these contenders alone, or of a short run alone."""
    return [
        entry
        for entry in experiment.entries
        if (contenders is None or entry.contender in contenders) and (entry.quick or not quick)
    ]


def plan_stages(
    experiment: Experiment,
    model: Model,
    rows: Sequence[Row],
    *,
    storage_names: dict[str, str],
    repeats: int,
    destination: str,
) -> list[Stage]:
    """The samples of an experiment.

    Args:
        experiment: which.
        model: what is loaded.
        rows: of the experiment.
        storage_names: what records call its storages, by their names in it.
        repeats: samples of each row.
        destination: of all but plain readers.
    """
    groups = [experiment.storages] if experiment.together else [(name,) for name in experiment.storages]
    stages = []
    for group in groups:
        cells = [
            PlannedSample(
                experiment=experiment,
                model=model,
                storage=storage,
                storage_name=storage_names[storage],
                row=row,
                round=0,
                destination="cpu" if row.role == "floor" else destination,
            )
            for row in rows
            for storage in group
            if not row.entry.storages or storage in row.entry.storages
        ]
        samples = tuple(replace(cell, round=number) for number, cell in turns(cells, repeats))
        stages.append(Stage(experiment=experiment, model=model, storages=group, samples=samples))
    return stages


def turns(rows: Sequence[T], rounds: int) -> Iterator[tuple[int, T]]:
    """Every row once a round, each round beginning with another one, so that no row always follows the same state."""
    for number in range(rounds):
        first = number * len(rows) // rounds
        for row in (*rows[first:], *rows[:first]):
            yield number, row


def leave_out(stages: Iterable[Stage], records: Iterable[Record]) -> list[Stage]:
    """The stages without samples that have a figure already, and without those of which nothing is left.

    A figure counts for a model of the same name only if that has as many tensors and bytes, too.
    """
    measured = {(record.key, record.model) for record in records if record.status == "ok"}
    left = [
        replace(
            stage,
            samples=tuple(sample for sample in stage.samples if (sample.key, sample.model.facts) not in measured),
        )
        for stage in stages
    ]
    return [stage for stage in left if stage.samples]
