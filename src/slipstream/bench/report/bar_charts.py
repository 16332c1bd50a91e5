"""Draws bars: times and costs by loader, and vLLM's time until it is ready. For matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator

from slipstream.bench.report.chart_data import BarChart, Spot, StackChart
from slipstream.bench.report.inks import MUTED, PAPER, TEXT, Palette
from slipstream.bench.report.sheet import Format, Margins, fit, make_sheet, plot_points, width_points, write
from slipstream.bench.report.wording import decimals_for, fixed, plain

_NAMES_IN = 1.85
_BAR_PT, _NAME_PT, _GAP_PT = 13.0, 14.0, 9.0
_PALE = 0.38


@dataclass(frozen=True)
class _Strip:
    """One bar: its parts from left to right, each pale or not; its range; the text behind it."""

    parts: tuple[tuple[float, bool], ...]
    spot: Spot
    figure: str
    label: str


@dataclass(frozen=True)
class _Group:
    """What stands under one name; `missing` where there is no bar."""

    contender: str
    title: str
    strips: tuple[_Strip, ...]
    missing: str


def draw_bars(chart: BarChart, room: Format, palette: Palette) -> Canvas:
    """Each loader's best and defaults, with the floor as a line."""
    decimals = decimals_for((bar.spot.value for group in chart.groups for bar in group.bars), chart.digits)
    groups = [
        _Group(
            group.contender,
            group.title,
            tuple(
                _Strip(((bar.spot.value, bar.is_default and len(group.bars) > 1),), bar.spot,
                       f"{fixed(bar.spot.value, decimals)} {chart.unit}".strip(), bar.label)
                for bar in group.bars
            ),
            group.missing,
        )
        for group in chart.groups
    ]  # fmt: skip
    floor = (
        None if chart.floor is None else (chart.floor, f"raw floor {fixed(chart.floor, decimals)} {chart.unit}".strip())
    )
    return _draw(chart.title, chart.subtitle, chart.axis, groups, floor, room, palette)


def draw_stacks(chart: StackChart, room: Format, palette: Palette) -> Canvas:
    """Each loader's time until vLLM is ready, of which the weights took the filled part."""
    decimals = decimals_for(stack.total.value for stack in chart.stacks if stack.total)
    groups = []
    for stack in chart.stacks:
        strips = []
        if stack.total is not None:
            weights = min(stack.weights or 0.0, stack.total.value)
            parts = (
                ((weights, False), (stack.total.value - weights, True)) if weights else ((stack.total.value, False),)
            )
            label = f"weights {fixed(stack.weights, decimals)} s" if stack.weights is not None else ""
            strips.append(_Strip(parts, stack.total, f"{fixed(stack.total.value, decimals)} s", label))
        groups.append(_Group(stack.contender, stack.title, tuple(strips), stack.missing))
    return _draw(chart.title, chart.subtitle, "seconds until ready", groups, None, room, palette)


def _draw(
    title: str,
    subtitle: str,
    axis: str,
    groups: Sequence[_Group],
    floor: tuple[float, str] | None,
    room: Format,
    palette: Palette,
) -> Canvas:
    heights = [
        max(1, len(group.strips)) * (_BAR_PT + 2) + (_NAME_PT if room.narrow else 0) + _GAP_PT for group in groups
    ]
    plot_in = sum(heights) / 72
    left = 0.14 if room.narrow else _NAMES_IN
    canvas, axes = make_sheet(title, subtitle, room, plot_in, Margins(left, 0.2, 0.46, 0.26 if floor else 0.06))
    axes.set_ylim(sum(heights), 0)  # in points, downwards
    axes.set_yticks([])
    axes.set_xlabel(axis, labelpad=5)
    axes.tick_params(axis="x", length=3)
    axes.xaxis.set_major_locator(MaxNLocator(4 if room.narrow else 7, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _scale(canvas, axes, groups, floor)
    y = _GAP_PT / 2
    for group, height in zip(groups, heights, strict=True):
        _draw_group(canvas, axes, y, group, room, palette)
        y += height
    if floor is not None:
        _draw_floor(canvas, axes, *floor)
    return canvas


def _scale(canvas: Canvas, axes: Axes, groups: Sequence[_Group], floor: tuple[float, str] | None) -> None:
    """From zero to where the text behind every bar has room too."""
    width, _ = plot_points(axes, canvas)
    most = floor[0] * 1.02 if floor else 0.0
    for strip in (strip for group in groups for strip in group.strips):
        probe = axes.text(0, 0, _text(strip), fontsize=8.5, fontweight="bold")
        room = max(width * 0.3, width - width_points(probe, canvas) - 10)
        probe.remove()
        most = max(most, strip.spot.high / room * width)
    axes.set_xlim(0, most or 1.0)


def _draw_group(canvas: Canvas, axes: Axes, y: float, group: _Group, room: Format, palette: Palette) -> None:
    width, _ = plot_points(axes, canvas)
    weight = "bold" if group.contender == "slipstream" else "normal"
    bars = max(1, len(group.strips)) * (_BAR_PT + 2)
    if room.narrow:
        name = _write_name(axes, group.title, y + _NAME_PT / 2, 0, fontweight=weight, halo=True)
        fit(name, canvas, width)
        y += _NAME_PT
    else:
        name = _write_name(axes, group.title, y + bars / 2, -9, fontweight=weight, ha="right")
        fit(name, canvas, _NAMES_IN * 72 - 18)
    if not group.strips:
        style = {"colour": MUTED.light, "fontstyle": "italic", "fontsize": 8, "halo": True}
        fit(_write_name(axes, group.missing, y + bars / 2, 3, **style), canvas, width - 6)
    for strip in group.strips:
        _draw_strip(canvas, axes, y + _BAR_PT / 2, strip, palette.ink(group.contender).light)
        y += _BAR_PT + 2


def _write_name(axes: Axes, words: str, y: float, aside: float, **style: Any) -> Text:
    """A text at the left edge."""
    return write(axes, words, (0, y), (aside, 0), x="axes fraction", va="center", **style)


def _draw_strip(canvas: Canvas, axes: Axes, y: float, strip: _Strip, ink: str) -> None:
    left = 0.0
    for value, pale in strip.parts:
        axes.barh(y, value, _BAR_PT, left, color=PAPER.light, linewidth=0, zorder=2)  # so that no line shines through
        axes.barh(y, value, _BAR_PT, left, color=ink, alpha=_PALE if pale else 1.0, linewidth=0, zorder=2)
        left += value
    low, high = strip.spot.low, strip.spot.high
    if high > low:
        axes.hlines(y, low, high, color=TEXT.light, linewidth=1.1, zorder=3)
        axes.vlines([low, high], y - 2.5, y + 2.5, color=TEXT.light, linewidth=1.1, zorder=3)
    style: dict[str, Any] = {"va": "center", "halo": True, "zorder": 4}
    taken = width_points(write(axes, strip.figure, (high, y), (5, 0), fontweight="bold", **style), canvas) + 10
    detail = write(axes, strip.label, (high, y), (taken, 0), colour=MUTED.light, fontsize=8, **style)
    width, _ = plot_points(axes, canvas)
    fit(detail, canvas, width * (1 - high / axes.get_xlim()[1]) - taken)


def _draw_floor(canvas: Canvas, axes: Axes, value: float, words: str) -> None:
    """A line down all bars, with its name above it, moved aside where that would leave the chart."""
    axes.axvline(value, color=MUTED.light, linewidth=1.2, linestyle=(0, (5, 3)), zorder=1)
    style: dict[str, Any] = {"ha": "center", "va": "bottom", "colour": MUTED.light, "fontsize": 8}
    name = write(axes, words, (value, 1), (0, 4), y="axes fraction", **style)
    width, _ = plot_points(axes, canvas)
    half, at = width_points(name, canvas) / 2, value / axes.get_xlim()[1] * width
    name.set_position((max(0.0, half - at) - max(0.0, at + half - width), 4))


def _text(strip: _Strip) -> str:
    """What stands behind a bar, as far as room is made for it; a longer label is cut."""
    return plain(f"{strip.figure}  {strip.label[:28]}")
