"""`slipstream bench compare`: what got slower or faster between two files of results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slipstream.cli import arguments


def compare(
    before: Annotated[Path, typer.Argument(metavar="A", help="The earlier results.", show_default=False)],
    after: Annotated[Path, typer.Argument(metavar="B", help="The later results.", show_default=False)],
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> None:
    """Show what got slower or faster between two files of results. Exit code 1 when something got slower."""
    raise NotImplementedError
