"""Whether what is asked of slipstream was reached: a function of records.

    for verdict in judge_targets(EXPERIMENTS["cold"], records):
        verdict.word, verdict.target.text, verdict.measured        "reached", "CPU seconds per GB", 0.07

Targets stand beside the experiments, in `own_experiments`. Figures are medians over the samples, of memory the most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from slipstream.bench.experiment import Entry as PlannedEntry
from slipstream.bench.experiment import Experiment, Measure, Target
from slipstream.bench.records import Record
from slipstream.bench.report.results import Entry, Place, fastest, group_records

_MIB = 1 << 20


@dataclass(frozen=True)
class Verdict:
    """One target, and what came of it.

    Attributes:
        target: which.
        measured: the figure; None where a row that it takes has none.
    """

    target: Target
    measured: float | None

    @property
    def met(self) -> bool | None:
        """Whether it was reached; None where it was not measured."""
        if self.measured is None:
            return None
        most, least = self.target.most, self.target.least
        return (most is None or self.measured <= most) and (least is None or self.measured >= least)

    @property
    def word(self) -> str:
        """ "reached", "missed" or "not measured"."""
        return {True: "reached", False: "missed", None: "not measured"}[self.met]

    @property
    def bound(self) -> str:
        """ "at most 1.5"."""
        if self.target.most is not None:
            return f"at most {self.target.most:,g}"
        return f"at least {self.target.least:,g}"


@dataclass(frozen=True)
class Judgement:
    """All targets of an experiment, for one model, destination and machine.

    Attributes:
        places: its tables, one for each storage.
        verdicts: in the order of the targets.
    """

    places: tuple[Place, ...]
    verdicts: tuple[Verdict, ...]


def judge_targets(experiment: Experiment, records: Iterable[Record]) -> list[Judgement]:
    """What came of an experiment's targets; for none where it has none or no record is of it."""
    if not experiment.targets:
        return []
    groups: dict[tuple[object, ...], list[Place]] = {}
    for place in group_records(record for record in records if record.experiment == experiment.name):
        model = place.model
        key = (model.name, model.layers, model.nbytes, place.destination, place.machine_number)
        groups.setdefault(key, []).append(place)
    return [
        Judgement(tuple(places), tuple(Verdict(target, _measure(target, places)) for target in experiment.targets))
        for places in groups.values()
    ]


def _measure(target: Target, places: Sequence[Place]) -> float | None:
    measure = _MEASURES[target.measure]
    ours = _pick(target.of, target.storage, places)
    value = measure(ours) if ours else None
    if not target.against:
        return value
    other = _pick(target.against, target.against_storage, places)
    divisor = measure(other) if other else None
    return None if value is None or not divisor else value / divisor


def _pick(wanted: Sequence[PlannedEntry], storage: str, places: Sequence[Place]) -> Entry | None:
    """The fastest of these rows, of those with figures."""
    found = [
        entry
        for place in places
        if storage in ("", place.storage.name)
        for entry in place.entries
        if entry.seconds is not None and any(_is_of(entry, row) for row in wanted)
    ]
    # Of what moves no bytes there is one row only, and nothing to compare.
    return fastest(found) or next(iter(found), None)


def _is_of(entry: Entry, planned: PlannedEntry) -> bool:
    return entry.contender == planned.contender and dict(entry.records[0].settings) == dict(planned.settings)


def _tensors_per_s(entry: Entry) -> float | None:
    tensors = entry.most(lambda each: each.tensors)
    return tensors / entry.seconds if tensors and entry.seconds else None


def _peak_mib(entry: Entry) -> float | None:
    peak = entry.most(lambda each: each.peak_memory_bytes)
    return None if peak is None else peak / _MIB


def _mib_above_model(entry: Entry) -> float | None:
    above = entry.most(
        lambda each: (
            None if each.peak_memory_bytes is None or each.nbytes is None else each.peak_memory_bytes - each.nbytes
        )
    )
    return None if above is None else above / _MIB


_MEASURES: Mapping[Measure, Callable[[Entry], float | None]] = {
    "seconds": lambda entry: entry.seconds,
    "milliseconds": lambda entry: None if entry.seconds is None else entry.seconds * 1000,
    "gb_per_s": lambda entry: entry.gb_per_s,
    "cpu_s_per_gb": lambda entry: entry.cpu_s_per_gb,
    "tensors_per_s": _tensors_per_s,
    "peak_mib": _peak_mib,
    "mib_above_model": _mib_above_model,
}
