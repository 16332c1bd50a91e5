"""What all charts are drawn on: its size, its margins, its heading, and text that stays within them. For matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from slipstream.bench.report.inks import MUTED, PAPER, RULE, TEXT
from slipstream.bench.report.wording import plain

SETTINGS = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same everywhere
    "font.size": 8.5,
    "axes.edgecolor": MUTED.light,
    "axes.linewidth": 0.7,
    "axes.labelcolor": MUTED.light,
    "xtick.color": MUTED.light,
    "ytick.color": MUTED.light,
    "text.color": TEXT.light,
    "text.parse_math": False,  # a name may hold dollars
    "svg.hashsalt": "slipstream",
}
_POINTS = 72.0
_EDGE_IN = 0.12


@dataclass(frozen=True)
class Format:
    """How much room there is: a page's width, or a phone's; and whether the heading is part of the picture."""

    width_in: float
    narrow: bool
    titled: bool


@dataclass(frozen=True)
class Margins:
    """Around the axes, in inches."""

    left: float
    right: float
    bottom: float
    top: float


def make_sheet(title: str, subtitle: str, room: Format, plot_in: float, margins: Margins) -> tuple[Canvas, Axes]:
    """An empty chart whose axes are `plot_in` inches high, with its heading above."""
    heading_in = 0.56 if room.titled else 0.0
    height_in = margins.bottom + plot_in + margins.top + heading_in
    canvas = Canvas(figsize=(room.width_in, height_in), facecolor=PAPER.light)
    FigureCanvasAgg(canvas)
    axes = canvas.add_axes(
        (
            margins.left / room.width_in,
            margins.bottom / height_in,
            (room.width_in - margins.left - margins.right) / room.width_in,
            plot_in / height_in,
        ),
        facecolor="none",
    )
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, pad=4)
    if room.titled:
        for text, below_in, colour, weight, size in (
            (title, 0.16, TEXT.light, "bold", 11.0),
            (subtitle, 0.40, MUTED.light, "normal", 8.5),
        ):
            x, y = _EDGE_IN / room.width_in, 1 - below_in / height_in
            made = canvas.text(x, y, plain(text), color=colour, va="top", fontsize=size, fontweight=weight)
            fit(made, canvas, (room.width_in - 2 * _EDGE_IN) * _POINTS)
    return canvas, axes


def write(
    axes: Axes,
    words: str,
    at: tuple[float, float],
    offset: tuple[float, float] = (0, 0),
    *,
    x: str = "data",
    y: str = "data",
    colour: str = TEXT.light,
    halo: bool = False,
    **style: Any,
) -> Text:
    """Puts a text into a chart, also beside the axes.

    Args:
        axes: the chart's.
        words: anything; it is shown as it is.
        at: where, in the units of `x` and `y`: "data" or "axes fraction".
        offset: beyond that, in points.
        x, y: see `at`.
        colour: of the text.
        halo: whether lines behind it are covered.
        style: further properties, as matplotlib has them.
    """
    behind = {"facecolor": PAPER.light, "edgecolor": "none", "pad": 1.2} if halo else None
    return axes.annotate(
        plain(words), at, offset, (x, y), "offset points", annotation_clip=False, color=colour, bbox=behind, **style
    )


def width_points(text: Text, canvas: Canvas) -> float:
    """How wide a text is."""
    return float(text.get_window_extent().width) / canvas.dpi * _POINTS


def fit(text: Text, canvas: Canvas, most_points: float) -> None:
    """Cuts a text that is wider, and says so by an ellipsis."""
    words = text.get_text()
    shortest, longest = 0, len(words)
    while width_points(text, canvas) > most_points and shortest < longest:
        if longest - shortest == 1:
            text.set_text(words[:shortest].rstrip() + "…")
            return
        middle = (shortest + longest) // 2
        text.set_text(words[:middle].rstrip() + "…")
        if width_points(text, canvas) > most_points:
            longest = middle
        else:
            shortest = middle
            text.set_text(words[:longest] + "…")


def plot_points(axes: Axes, canvas: Canvas) -> tuple[float, float]:
    """Width and height of the axes."""
    extent = axes.get_window_extent()
    return float(extent.width) / canvas.dpi * _POINTS, float(extent.height) / canvas.dpi * _POINTS


def name_value_axis(axes: Axes, text: str) -> None:
    """The name of the vertical axis, above it, where it reads without turning one's head."""
    write(axes, text, (0, 1), (-24, 7), x="axes fraction", y="axes fraction", colour=MUTED.light, va="bottom")
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.grid(True, color=RULE.light, linewidth=0.7)
    axes.set_axisbelow(True)


def spread(wanted: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Positions in ascending order, moved as little as needed so that neighbours are `distance` apart and all within.

    Where there is not room for all, they stand evenly.
    """
    if (len(wanted) - 1) * distance > high - low:
        step = (high - low) / max(1, len(wanted) - 1)
        return [low + n * step for n in range(len(wanted))]
    groups: list[tuple[float, int]] = []  # neighbours that touch: what they want of the first's place, summed; how many
    for n, position in enumerate(wanted):
        group = (position - n * distance, 1)
        while groups and groups[-1][0] / groups[-1][1] > group[0] / group[1]:
            last = groups.pop()
            group = (last[0] + group[0], last[1] + group[1])
        groups.append(group)
    highest = high - (len(wanted) - 1) * distance
    starts = [min(max(total / count, low), highest) for total, count in groups for _ in range(count)]
    return [start + n * distance for n, start in enumerate(starts)]
