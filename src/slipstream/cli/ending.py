"""How a command ends.

    0    it did what it was asked to, or its reader closed the pipe
    1    the load failed: one paragraph on stderr
    2    wrong usage
    130  Ctrl-C

A bug of our own is none of these: it shows its traceback.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
import textwrap
import traceback
from collections.abc import Callable
from typing import ParamSpec

import typer

from slipstream.cli.text import diagnostics, printable
from slipstream.errors import SlipstreamError, UsageError

P = ParamSpec("P")

_WIDEST_PARAGRAPH = 100
_MOST_NOTES = 3


def ends_well(command: Callable[P, None]) -> Callable[P, None]:
    """Wraps a command so that it ends with the exit code and the words this module promises.

    An argument `debug=True` of the command adds the traceback.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except SlipstreamError as error:
            if kwargs.get("debug"):
                traceback.print_exc()
            print_error(error)
            raise typer.Exit(2 if isinstance(error, UsageError) else 1) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except BrokenPipeError:
            discard_output()
            raise typer.Exit(0) from None
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            discard_output()
            print_error(SlipstreamError("the output could not be written: its disk is full"))
            raise typer.Exit(1) from None

    return run


def print_error(error: SlipstreamError) -> None:
    """One paragraph on stderr, and one more for each further failure that is attached to it as a note."""
    console = diagnostics()
    width = min(console.width, _WIDEST_PARAGRAPH)
    notes: list[str] = getattr(error, "__notes__", [])
    paragraphs = [f"error: {error}", *(f"also: {note}" for note in notes[:_MOST_NOTES])]
    for paragraph in paragraphs:
        words = printable(" ".join(paragraph.split()), longest=4000)
        label, _, text = textwrap.fill(words, width, break_long_words=False, break_on_hyphens=False).partition(":")
        console.print(label, style="bold red", end="", soft_wrap=True)
        console.print(f":{text}", soft_wrap=True)


def discard_output() -> None:
    """Prints what is still to be printed; where that fails, sends it nowhere, so that the last flush is silent."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
