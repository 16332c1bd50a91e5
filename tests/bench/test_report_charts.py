"""The charts: what they are drawn from, and that what is drawn can be read by everyone."""

from __future__ import annotations

import re
import struct
import sys
from itertools import pairwise
from xml.etree import ElementTree

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.bench.records import Record
from slipstream.bench.report import chart_data
from slipstream.bench.report.charts import FILE, PAGE, PHONE, draw_png, draw_svg
from slipstream.bench.report.document import Figure
from slipstream.bench.report.inks import PAPER, Palette, inks
from slipstream.bench.report.inline_svg import inline_svg
from slipstream.bench.report.results import Place, group_records
from slipstream.bench.report.sheet import Format, spread
from slipstream.bench.report.story import tell_story
from tests.bench.synthetic_results import awkward, gp3, lost, make_record, s3, vllm

PALETTE = Palette(record.contender for record in [*gp3(rounds=1), *awkward()])


def place_of(records: list[Record]) -> Place:
    (place,) = group_records(records)
    return place


def figures_of(records: list[Record]) -> list[Figure]:
    return tell_story(sorted(records, key=lambda record: record.taken_at)).figures


def level(contender: str, concurrency: int, *samples: float) -> list[Record]:
    name = "num_readers" if contender == "tensorizer" else "concurrency"
    label = f"{concurrency} readers" if contender == "tensorizer" else f"concurrency {concurrency}"
    return [
        make_record(contender, label, seconds=s, settings={name: concurrency}, round_=n) for n, s in enumerate(samples)
    ]


def texts(svg: str) -> list[str]:
    return ["".join(each.itertext()) for each in ElementTree.fromstring(svg).iter() if each.tag.endswith("text")]


def test_lines_are_medians_with_their_range() -> None:
    """A loader's line has a point for each level: the median, with the lowest and the highest sample."""
    records = [*level("runai", 4, 3.0, 1.0, 2.0), *level("runai", 16, 1.5), *level("tensorizer", 100, 9.0)]
    records += [make_record("runai", seconds=7.0), make_record("safetensors", "get_tensor", seconds=5.0)]
    records += [make_record("floor", "direct, 8 threads", seconds=0.5)]
    chart = chart_data.time_chart(place_of(records), "", "")
    assert chart is not None
    spot = chart_data.Spot
    assert [line.contender for line in chart.lines] == ["runai", "tensorizer"]
    assert chart.lines[0].points == ((4, spot(2.0, 1.0, 3.0)), (16, spot(1.5, 1.5, 1.5)))
    assert [(mark.contender, mark.spot.value) for mark in chart.defaults] == [("runai", 7.0)]
    assert [(mark.contender, mark.spot.value) for mark in chart.level_free] == [("safetensors", 5.0)]
    assert chart.floor == 0.5


def test_no_sweep_no_chart_of_it() -> None:
    """Where nobody was measured at two levels there is no chart by concurrency."""
    assert chart_data.time_chart(place_of([make_record("slipstream"), *level("runai", 4, 1.0)]), "", "") is None


def test_bars_are_best_and_defaults() -> None:
    """Each loader has its fastest setting and, where another one, its defaults; one that cannot run says why."""
    records = [*level("runai", 4, 2.0), *level("runai", 16, 1.0), make_record("runai", seconds=3.0)]
    records += [make_record("slipstream", seconds=0.9)]
    records += [lost(make_record("instanttensor"), "unavailable", "needs CUDA")]
    chart = chart_data.loader_chart(place_of(records), "", "")
    assert chart is not None
    shown = {
        group.contender: [(bar.label, bar.spot.value, bar.is_default) for bar in group.bars] for group in chart.groups
    }
    assert shown == {
        "slipstream": [("defaults", 0.9, True)],
        "runai": [("concurrency 16", 1.0, False), ("defaults", 3.0, True)],
        "instanttensor": [],
    }
    assert chart.groups[2].missing == "cannot run here: needs CUDA"


def test_cost_is_by_gigabyte() -> None:
    """CPU seconds are divided by the bytes that were loaded."""
    record = make_record("slipstream", figures={"cpu_s": 5.59, "nbytes": 5_590_000_000})
    chart = chart_data.cost_chart(place_of([record]), "", "")
    assert chart is not None
    assert chart.groups[0].bars[0].spot.value == pytest.approx(1.0)


@pytest.mark.parametrize("room", [FILE, PAGE, PHONE], ids=["file", "page", "phone"])
def test_every_chart_is_drawn(room: Format) -> None:
    """Every kind of chart is drawn from every kind of results, as SVG that is XML and as PNG of its width."""
    for records in (gp3(rounds=1), s3(), vllm(), awkward()):
        for figure in figures_of(records):
            ElementTree.fromstring(draw_svg(figure.drawing, PALETTE, room))
    png = draw_png(figures_of(gp3(rounds=1))[0].drawing, PALETTE)
    assert struct.unpack(">I", png[16:20]) == (1720,)


def test_names_and_figures_are_in_the_chart() -> None:
    """Loaders are named beside what is drawn for them, with their figures; no legend has to be matched by colour."""
    (by_concurrency, by_loader, _) = figures_of(gp3())
    for figure, room in ((by_concurrency, PAGE), (by_concurrency, PHONE), (by_loader, PAGE), (by_loader, PHONE)):
        shown = texts(draw_svg(figure.drawing, PALETTE, room))
        for name in ("slipstream", "Run:ai Model Streamer", "safetensors", "Tensorizer", "fastsafetensors"):
            assert name in shown, (figure.name, name)
        assert any("raw floor" in text for text in shown)
    assert "cannot run here: needs CUDA: there is no GPU here" in texts(draw_svg(by_loader.drawing, PALETTE, PAGE))


def test_names_are_text_and_nothing_else() -> None:
    """Dollars, markup and control characters in a name are drawn as they are, or escaped, and never break the XML."""
    shown = " ".join(texts(draw_svg(figures_of(awkward())[0].drawing, PALETTE, PAGE)))
    assert "<script>alert('x')" in shown
    assert "$e$" in shown
    assert r"\x1b" in shown


def test_long_names_are_cut() -> None:
    """A name that is wider than its room ends in an ellipsis."""
    shown = texts(draw_svg(figures_of(awkward())[0].drawing, PALETTE, PAGE))
    assert any(text.startswith("a plugin whose") and text.endswith("…") for text in shown)


def test_same_values_same_bytes() -> None:
    """A chart that is drawn again, also after somebody changed matplotlib's settings, is the same to the byte."""
    drawing = figures_of(gp3())[0].drawing
    before = draw_png(drawing, PALETTE), draw_svg(drawing, PALETTE)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 10}):
        assert (draw_png(drawing, PALETTE), draw_svg(drawing, PALETTE)) == before
        assert matplotlib.rcParams["font.size"] == 30


def test_no_global_figures() -> None:
    """Drawing does not load pyplot, which would keep figures and look for a screen."""
    draw_png(figures_of(gp3(rounds=1))[0].drawing, PALETTE)
    assert "matplotlib.pyplot" not in sys.modules


def test_inline_svg_follows_the_page() -> None:
    """In the page a chart has no colour and no font of its own, ids of its own, and refers to nothing outside."""
    svg = draw_svg(figures_of(gp3())[0].drawing, PALETTE, PAGE)
    inline = inline_svg(svg, prefix="a-", label='"quoted" <&>', css_class="wide")
    root = ElementTree.fromstring(inline)
    assert root.tag == "svg"
    assert root.attrib["aria-label"] == '"quoted" <&>'
    assert not re.search(r"#[0-9a-f]{6}|font-family|http", inline)
    assert "var(--slipstream)" in inline
    ids = {each.attrib["id"] for each in root.iter() if "id" in each.attrib}
    assert ids
    assert all(each.startswith("a-") for each in ids)
    used = set(re.findall(r"#([^)\"]+)", inline))
    assert used <= ids
    assert texts(inline) == texts(svg)


def test_text_stands_out_from_paper() -> None:
    """Every colour of text has a contrast of at least 4.5 to 1 with the paper, light and dark (WCAG 2.2, 1.4.3)."""
    for ink in inks():
        if ink.name not in ("paper", "rule"):
            assert _contrast(ink.light, PAPER.light) >= 4.5, ink
            assert _contrast(ink.dark, PAPER.dark) >= 4.5, ink


def test_loaders_differ_without_colour() -> None:
    """Every loader has a marker of its own, also those of plugins."""
    names = ["slipstream", "runai", "safetensors", "tensorizer", "fastsafetensors", "instanttensor", "x", "y", "z"]
    palette = Palette(names)
    assert len({palette.marker(name) for name in names}) == len(names)
    assert len({palette.ink(name) for name in names}) == len(names)
    assert Palette(["slipstream", "y"]).ink("slipstream") == palette.ink("slipstream")


@given(st.lists(st.floats(-100, 400), max_size=8).map(sorted))
def test_labels_do_not_overlap(wanted: list[float]) -> None:
    """Labels keep their order, their distance and their bounds, and stay where they want to be if there is room."""
    placed = spread(wanted, 20.0, 0.0, 250.0)
    assert len(placed) == len(wanted)
    assert all(b - a >= 20 - 1e-6 for a, b in pairwise(placed))
    assert all(-1e-6 <= position <= 250 + 1e-6 for position in placed)
    if all(b - a >= 20 for a, b in pairwise(wanted)) and all(0 <= x <= 250 for x in wanted):
        assert placed == pytest.approx(wanted)


def test_too_many_labels_stand_evenly() -> None:
    """Where there is not room for all they share what there is."""
    assert spread([1.0, 2.0, 3.0], 60.0, 0.0, 100.0) == [0.0, 50.0, 100.0]


def _contrast(first: str, second: str) -> float:
    bright, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
