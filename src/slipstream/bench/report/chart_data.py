"""What charts show, as values: `charts` draws them, and knows nothing of records."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from slipstream.bench.records import Figures
from slipstream.bench.report.results import Entry, Place, contender_title


@dataclass(frozen=True)
class Spot:
    """A median, with the lowest and highest sample."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """A loader over its settings: levels of concurrency, or numbers of readers."""

    contender: str
    points: tuple[tuple[int, Spot], ...]


@dataclass(frozen=True)
class Mark:
    """A loader at one value, without a level: its defaults, or a loader that has no such setting."""

    contender: str
    label: str
    spot: Spot


@dataclass(frozen=True)
class TimeChart:
    """Seconds by concurrency.

    Attributes:
        title, subtitle: above it.
        lines: loaders that were measured at several levels.
        defaults: the same loaders with nothing set.
        level_free: loaders without such a setting; they are horizontal lines.
        floor: seconds of the fastest plain reader, or None.
    """

    title: str
    subtitle: str
    lines: tuple[Line, ...]
    defaults: tuple[Mark, ...]
    level_free: tuple[Mark, ...]
    floor: float | None


@dataclass(frozen=True)
class Bar:
    """One bar; `is_default` where nothing was set."""

    label: str
    spot: Spot
    is_default: bool


@dataclass(frozen=True)
class BarGroup:
    """A loader's bars; or, where there are none, why."""

    contender: str
    title: str
    bars: tuple[Bar, ...]
    missing: str = ""


@dataclass(frozen=True)
class BarChart:
    """Loaders below one another; less is better.

    Attributes:
        title, subtitle: above it.
        axis: what the bars are long by, with its unit.
        unit: behind each figure.
        digits: that the smallest figure shows.
        groups: the loaders.
        floor: of the fastest plain reader, or None.
    """

    title: str
    subtitle: str
    axis: str
    unit: str
    digits: int
    groups: tuple[BarGroup, ...]
    floor: float | None


@dataclass(frozen=True)
class Stack:
    """One loader in vLLM: how long the weights took of the time until it was ready; None where that is not known."""

    contender: str
    title: str
    total: Spot | None
    weights: float | None
    first_token: float | None
    missing: str = ""


@dataclass(frozen=True)
class StackChart:
    """vLLM until it is ready, by loader."""

    title: str
    subtitle: str
    stacks: tuple[Stack, ...]


Drawing: TypeAlias = TimeChart | BarChart | StackChart
Measure: TypeAlias = Callable[[Figures], float | None]


def time_chart(place: Place, title: str, subtitle: str) -> TimeChart | None:
    """Seconds by concurrency, or None where no loader was measured at two levels."""
    lines, defaults, level_free = [], [], []
    for contender in place.contenders:
        entries = [entry for entry in place.of(contender) if entry.figures]
        points = [(entry.level, _spot(entry, _seconds)) for entry in entries if entry.level is not None]
        if points:
            lines.append(Line(contender, tuple((level, spot) for level, spot in points if spot and level is not None)))
            default = place.default(contender)
            if default is not None and (spot := _spot(default, _seconds)):
                defaults.append(Mark(contender, default.label, spot))
        elif (best := place.best(contender)) is not None and (spot := _spot(best, _seconds)):
            level_free.append(Mark(contender, best.label, spot))
    if not any(len(line.points) > 1 for line in lines):
        return None
    floor = None if place.floor is None else _floor_seconds(place, place.floor)
    return TimeChart(title, subtitle, tuple(lines), tuple(defaults), tuple(level_free), floor)


def loader_chart(place: Place, title: str, subtitle: str) -> BarChart | None:
    """The best time of each loader, and that of its defaults; None where nothing was measured."""
    groups = _groups(place, _seconds)
    floor = None if place.floor is None else _floor_seconds(place, place.floor)
    return BarChart(title, subtitle, "seconds to load the model", "s", 3, groups, floor) if _any(groups) else None


def cost_chart(place: Place, title: str, subtitle: str) -> BarChart | None:
    """CPU seconds by 10^9 bytes; None where they were not measured."""
    groups = _groups(place, lambda each: each.cpu_s, by_gb=True)
    floor = None if place.floor is None else place.floor.cpu_s_per_gb
    return BarChart(title, subtitle, "CPU seconds per GB", "", 2, groups, floor) if _any(groups) else None


def ready_chart(place: Place, title: str, subtitle: str) -> StackChart | None:
    """vLLM by loader; None where it never was ready."""
    stacks = []
    for contender in place.contenders:
        best = place.best(contender)
        if best is None:
            stacks.append(Stack(contender, contender_title(contender), None, None, None, _missing(place.of(contender))))
        else:
            weights, token = best.median(lambda each: each.weights_s), best.median(lambda each: each.first_token_s)
            stacks.append(Stack(contender, contender_title(contender), _spot(best, _seconds), weights, token))
    return StackChart(title, subtitle, tuple(stacks)) if any(stack.total for stack in stacks) else None


def describe_drawing(drawing: Drawing) -> str:
    """A chart's figures as a sentence for each loader."""
    if isinstance(drawing, TimeChart):
        sentences = [_describe_line(line) for line in drawing.lines]
        sentences += [
            f"{contender_title(mark.contender)}, {mark.label}: {_figure(mark.spot.value)} s"
            for mark in (*drawing.defaults, *drawing.level_free)
        ]
        if drawing.floor is not None:
            sentences.append(f"raw floor: {_figure(drawing.floor)} s")
    elif isinstance(drawing, BarChart):
        unit = drawing.unit or drawing.axis
        sentences = [
            f"{group.title}: " + (", ".join(f"{bar.label} {_figure(bar.spot.value)} {unit}" for bar in group.bars)
                                  or group.missing)
            for group in drawing.groups
        ]  # fmt: skip
        if drawing.floor is not None:
            sentences.append(f"raw floor: {_figure(drawing.floor)} {unit}")
    else:
        sentences = [
            f"{stack.title}: " + (f"ready after {_figure(stack.total.value)} s" if stack.total else stack.missing)
            for stack in drawing.stacks
        ]
    return f"{drawing.title}. {'; '.join(sentences)}."


def _describe_line(line: Line) -> str:
    return f"{contender_title(line.contender)}: " + ", ".join(
        f"{_figure(spot.value)} s at {level}" for level, spot in line.points
    )


def _groups(place: Place, measure: Measure, *, by_gb: bool = False) -> tuple[BarGroup, ...]:
    groups = []
    for contender in place.contenders:
        best, default = place.best(contender), place.default(contender)
        shown = [best, default] if default is not best else [best]
        bars = [
            Bar(entry.label, spot, entry is default)
            for entry in shown
            if entry is not None and (spot := _spot(entry, measure, by_gb=by_gb)) is not None
        ]
        missing = "" if bars else "not measured" if best else _missing(place.of(contender))
        groups.append(BarGroup(contender, contender_title(contender), tuple(bars), missing))
    return tuple(groups)


def _missing(entries: Iterable[Entry]) -> str:
    last = list(entries)[-1]
    words = "cannot run here" if last.status == "unavailable" else "failed"
    return f"{words}: {last.reason}" if last.reason else words


def _any(groups: Iterable[BarGroup]) -> bool:
    return any(group.bars for group in groups)


def _seconds(figures: Figures) -> float | None:
    return figures.seconds


def _spot(entry: Entry, measure: Measure, *, by_gb: bool = False) -> Spot | None:
    values, middle = entry.values(measure), entry.median(measure)
    if middle is None:
        return None
    by = (entry.nbytes / 1e9 if by_gb else 1.0) or 1.0
    return Spot(middle / by, min(values) / by, max(values) / by)


def _floor_seconds(place: Place, floor: Entry) -> float | None:
    """What the plain reader would take for the model's bytes, of which it may have read fewer or more."""
    return None if floor.seconds_per_gb is None else floor.seconds_per_gb * place.model.nbytes / 1e9


def _figure(value: float) -> str:
    return f"{value:.3g}" if value < 1 else f"{value:.2f}"
