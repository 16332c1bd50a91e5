"""Numbers, names and tables for people.

Names, shapes and metadata come out of files, and files may be hostile: everything printed goes through
`printable`, and into rich tables only as `Text`, which knows no markup.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_COLUMNS = 120  # where there is no terminal whose width would count
_LONGEST = 512


class _Output(Console):
    """A rich console that leaves a closed pipe to `ending` instead of exiting on its own."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def output() -> Console:
    """The console on stdout."""
    return _console(stderr=False)


def diagnostics() -> Console:
    """The console on stderr: progress and errors."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _PIPE_COLUMNS
    return _Output(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def printable(text: str, *, longest: int = _LONGEST) -> str:
    """The text on one line, with control, direction and other invisible characters written as escapes."""
    clipped = text if len(text) <= longest else f"{text[: longest - 1]}…"
    if clipped.isprintable():
        return clipped
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in clipped
    )


def format_bytes(count: int) -> str:
    """A size in decimal units: "1.05 GB", "8.19 kB", "12 B"."""
    for factor, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count} B"


def format_binary(count: int) -> str:
    """A setting in binary units where it is a whole number of them: "8 MiB", else as `format_bytes`."""
    for factor, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= factor and count % factor == 0:
            return f"{count // factor} {unit}"
    return format_bytes(count)


def format_seconds(seconds: float) -> str:
    """A span of time with three digits: "0.351 s", "12.4 s", or "3 min 20 s"."""
    if seconds >= 100:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02} s"
    return f"{seconds:.3f} s" if seconds < 1 else f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"


def format_shape(shape: Sequence[int]) -> str:
    """A shape as the file has it, "[4096, 1024]"; a scalar is "[]"."""
    return printable(f"[{', '.join(str(size) for size in shape[:32])}{', …' if len(shape) > 32 else ''}]", longest=80)


def counted(count: int, noun: str) -> str:
    """ "1 tensor", "89,613 tensors"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def short_names(uris: Sequence[str]) -> list[str]:
    """The URIs without the folder that they have in common."""
    if len(uris) < 2:
        return [printable(os.path.basename(uri)) for uri in uris]
    parts = [uri.split("/") for uri in uris]
    common = 0
    while len({tuple(part[: common + 1]) for part in parts}) == 1 and common < min(map(len, parts)) - 1:
        common += 1
    return [printable("/".join(part[common:])) for part in parts]


def make_table(*columns: str, right: Iterable[str] = (), wrap: Iterable[str] = ()) -> Table:
    """A table with those columns, of which some are right-aligned and some may break their text over lines."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in set(right) else "left",
            no_wrap=column not in set(wrap),
            overflow="fold" if column in set(wrap) else "ellipsis",
        )
    return table


def add_row(table: Table, *cells: str) -> None:
    """Adds a row of plain text: nothing in it is markup."""
    table.add_row(*(Text(cell) for cell in cells))


def make_facts(facts: Iterable[tuple[str, str]]) -> Table:
    """Names and values below one another."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(Text(name), Text(value))
    return table


class ChosenFile(NamedTuple):
    """A file, how it is read, and why."""

    name: str
    strategy: str
    reason: str
    figures: tuple[str, ...]


def print_files(console: Console, files: Sequence[ChosenFile], figures: Sequence[str], *, most: int = 10_000) -> None:
    """A table of the files and their figures, and below it each reason once: shards mostly have the same."""
    if not files:
        return
    table = make_table("file", *figures, "strategy", right=figures, wrap=["file"])
    for file in files[:most]:
        add_row(table, file.name, *file.figures, file.strategy)
    if len(files) > most:
        add_row(table, f"and {len(files) - most} more; --json lists all")
    console.print()
    console.print(table)
    names: dict[tuple[str, str], list[str]] = {}
    for file in files:
        names.setdefault((file.strategy, file.reason), []).append(file.name)
    console.print()
    console.print(make_facts(_reasons(names, most)))


def _reasons(names: Mapping[tuple[str, str], Sequence[str]], most: int) -> Iterable[tuple[str, str]]:
    """Strategies with their reasons, and where there are several reasons, to which files each applies."""
    for (strategy, reason), those in islice(names.items(), most):
        whose = those[0] if len(those) == 1 else f"{len(those)} files"
        yield strategy, printable(reason) if len(names) == 1 else f"{printable(reason)} ({whose})"
