"""Writes a report's files: report.md, report.html, and charts as PNG and SVG."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from slipstream.bench.records import Record
from slipstream.bench.report.document import Document, Figure
from slipstream.bench.report.inks import Palette
from slipstream.bench.report.markdown import write_markdown
from slipstream.bench.report.page import write_page
from slipstream.bench.report.story import tell_story
from slipstream.errors import MissingDependencyError

CHARTS = "charts"


def write_report(
    records: Sequence[Record], directory: Path, *, title: str | None = None, charts: bool = True
) -> tuple[Document, list[Path]]:
    """Writes the report of some records, and returns it with the files written.

    Each file is there whole or as it was before. Files of an earlier report with other names stay.

    Raises:
        MissingDependencyError: charts are wanted and matplotlib is not there.
        OSError: the directory cannot be written.
    """
    palette = Palette(record.contender for record in records if record.role != "floor")
    if charts:
        _need_matplotlib()
    document = tell_story(records, title=title, charts=charts)
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for figure in document.figures:
        written += _write_chart(figure, palette, directory / CHARTS)
    page = write_page(document, lambda figure: _inline(figure, palette))
    for name, text in (("report.html", page), ("report.md", write_markdown(document, CHARTS))):
        written.append(_write(directory / name, text.encode()))
    return document, written[::-1]


def _need_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            'charts need matplotlib: pip install "slipstream[bench]"; or leave them out with --no-charts'
        ) from error


def _write_chart(figure: Figure, palette: Palette, folder: Path) -> list[Path]:
    from slipstream.bench.report import charts

    folder.mkdir(exist_ok=True)
    return [
        _write(folder / f"{figure.name}.svg", charts.draw_svg(figure.drawing, palette).encode()),
        _write(folder / f"{figure.name}.png", charts.draw_png(figure.drawing, palette)),
    ]


def _inline(figure: Figure, palette: Palette) -> str:
    """A chart's elements for the page: for its width, and for a phone's."""
    from slipstream.bench.report import charts
    from slipstream.bench.report.inline_svg import inline_svg

    return "".join(
        inline_svg(
            charts.draw_svg(figure.drawing, palette, room),
            prefix=f"{figure.name}-{css_class}-",
            label=figure.description,
            css_class=css_class,
        )
        for css_class, room in (("wide", charts.PAGE), ("phone", charts.PHONE))
    )


def _write(path: Path, content: bytes) -> Path:
    """Replaces a file by another one, which is there whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
