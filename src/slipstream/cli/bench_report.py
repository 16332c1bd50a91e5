"""`slipstream bench report`: tables, charts and a page of what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slipstream.cli import arguments
from slipstream.cli.text import counted, output, printable
from slipstream.errors import SlipstreamError


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULTS",
            help="Files of results, .jsonl or .jsonl.gz; several are reported together.",
            show_default=False,
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="DIR",
            help="Where report.md, report.html and charts/ are written. Without it, the folder report beside the "
            "first file of results.",
            show_default=False,
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="The heading.", show_default=False)] = None,
    charts: Annotated[
        bool, typer.Option("--charts/--no-charts", help="Whether charts are drawn, which needs matplotlib.")
    ] = True,
    debug: arguments.Debug = False,
) -> None:
    """Write tables beside the published figures (Markdown), charts (PNG, SVG), and one HTML page with both."""
    from slipstream.bench.report.headline import summary_lines
    from slipstream.bench.report.results import group_records, read_results
    from slipstream.bench.report.write import write_report

    records = read_results(results)
    directory = to or results[0].parent / "report"
    try:
        document, written = write_report(records, directory, title=title, charts=charts)
    except OSError as error:
        if error.filename is None:
            raise
        raise SlipstreamError(
            f"the report cannot be written to {directory}: {error.strerror}; choose another place with --output",
            uri=str(directory),
        ) from error
    console = output()
    for line in summary_lines(group_records(records)):
        console.print(printable(line), soft_wrap=True)
    drawn = f" and {counted(len(document.figures), 'chart')}" if charts else ""
    console.print(f"wrote {printable(str(written[0]))}, {printable(str(written[1]))}{drawn}", soft_wrap=True)
