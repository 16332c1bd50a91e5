"""`slipstream bench compare`: what got slower or faster between two files of results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from slipstream.cli import arguments
from slipstream.cli.text import add_row, counted, make_table, output, printable
from slipstream.errors import UsageError

if TYPE_CHECKING:
    from slipstream.bench.records import Record
    from slipstream.bench.report.compare import Comparison, Difference
    from slipstream.bench.report.noise import Shift

_ORDER = (
    "slower", "no longer runs", "faster", "behind the machine", "with the machine", "cannot tell", "same", "runs now",
)  # fmt: skip
_FIGURES = ("change", "A (s)", "B (s)", "B / A", "90 % interval", "noise", "drift", "CPU, B / A")
EXIT_CODES = (
    "Exit codes: 0 where nothing got slower; 1 where something did, other than a control, or no longer runs; 2 for "
    "wrong usage and files that cannot be read."
)
METHOD = (
    "Slower means three things. The 90 % interval of the ratio of seconds, from the ranks of all samples, is above 1; "
    "it takes three samples on each side, or two and five. The medians differ by more than --least and than the noise, "
    "which is three standard errors. And they do so beside the drift: what the controls did in the same place. "
    "Controls are the floors, and the loaders with equal versions in A and B."
)


def compare(
    before: Annotated[Path, typer.Argument(metavar="A", help="The earlier results.", show_default=False)],
    after: Annotated[Path, typer.Argument(metavar="B", help="The later results.", show_default=False)],
    least: Annotated[
        float, typer.Option(metavar="PERCENT", min=0, max=1000, help="The smallest difference that counts.")
    ] = 5.0,
    absolute: Annotated[
        bool, typer.Option("--absolute", help="Compare seconds as they are, whatever the controls did.")
    ] = False,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> None:
    """Show what got slower or faster between two files of results, with the noise taken into account."""
    from slipstream.bench.report.compare import as_json as to_json
    from slipstream.bench.report.compare import compare_results

    comparison = compare_results(_read(before), _read(after), least_effect=least / 100, absolute=absolute)
    if as_json:
        print(json.dumps(to_json(comparison), indent=2))
    else:
        _print(output(), comparison)
    if comparison.slower:
        raise typer.Exit(1)


def _read(path: Path) -> list[Record]:
    """The records of a file. What is wrong with it is wrong usage here: 1 is the answer that something got slower."""
    from slipstream.bench.errors import ResultsError
    from slipstream.bench.report.results import read_results

    try:
        return read_results([path])
    except ResultsError as error:
        raise UsageError(str(error), uri=str(path)) from error


def _print(console: Console, comparison: Comparison) -> None:
    places: dict[str, list[Difference]] = {}
    for each in comparison.differences:
        places.setdefault(_where(each), []).append(each)
    for where, differences in places.items():
        table = make_table(where, *_FIGURES, right=_FIGURES, wrap=[where])
        for each in sorted(differences, key=lambda each: _ORDER.index(each.change)):
            add_row(table, *_cells(each))
        console.print(table)
        console.print()
    for line in comparison.warnings:
        console.print(f"Note: {printable(line)}", soft_wrap=True)
    for which, titles in (("A", comparison.only_before), ("B", comparison.only_after)):
        if titles:
            console.print(f"Only in {which}: {printable('; '.join(titles), longest=4000)}", soft_wrap=True)
    for each in comparison.slower:
        if each.reason:
            console.print(f"{printable(each.title)} no longer runs: {printable(each.reason)}", soft_wrap=True)
    counts = [(change, sum(each.change == change for each in comparison.differences)) for change in _ORDER]
    found = ", ".join(f"{count} {change}" for change, count in counts if count) or "nothing is in both files"
    console.print(f"{counted(len(comparison.differences), 'comparison')}: {found}.", soft_wrap=True)


def _where(each: Difference) -> str:
    key = each.key
    storage = key.experiment if key.experiment == key.storage else f"{key.experiment} on {key.storage}"
    model = key.model + (f", {counted(key.layers, 'layer')}" if key.layers is not None else "")
    return printable(f"{storage} · {model} · {key.destination}")


def _cells(each: Difference) -> tuple[str, ...]:
    return (
        printable(each.title + (" (control)" if each.is_control else "")),
        each.change,
        _seconds(each.before_s),
        _seconds(each.after_s),
        f"{each.shift.ratio:.2f}" if each.shift else "–",
        _interval(each.shift),
        f"{each.shift.noise * 100:.0f} %" if each.shift and each.shift.noise else "–",
        f"{each.drift:.2f}" if each.drift is not None else "–",
        f"{each.cpu.ratio:.2f}" if each.cpu else "–",
    )


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if value < 1 else f"{value:.2f}"


def _interval(shift: Shift | None) -> str:
    if shift is None:
        return "–"
    return "too few samples" if shift.low is None or shift.high is None else f"{shift.low:.2f} to {shift.high:.2f}"
