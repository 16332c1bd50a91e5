"""Draws seconds by concurrency. For matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.text import Text

from slipstream.bench.report.chart_data import Spot, TimeChart
from slipstream.bench.report.inks import MUTED, RULE, Palette
from slipstream.bench.report.results import contender_title
from slipstream.bench.report.sheet import (
    Format,
    Margins,
    fit,
    make_sheet,
    name_value_axis,
    plot_points,
    spread,
    width_points,
    write,
)
from slipstream.bench.report.wording import seconds

_LABELS_IN = 1.95  # at the right of the plot
_KEY_ROW_IN = 0.19  # above it, on a phone
_FLOOR_DASHES = (0, (5, 3))
_BEYOND = 0.3  # of the highest level, on the logarithmic scale


@dataclass(frozen=True)
class _Look:
    """How a loader is drawn."""

    colour: str
    marker: str
    strong: bool

    @classmethod
    def of(cls, contender: str, palette: Palette) -> _Look:
        """The look of that loader; slipstream's is stronger."""
        return cls(palette.ink(contender).light, palette.marker(contender), contender == "slipstream")


@dataclass(frozen=True)
class _Label:
    """A name for what is drawn: where it ends, in seconds, and what it looks like."""

    end: float
    name: str
    detail: str
    colour: str
    marker: str
    dashed: bool = False


def draw_times(chart: TimeChart, room: Format, palette: Palette) -> Canvas:
    """Lines over concurrency; at their left, apart, the defaults; right across, what has no concurrency; the floor."""
    labels = _labels(chart, palette)
    above_in = 0.36 + (_KEY_ROW_IN * len(labels) + 0.1 if room.narrow else 0.0)
    margins = Margins(0.46, 0.14 if room.narrow else _LABELS_IN, 0.5, above_in)
    canvas, axes = make_sheet(chart.title, chart.subtitle, room, 2.3 if room.narrow else 3.4, margins)
    levels = sorted({level for line in chart.lines for level, _ in line.points})
    first, last = log2(levels[0]), log2(levels[-1])
    for line in chart.lines:
        look = _Look.of(line.contender, palette)
        _draw_spots(axes, [log2(level) for level, _ in line.points], [spot for _, spot in line.points], look)
        if not room.narrow:
            _lead_to_label(axes, log2(line.points[-1][0]), last + _BEYOND, line.points[-1][1].value, look)
    at_defaults = first - max(1.0, (last - first) * (0.24 if room.narrow else 0.17))
    aside = (last - first + 2) * (0.06 if room.narrow else 0.028)
    for number, mark in enumerate(chart.defaults):
        x = at_defaults + (number - (len(chart.defaults) - 1) / 2) * aside
        _draw_spots(axes, [x], [mark.spot], _Look.of(mark.contender, palette))
    for mark in chart.level_free:
        axes.axhline(mark.spot.value, color=palette.ink(mark.contender).light, linewidth=1.3, zorder=2)
    if chart.floor is not None:
        axes.axhline(chart.floor, color=MUTED.light, linewidth=1.1, linestyle=_FLOOR_DASHES, zorder=2)
    _scale(axes, chart, levels, at_defaults if chart.defaults else None, narrow=room.narrow)
    if room.narrow:
        _draw_key(canvas, axes, labels)
    else:
        _draw_labels(canvas, axes, labels)
    return canvas


def _labels(chart: TimeChart, palette: Palette) -> list[_Label]:
    """From the slowest to the fastest, as they stand in the plot."""
    labels = []
    for line in chart.lines:
        level, best = min(line.points, key=lambda point: point[1].value)
        labels.append(
            _Label(
                line.points[-1][1].value,
                contender_title(line.contender),
                f"best {seconds(best.value)} at {level}",
                palette.ink(line.contender).light,
                palette.marker(line.contender),
            )
        )
    for mark in chart.level_free:
        detail = f"{seconds(mark.spot.value)}, {mark.label}"
        ink = palette.ink(mark.contender).light
        labels.append(_Label(mark.spot.value, contender_title(mark.contender), detail, ink, ""))
    if chart.floor is not None:
        labels.append(_Label(chart.floor, "raw floor", seconds(chart.floor), MUTED.light, "", dashed=True))
    return sorted(labels, key=lambda label: -label.end)


def _draw_spots(axes: Axes, x: Sequence[float], spots: Sequence[Spot], look: _Look) -> None:
    """Medians, joined by a line, each with a line from the lowest to the highest sample."""
    low, high = [spot.low for spot in spots], [spot.high for spot in spots]
    axes.vlines(x, low, high, color=look.colour, linewidth=1.0, alpha=0.6)
    axes.plot(
        x,
        [spot.value for spot in spots],
        color=look.colour,
        marker=look.marker,
        markersize=6.0 if look.strong else 5.0,
        linewidth=2.2 if look.strong else 1.4,
        zorder=5 if look.strong else 3,
    )


def _lead_to_label(axes: Axes, start: float, end: float, value: float, look: _Look) -> None:
    """A thin line from where a loader's line ends to the edge where its name stands."""
    axes.plot([start, end], [value, value], color=look.colour, linewidth=0.6, alpha=0.5, zorder=1)


def _scale(axes: Axes, chart: TimeChart, levels: Sequence[int], at_defaults: float | None, *, narrow: bool) -> None:
    first, last = log2(levels[0]), log2(levels[-1])
    low = first - 0.25 if at_defaults is None else at_defaults - 0.16 * max(3.0, last - first)
    shown = _uncrowded(levels, (last + _BEYOND - low) * (0.09 if narrow else 0.045))
    ticks, texts = [log2(level) for level in shown], [str(level) for level in shown]
    if at_defaults is not None:
        ticks, texts = [at_defaults, *ticks], ["defaults", *texts]
        axes.axvline((at_defaults + first) / 2, color=RULE.light, linewidth=0.8, zorder=0)
    axes.set_xticks(ticks, texts)
    axes.set_xlim(low, last + _BEYOND)
    axes.set_ylim(0, _highest(chart) * 1.06)
    readers = ", for Tensorizer readers" if any(line.contender == "tensorizer" for line in chart.lines) else ""
    axes.set_xlabel(f"concurrency{readers} (log scale)", labelpad=6)
    name_value_axis(axes, "seconds")


def _highest(chart: TimeChart) -> float:
    spots = [spot for line in chart.lines for _, spot in line.points]
    spots += [mark.spot for mark in (*chart.defaults, *chart.level_free)]
    return max(spot.high for spot in spots)


def _uncrowded(levels: Sequence[int], least: float) -> list[int]:
    """The levels that get a tick: the ends and powers of two before others that are too near to them."""
    shown: list[int] = []
    for level in sorted(levels, key=lambda each: (each not in (levels[0], levels[-1]), each & (each - 1) != 0, -each)):
        if all(abs(log2(level / other)) >= least for other in shown):
            shown.append(level)
    return sorted(shown)


def _draw_labels(canvas: Canvas, axes: Axes, labels: Sequence[_Label]) -> None:
    """Names at the right edge, moved apart where they would overlap, with a line to where they belong."""
    width, height = plot_points(axes, canvas)
    upwards = labels[::-1]
    ends = [label.end / axes.get_ylim()[1] * height for label in upwards]
    for label, end, moved in zip(upwards, ends, spread(ends, 23.5, 6.0, height - 4.0), strict=True):
        x, y = [1, 1 + 12 / width], [end / height, moved / height]
        axes.plot(x, y, color=label.colour, linewidth=0.8, clip_on=False, transform=axes.transAxes)
        name = _write_beside(axes, label.name, (1 + 15 / width, y[1]), (0, 0.5), label.colour, 8.5, "bold")
        detail = _write_beside(axes, label.detail, (1 + 15 / width, y[1]), (0, -10), MUTED.light, 7.8, "normal")
        for text in (name, detail):
            fit(text, canvas, _LABELS_IN * 72 - 20)


def _write_beside(
    axes: Axes,
    words: str,
    at: tuple[float, float],
    offset: tuple[float, float],
    colour: str,
    size: float,
    weight: str,
    align: str = "bottom",
) -> Text:
    where = "axes fraction"
    return write(axes, words, at, offset, x=where, y=where, colour=colour, fontsize=size, fontweight=weight, va=align)


def _draw_key(canvas: Canvas, axes: Axes, labels: Sequence[_Label]) -> None:
    """The same above the plot, where there is no room beside it."""
    width, height = plot_points(axes, canvas)
    for number, label in enumerate(labels):
        y = 1 + (24 + (len(labels) - number - 0.5) * _KEY_ROW_IN * 72) / height
        axes.plot(
            [(-26 + step) / width for step in (0, 9, 18)],
            [y] * 3,
            color=label.colour,
            marker=label.marker,
            markevery=[1],
            markersize=4.5,
            linewidth=1.5,
            linestyle=_FLOOR_DASHES if label.dashed else "-",
            clip_on=False,
            transform=axes.transAxes,
        )
        name = _write_beside(axes, label.name, (0, y), (-3, 0), label.colour, 8.0, "bold", "center")
        fit(name, canvas, width * 0.55)
        after = width_points(name, canvas) + 3
        detail = _write_beside(axes, label.detail, (0, y), (after, 0), MUTED.light, 7.6, "normal", "center")
        fit(detail, canvas, width - after)
