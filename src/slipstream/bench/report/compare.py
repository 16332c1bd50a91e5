"""What got slower, or faster, between two files of results.

Samples of the same loader, with the same setting, in the same place, are compared by `noise`. Two runs differ by more
than the scatter within each: the machine, its neighbours and its disk are not the same an hour later. What did not
change tells by how much: in each place the floors, and the peers whose versions are equal in both files, are controls,
and the median of their ratios is the drift there. A loader got slower if it did so beyond its noise *and* beyond the
drift of the (other) controls. One that did not, where the controls got faster, fell behind; that is said and does not
count. A control that got slower is the machine's doing: it does not count either, unless seconds are compared as they
are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import median
from typing import Any, Literal, NamedTuple, TypeAlias

from slipstream.bench.records import Figures, Record
from slipstream.bench.report.noise import CONFIDENCE, LEAST_EFFECT, Shift, Verdict, measure_shift, typical_scatter
from slipstream.bench.report.results import Entry, Place, group_records

Change: TypeAlias = Verdict | Literal["with the machine", "behind the machine", "no longer runs", "runs now"]
"""A verdict; or slower or faster, as the controls are; or not, though they got faster; or figures in one file alone."""


class EntryKey(NamedTuple):
    """What is compared with what."""

    experiment: str
    storage: str
    model: str
    layers: int | None
    destination: str
    contender: str
    label: str


@dataclass(frozen=True)
class Difference:
    """One loader with one setting in one place, before and after.

    Attributes:
        key: which.
        title: the loader and its setting in words.
        before_s, after_s: median seconds, None where there are no figures.
        samples: how many there are before and after.
        shift: of the seconds; None where one side has no figures.
        drift: the controls' ratio that it was held against; None without controls, or where that is not done.
        is_control: whether it is one itself.
        cpu: of the CPU seconds, for information; None where they were not measured.
        change: what is said of it.
        reason: why it no longer runs, or "".
    """

    key: EntryKey
    title: str
    before_s: float | None
    after_s: float | None
    samples: tuple[int, int]
    shift: Shift | None
    drift: float | None
    is_control: bool
    cpu: Shift | None
    change: Change
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two files of results.

    Attributes:
        differences: of all that is in both.
        warnings: what else differs, so that one should think before believing.
        only_before, only_after: titles of what is in one file alone.
        least_effect: below which a difference is none.
        absolute: whether seconds were compared as they are.
    """

    differences: tuple[Difference, ...]
    warnings: tuple[str, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    least_effect: float
    absolute: bool

    @property
    def slower(self) -> tuple[Difference, ...]:
        """What got worse: slower, or no longer running. Controls count only where seconds do as they are."""
        return tuple(
            each
            for each in self.differences
            if each.change == "no longer runs" or (each.change == "slower" and (self.absolute or not each.is_control))
        )


@dataclass(frozen=True)
class _Pair:
    key: EntryKey
    before: Entry
    after: Entry

    @property
    def place(self) -> tuple[str, ...]:
        key = self.key
        return key.experiment, key.storage, key.model, str(key.layers), key.destination

    @property
    def is_control(self) -> bool:
        """Whether nothing of ours and no version changed."""
        if not (self.before.figures and self.after.figures) or self.before.role == "slipstream":
            return False
        return self.before.role == "floor" or self.before.records[-1].versions == self.after.records[-1].versions


def compare_results(
    before: Sequence[Record], after: Sequence[Record], *, least_effect: float = LEAST_EFFECT, absolute: bool = False
) -> Comparison:
    """Compares two sets of records.

    Args:
        before, after: the records.
        least_effect: the smallest difference that counts, as a fraction.
        absolute: whether seconds are compared as they are, without regard to the drift of the controls.
    """
    first, second = _entries(before), _entries(after)
    pairs = [_Pair(key, first[key], second[key]) for key in first if key in second]
    differences = [_compare(pair, pairs, least_effect, absolute) for pair in pairs]
    return Comparison(
        tuple(each for each in differences if each is not None),
        tuple(_warnings(before, after, pairs)),
        tuple(_title(key, first[key]) for key in first if key not in second and first[key].figures),
        tuple(_title(key, second[key]) for key in second if key not in first and second[key].figures),
        least_effect,
        absolute,
    )


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON values."""
    return {
        "confidence": CONFIDENCE,
        "least_effect": comparison.least_effect,
        "slower": len(comparison.slower),
        "differences": [
            {
                **each.key._asdict(),
                "change": each.change,
                "before_s": each.before_s,
                "after_s": each.after_s,
                "samples": list(each.samples),
                "ratio": each.shift.ratio if each.shift else None,
                "low": each.shift.low if each.shift else None,
                "high": each.shift.high if each.shift else None,
                "noise": each.shift.noise if each.shift else None,
                "drift": each.drift,
                "control": each.is_control,
                "cpu_ratio": each.cpu.ratio if each.cpu else None,
                "cpu_change": each.cpu.judge(comparison.least_effect) if each.cpu else None,
                "reason": each.reason,
            }
            for each in comparison.differences
        ],
        "only_before": list(comparison.only_before),
        "only_after": list(comparison.only_after),
        "warnings": list(comparison.warnings),
    }


def _entries(records: Sequence[Record]) -> dict[EntryKey, Entry]:
    """All entries; those of several machines in one file together, which is warned of."""
    found: dict[EntryKey, list[Record]] = {}
    for place in group_records(records):
        for entry in place.entries:
            found.setdefault(_key(place, entry), []).extend(entry.records)
    return {key: Entry(tuple(those)) for key, those in found.items()}


def _key(place: Place, entry: Entry) -> EntryKey:
    model = place.model
    return EntryKey(place.experiment, place.storage.name, model.name, model.layers, place.destination,
                    entry.contender, entry.label)  # fmt: skip


def _compare(pair: _Pair, pairs: Iterable[_Pair], least_effect: float, absolute: bool) -> Difference | None:
    before, after = pair.before, pair.after
    if not before.figures and not after.figures:
        return None
    shift = None
    drift = None
    change: Change
    if before.figures and after.figures:
        shift = _shift(pair, pairs)
        drift = None if absolute else _drift(pair, pairs)
        change = _change(shift, drift, least_effect, is_control=pair.is_control)
    else:
        change = "no longer runs" if before.figures else "runs now"
    cpu = [entry.values(lambda each: each.cpu_s) for entry in (before, after)]
    return Difference(
        pair.key,
        after.setting,
        before.seconds,
        after.seconds,
        (len(before.figures), len(after.figures)),
        shift,
        drift,
        pair.is_control,
        measure_shift(*cpu) if all(cpu) else None,
        change,
        after.reason if change == "no longer runs" else "",
    )


def _change(shift: Shift, drift: float | None, least_effect: float, *, is_control: bool) -> Change:
    verdict: Verdict = shift.judge(least_effect)
    if drift is None:
        return verdict
    beyond = shift.beside(drift).judge(least_effect)
    if verdict in ("slower", "faster"):
        return verdict if beyond == verdict else "with the machine"
    return "behind the machine" if beyond == "slower" and not is_control else verdict


def _drift(pair: _Pair, pairs: Iterable[_Pair]) -> float | None:
    """By which factor the other controls of the same place changed."""
    others = [
        each.after.seconds / each.before.seconds
        for each in pairs
        if each.is_control and each.place == pair.place and each.key != pair.key
        if each.before.seconds and each.after.seconds
    ]
    return exp(median(log(each) for each in others)) if others else None


def _shift(pair: _Pair, pairs: Iterable[_Pair]) -> Shift:
    """Of the seconds, with the scatter that is typical of both files in that place."""
    beside = [entry for each in pairs if each.place == pair.place for entry in (each.before, each.after)]
    scatter = typical_scatter(entry.values(_seconds) for entry in beside)
    return measure_shift(pair.before.values(_seconds), pair.after.values(_seconds), scatter=scatter)


def _seconds(figures: Figures) -> float:
    return figures.seconds


def _title(key: EntryKey, entry: Entry) -> str:
    return f"{key.experiment}, {key.storage}: {entry.setting}"


def _warnings(before: Sequence[Record], after: Sequence[Record], pairs: Sequence[_Pair]) -> list[str]:
    found = []
    if differing := _differing_facts(before, after):
        found.append(f"The machines differ ({', '.join(differing)}): so may all figures.")
    for pair in pairs:
        first, second = pair.before.records[-1], pair.after.records[-1]
        if _limits(first) != _limits(second):
            found.append(
                f"{pair.key.experiment}, {pair.key.storage}: the storages are not the same kind, or have other limits."
            )
        if dict(first.settings) != dict(second.settings):
            found.append(f"{_title(pair.key, pair.after)}: the settings behind this label are not the same.")
    few = [pair for pair in pairs if min(len(pair.before.figures), len(pair.after.figures)) in (1, 2)]
    if few:
        found.append(
            f"{len(few)} of {len(pairs)} have fewer than three samples on a side: of these little can be said."
        )
    return list(dict.fromkeys(found))


def _differing_facts(before: Sequence[Record], after: Sequence[Record]) -> list[str]:
    """What is not the same of the machines: "kernel 6.1 and 6.18"."""
    names = dict.fromkeys(name for record in (*before, *after) for name in record.machine if name != "memory_bytes")
    values = {
        name: [sorted({str(record.machine.get(name, "unknown")) for record in those}) for those in (before, after)]
        for name in names
    }
    return [f"{name} {', '.join(a)} and {', '.join(b)}" for name, (a, b) in values.items() if a != b]


def _limits(record: Record) -> tuple[object, ...]:
    return record.storage.kind, sorted(record.storage.limits.items())
