"""`slipstream bench report`: tables, charts and a page of what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slipstream.cli import arguments


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULTS",
            help="Files of results, .jsonl or .jsonl.gz; several are reported together.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where report.md, report.html and charts/ are written. Without it, the folder report beside the "
            "first file of results.",
            show_default=False,
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="The report's heading.", show_default=False)] = None,
    charts: Annotated[bool, typer.Option("--charts/--no-charts", help="Whether charts are drawn.")] = True,
    debug: arguments.Debug = False,
) -> None:
    """Write tables beside the published figures (Markdown), charts (PNG, SVG), and one HTML page with both."""
    raise NotImplementedError
