"""The application: which commands there are."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Annotated

import typer

import slipstream
from slipstream.cli.arguments import CLOUD_ENVIRONMENT, ENVIRONMENT
from slipstream.cli.bench import bench
from slipstream.cli.ending import discard_output, ends_well
from slipstream.cli.inspect import inspect
from slipstream.cli.load import load
from slipstream.cli.plan import plan
from slipstream.cli.pull import pull
from slipstream.cli.synth import LAYOUT_LIST, synth

app = typer.Typer(
    name="slipstream",
    help="Streams model weights from where they are stored into the memory where they are used.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(epilog=f"{ENVIRONMENT}\n\n{CLOUD_ENVIRONMENT}")(ends_well(load))
app.command(epilog=CLOUD_ENVIRONMENT)(ends_well(inspect))
app.command(epilog=f"{ENVIRONMENT}\n\n{CLOUD_ENVIRONMENT}")(ends_well(plan))
app.command(epilog=CLOUD_ENVIRONMENT)(ends_well(pull))
app.command(epilog=f"{LAYOUT_LIST}\n\n{CLOUD_ENVIRONMENT}")(ends_well(synth))
app.add_typer(bench)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"slipstream {slipstream.__version__}")
        raise typer.Exit


@app.callback()
def _slipstream(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """What stands before the command."""


def main() -> None:
    """The entry point of the command `slipstream`."""
    with open(os.devnull, "w") as nowhere:
        sys.stdout = sys.stdout or nowhere  # None where the shell closed it, as by `>&-`
        sys.stderr = sys.stderr or nowhere
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character gets its number
        try:
            app(prog_name="slipstream")
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            discard_output()
