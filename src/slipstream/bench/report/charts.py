"""Draws charts: PNG and SVG files, and SVG for the page.

matplotlib comes with the extra `slipstream[bench]`; nothing but this module and those that it draws with imports it.
Its settings, by the user or other code, neither matter here nor are changed: everything happens in a context of its
own, and the same values give the same bytes.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import matplotlib
from matplotlib.figure import Figure as Canvas

from slipstream.bench.report.bar_charts import draw_bars, draw_stacks
from slipstream.bench.report.chart_data import BarChart, Drawing, TimeChart
from slipstream.bench.report.inks import Palette
from slipstream.bench.report.line_chart import draw_times
from slipstream.bench.report.sheet import SETTINGS, Format

FILE = Format(8.6, narrow=False, titled=True)
PAGE = Format(8.6, narrow=False, titled=False)
PHONE = Format(3.5, narrow=True, titled=False)
_DPI = 200


def draw_png(drawing: Drawing, palette: Palette, room: Format = FILE) -> bytes:
    """A chart as a PNG, 1,720 pixels wide."""
    held = io.BytesIO()
    with _drawn(drawing, palette, room, {}) as canvas:
        canvas.savefig(held, format="png", dpi=_DPI, metadata={"Software": None})
    return held.getvalue()


def draw_svg(drawing: Drawing, palette: Palette, room: Format = FILE) -> str:
    """A chart as SVG: in a file with text as paths, which look the same everywhere; else with text as text."""
    held = io.BytesIO()
    with _drawn(drawing, palette, room, {"svg.fonttype": "path" if room.titled else "none"}) as canvas:
        none = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(held, format="svg", metadata=none, transparent=not room.titled)
    return held.getvalue().decode()


@contextmanager
def _drawn(drawing: Drawing, palette: Palette, room: Format, settings: Mapping[str, str]) -> Iterator[Canvas]:
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # it is shown as a box
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(cast(Any, {**SETTINGS, **settings}))
        if isinstance(drawing, TimeChart):
            yield draw_times(drawing, room, palette)
        elif isinstance(drawing, BarChart):
            yield draw_bars(drawing, room, palette)
        else:
            yield draw_stacks(drawing, room, palette)
