"""The arguments that several commands share, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import typer

from slipstream import Options
from slipstream.options import make_options, parse_bytes

_HOW = "How to read"

Uris = Annotated[
    list[str],
    typer.Argument(metavar="URI", help="Files, directories or globs; together they are one checkpoint."),
]
Device = Annotated[str, typer.Option(help="Where the tensors shall be.")]
Framework = Annotated[
    Literal["torch", "numpy"] | None,
    typer.Option(help="Whose tensors are made. Where torch is installed, torch.", show_default=False),
]
Names = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Only the tensors with such a name. May be given several times."),
]
Strategy = Annotated[
    Literal["auto", "mapped", "direct", "buffered"] | None,
    typer.Option(
        metavar="NAME",
        help="How local files are read: auto, mapped, direct or buffered. auto decides for each file.",
        rich_help_panel=_HOW,
    ),
]
Concurrency = Annotated[
    str | None,
    typer.Option(metavar="auto|N", help="Reads in flight. auto takes what suits the strategy.", rich_help_panel=_HOW),
]
ChunkBytes = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="The largest single read, for example 8MiB.", rich_help_panel=_HOW),
]
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE", help="The most memory for tensors in flight, for example 256MiB.", rich_help_panel=_HOW
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

ENVIRONMENT = (
    "How to read can also be set in the environment: SLIPSTREAM_STRATEGY, SLIPSTREAM_CONCURRENCY, "
    "SLIPSTREAM_CHUNK_BYTES, SLIPSTREAM_MEMORY_LIMIT. An argument goes first."
)


def read_options(
    strategy: str | None, concurrency: str | None, chunk_bytes: str | None, memory_limit: str | None
) -> Options:
    """Options of the arguments given; what is left out stays as the environment or the default has it.

    Raises:
        UsageError: one of them cannot work.
    """
    return make_options(
        strategy=strategy,
        concurrency=int(concurrency) if concurrency is not None and concurrency.isdecimal() else concurrency,
        chunk_bytes=None if chunk_bytes is None else parse_bytes(chunk_bytes),
        memory_limit=None if memory_limit is None else parse_bytes(memory_limit),
    )


def one_or_many(uris: Sequence[str]) -> str | list[str]:
    """A single URI as itself: errors then speak of it, not of a list."""
    return uris[0] if len(uris) == 1 else list(uris)
