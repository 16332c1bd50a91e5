"""What a run of the benchmark shows at its end: a table for each place, and whether what is asked was reached."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from slipstream.cli.text import add_row, make_table, output, printable

if TYPE_CHECKING:
    from slipstream.bench.experiment import Experiment
    from slipstream.bench.records import Record
    from slipstream.bench.report.document import Table as ReportTable
    from slipstream.bench.report.results import Entry, Place
    from slipstream.bench.runner import RunSettings

_STYLES = {"reached": "green", "missed": "red", "not measured": "yellow"}


def print_summary(settings: RunSettings) -> None:
    """Prints all that the folder has of the run's experiments, those of earlier runs too, on stdout."""
    from slipstream.bench.report.results import read_results

    console = output()
    if not settings.results.exists():
        console.print("there was nothing to measure")
        return
    records = read_results([settings.results])
    for experiment in settings.experiments:
        those = [record for record in records if record.experiment == experiment.name]
        if those:
            _print_experiment(console, experiment, those)
    console.print()
    console.print(f"slipstream bench report {shlex.quote(str(settings.results))}", soft_wrap=True)


def _print_experiment(console: Console, experiment: Experiment, records: Sequence[Record]) -> None:
    from slipstream.bench.report.results import group_records
    from slipstream.bench.report.special import is_special, special_table

    places = group_records(records)
    if is_special(experiment.name):
        _print_title(console, f"{experiment.name}: {experiment.title}")
        console.print(_plain_table(special_table(places)))
        for place in places:
            for entry in place.entries:
                if not entry.figures:
                    console.print(printable(f"{place.where}, {entry.label}: {entry.status}: {entry.reason}"))
    else:
        for place in places:
            _print_title(console, f"{place.where}: {place.model_title}, to {place.destination or 'cpu'}")
            console.print(_place_table(place))
            for line in _troubles(place):
                console.print(printable(line), style="dim", soft_wrap=True)
    _print_targets(console, experiment, records)


def _print_title(console: Console, text: str) -> None:
    console.print()
    console.print(printable(text), style="bold")


def _place_table(place: Place) -> Table:
    columns = ("seconds", "min - max", "GB/s", "of floor", "CPU s/GB")
    table = make_table("loader", "setting", *columns, "samples", right=(*columns, "samples"), wrap=("setting",))
    for entry in place.entries:
        if entry.seconds is None:
            add_row(table, entry.title, f"{entry.label}: {printable(entry.reason)}", *[""] * len(columns), entry.status)
            continue
        seconds = [each.seconds for each in entry.figures]
        share, cpu = place.of_floor(entry), entry.cpu_s_per_gb
        add_row(
            table,
            entry.title,
            entry.label,
            f"{entry.seconds:.3f}",
            f"{min(seconds):.3f} - {max(seconds):.3f}",
            f"{entry.gb_per_s:.2f}" if entry.gb_per_s is not None else "",
            f"{share:.2f}" if share is not None else "",
            f"{cpu:.3f}" if cpu is not None else "",
            str(len(seconds)),
        )
    return table


def _plain_table(found: ReportTable) -> Table:
    """A table of the report, for a terminal."""
    titles = [column.title for column in found.columns]
    right = [column.title for column in found.columns if column.numeric]
    table = make_table(*titles, right=right)
    for row in found.rows:
        add_row(table, *row.cells)
    return table


def _troubles(place: Place) -> list[str]:
    """What a server did to slipstream's requests on purpose, and how often they were made again; over the samples."""
    return [line for entry in place.of("slipstream") if (line := _trouble(entry))]


def _trouble(entry: Entry) -> str:
    notes = [record.notes for record in entry.records if record.status == "ok"]
    struck = [each["struck"] for each in notes if isinstance(each.get("struck"), dict)]
    if not struck:
        return ""
    kinds = sorted({kind for each in struck for kind in each})
    faults = ", ".join(f"{kind} {sum(each.get(kind, 0) for each in struck)}" for kind in kinds) or "none"
    counts = (f"{word} {sum(each.get(name, 0) for each in notes)}" for name, word in _COUNTED.items())
    return f"{entry.setting}: faults that struck: {faults}; {', '.join(counts)}"


_COUNTED = {"requests": "requests", "retries": "retries", "hedged": "second requests"}


def _print_targets(console: Console, experiment: Experiment, records: Sequence[Record]) -> None:
    from slipstream.bench.targets import judge_targets

    for judgement in judge_targets(experiment, records):
        table = make_table("asked of slipstream", "measured", "target", "", right=("measured",))
        for verdict in judgement.verdicts:
            cells = (verdict.target.text, _figure(verdict.measured), verdict.bound)
            table.add_row(*map(Text, cells), Text(verdict.word, _STYLES[verdict.word]))
        place = judgement.places[0]
        _print_title(console, f"{experiment.name}, what is asked: {place.model_title}, to {place.destination or 'cpu'}")
        console.print(table)


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
