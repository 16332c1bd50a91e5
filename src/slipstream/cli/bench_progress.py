"""How a benchmark's run goes, on stderr: what is measured, what is left and about how long; a line for each sample."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from slipstream.cli.text import diagnostics, format_bytes, printable

if TYPE_CHECKING:
    from slipstream.bench.plan import PlannedSample
    from slipstream.bench.records import Record

_LINE_EVERY_S = 5.0
_FRAMES_PER_S = 4


class RunDisplay(Protocol):
    """What runner.Display asks for, with the number of rounds."""

    def planned(self, total: int, done: int) -> None: ...
    def doing(self, what: str, done: int, total: int) -> None: ...
    def begins(self, planned: PlannedSample, left_s: float | None) -> None: ...
    def ends(self, record: Record) -> None: ...
    def left(self, count: int) -> None: ...
    def notes(self, line: str) -> None: ...
    def tells(self, line: str) -> None: ...


@contextmanager
def shown_run(repeats: int, *, quiet: bool) -> Iterator[RunDisplay]:
    """A display: a bar at the bottom of a terminal, else plain lines; both take lines for samples above them.

    Args:
        repeats: how many rounds there are.
        quiet: nothing but what went wrong.
    """
    console = diagnostics()
    if quiet or not sys.stderr.isatty() or console.is_dumb_terminal:
        yield _Lines(console, repeats, quiet=quiet)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False, style="cyan"),
    )
    with RichProgress(*columns, console=console, refresh_per_second=_FRAMES_PER_S, transient=True) as bar:
        yield _Bar(console, repeats, bar, bar.add_task("planning", total=None, left=""))


class _Lines:
    """Lines, as they come. Where something goes on for long, one now and then."""

    def __init__(self, console: Console, repeats: int, *, quiet: bool = False) -> None:
        self._console = console
        self._repeats = repeats
        self._quiet = quiet
        self._next_line: dict[str, float] = {}

    def planned(self, total: int, done: int) -> None:
        before = f", {done:,} of them measured before" if done else ""
        self._say(f"{total:,} samples{before}")

    def doing(self, what: str, done: int, total: int) -> None:
        if time.monotonic() >= self._next_line.get(what, 0.0):
            self._next_line[what] = time.monotonic() + _LINE_EVERY_S
            self._say(what + _amount(done, total))

    def begins(self, planned: PlannedSample, left_s: float | None) -> None:
        if left_s is not None:
            self._say(f"{_name(planned, self._repeats)} ... {format_left(left_s)}")
        else:
            self._say(f"{_name(planned, self._repeats)} ...")

    def ends(self, record: Record) -> None:
        line, style = _result(record, self._repeats)
        if not self._quiet or record.status == "failed":
            self._console.print(Text(line, style), soft_wrap=True)

    def left(self, count: int) -> None:
        """The lines say it."""

    def notes(self, line: str) -> None:
        self._say(line)

    def tells(self, line: str) -> None:
        self._console.print(Text(printable(line, longest=4000), "yellow"), soft_wrap=True)

    def _say(self, line: str) -> None:
        if not self._quiet:
            self._console.print(Text(printable(line), "dim"), soft_wrap=True)


class _Bar(_Lines):
    """A bar below the lines, which says what goes on."""

    def __init__(self, console: Console, repeats: int, bar: RichProgress, task: TaskID) -> None:
        super().__init__(console, repeats)
        self._bar = bar
        self._task = task
        self._total = 0

    def planned(self, total: int, done: int) -> None:
        super().planned(total, done)
        self._total = total
        self._bar.update(self._task, total=total, completed=done)

    def doing(self, what: str, done: int, total: int) -> None:
        self._bar.update(self._task, description=printable(what + _amount(done, total), longest=100))

    def begins(self, planned: PlannedSample, left_s: float | None) -> None:
        left = format_left(left_s) if left_s is not None else ""
        self._bar.update(self._task, description=_name(planned, self._repeats), left=left)

    def left(self, count: int) -> None:
        self._bar.update(self._task, completed=self._total - count)


def format_left(seconds: float) -> str:
    """ "about 1 h 20 min left"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"about {max(1, round(seconds))} s left"
    return f"about {minutes} min left" if minutes < 60 else f"about {minutes // 60} h {minutes % 60} min left"


def _name(planned: PlannedSample, repeats: int) -> str:
    return _row(planned.experiment.name, planned.storage_name, planned.round, repeats, planned.row.entry.contender,
                planned.row.label)  # fmt: skip


def _row(experiment: str, storage: str, round_: int, repeats: int, contender: str, label: str) -> str:
    where = experiment if experiment == storage else f"{experiment}, {storage}"
    return printable(f"{where}, {round_ + 1} of {repeats}: {contender}, {label}")


def _result(record: Record, repeats: int) -> tuple[str, str]:
    """A line about a sample, and how it looks."""
    name = _row(record.experiment, record.storage.name, record.round, repeats, record.contender, record.label)
    figures = record.figures
    if figures is None:
        return printable(f"{name}: {record.status}: {record.reason}", longest=4000), (
            "red" if record.status == "failed" else "yellow"
        )
    rate = f", {figures.nbytes / figures.seconds / 1e9:.2f} GB/s" if figures.nbytes and figures.seconds else ""
    return f"{name}: {figures.seconds:.3f} s{rate}", ""


def _amount(done: int, total: int) -> str:
    if not total:
        return ""
    return f": {format_bytes(done)} of {format_bytes(total)}" if total >= 1000 else f": {done} of {total}"
