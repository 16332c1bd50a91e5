"""The page in a real browser: at the width of a desk's and of a phone's window, in the light and in the dark."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from slipstream.bench.report.inks import PAPER, TEXT
from slipstream.bench.report.write import write_report
from tests.bench.headless import measure_page, need_chromium, requests_of, take_screenshot
from tests.bench.synthetic_results import awkward, gp3, io2, s3, vllm


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_chromium()
    records = [*gp3(), *io2(rounds=1), *s3(), *vllm(), *awkward()]
    folder = tmp_path_factory.mktemp("report")
    write_report(sorted(records, key=lambda record: record.taken_at), folder)
    return folder / "report.html"


@pytest.mark.parametrize(
    ("width", "dark"), [(360, False), (390, False), (390, True), (820, False), (1280, False), (1280, True)]
)
def test_nothing_leaves_the_window(page: Path, width: int, dark: bool) -> None:
    """The page never scrolls sideways, and no text of a chart is cut off or covers another one."""
    found = measure_page(page, width=width, dark=dark)
    assert (found.width, found.scroll_width) == (width, width)
    assert found.beyond == []
    assert found.clipped == []
    assert found.overlapping == []


def test_charts_suit_the_window(page: Path) -> None:
    """Each chart is seen once at every width, and its smallest text is at least 10 pixels high."""
    desk, phone = (measure_page(page, width=width) for width in (1280, 390))
    assert desk.charts == phone.charts == len(list((page.parent / "charts").glob("*.png")))
    assert desk.smallest_text >= 10
    assert phone.smallest_text >= 10


def test_dark_paper_has_light_text(page: Path) -> None:
    """Page and charts take the dark colours where the reader's system is dark, and the light ones else."""
    light, dark = (measure_page(page, width=1280, dark=dark) for dark in (False, True))
    assert (light.paper, light.ink) == (_rgb(PAPER.light), _rgb(TEXT.light))
    assert (dark.paper, dark.ink) == (_rgb(PAPER.dark), _rgb(TEXT.dark))
    assert light.title != dark.title


def test_page_asks_for_nothing(page: Path, tmp_path: Path) -> None:
    """The browser's own log has no request of the page; it does have that of a page with a picture elsewhere."""
    assert requests_of(page) == []
    other = tmp_path / "other.html"
    other.write_text('<!DOCTYPE html><img src="http://elsewhere.invalid/picture.png">')
    assert requests_of(other) == ["http://elsewhere.invalid/picture.png"]


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (500, 900)])
def test_screenshot(page: Path, tmp_path: Path, width: int, height: int) -> None:
    """The browser can take a picture of it, of the size that was asked for, with more than paper on it."""
    picture = tmp_path / "page.png"
    take_screenshot(page, picture, width=width, height=height)
    data = picture.read_bytes()
    assert struct.unpack(">II", data[16:24]) == (width, height)
    assert len(data) > 20_000


def _rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[n : n + 2], 16)) for n in (1, 3, 5))})"
