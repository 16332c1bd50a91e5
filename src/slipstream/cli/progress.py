"""How far a command is, on stderr: a bar on a terminal, plain lines now and then elsewhere, or nothing.

Everything happens in the caller's thread, when it reports; there is no refreshing thread.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

from slipstream.cli.text import diagnostics, format_bytes, format_seconds

Report = Callable[[int, int], None]

_LINE_EVERY_S = 3.0
_FRAME_EVERY_S = 0.08
_RATE_OVER_S = 2.0


class _Pace:
    """The rate over the last two seconds, and the time left at that rate; nothing at the first report."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def describe(self, done: int, total: int) -> str:
        """ "2.61 GB/s, 12.1 s left"."""
        now = time.perf_counter()
        self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[1][0] >= _RATE_OVER_S:
            self._samples.popleft()
        then, before = self._samples[0]
        if done <= before:
            return ""
        rate = (done - before) / (now - then)
        left = f", {format_seconds((total - done) / rate)} left" if done < total else ""
        return f"{rate / 1e9:.2f} GB/s{left}"


@contextmanager
def shown_progress(doing: str, *, quiet: bool) -> Iterator[Report]:
    """Shows progress as (bytes done, bytes in all) is reported, and takes it from the screen at the end.

    Args:
        doing: one word, such as "reading".
        quiet: show nothing.
    """
    if quiet:
        yield lambda done, total: None
    elif sys.stderr.isatty() and not diagnostics().is_dumb_terminal:
        with _bar(doing) as report:
            yield report
    else:
        yield _lines(doing)


@contextmanager
def _bar(doing: str) -> Iterator[Report]:
    pace = _Pace()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[amount]}", markup=False),
        TextColumn("{task.fields[pace]}", markup=False, style="cyan"),
    )
    with RichProgress(*columns, console=diagnostics(), transient=True, auto_refresh=False, expand=True) as bar:
        task = bar.add_task("opening", total=None, amount="", pace="")
        bar.refresh()
        next_frame = 0.0

        def report(done: int, total: int) -> None:
            nonlocal next_frame
            if time.perf_counter() < next_frame:
                return
            next_frame = time.perf_counter() + _FRAME_EVERY_S
            bar.update(
                task,
                description=doing,
                completed=done,
                total=total,
                amount=f"{format_bytes(done)} of {format_bytes(total)}",
                pace=f"{pace.describe(done, total):<24}",
                refresh=True,
            )

        yield report


def _lines(doing: str) -> Report:
    pace = _Pace()
    next_line: float | None = None  # the first is due some seconds after the first report

    def report(done: int, total: int) -> None:
        nonlocal next_line
        if next_line is None:
            next_line = time.perf_counter() + _LINE_EVERY_S
            pace.describe(done, total)
        elif time.perf_counter() >= next_line:
            next_line = time.perf_counter() + _LINE_EVERY_S
            share = f"{done / total:.0%}" if total else "100%"
            line = f"{doing} {format_bytes(done)} of {format_bytes(total)} ({share})"
            print(", ".join(filter(None, (line, pace.describe(done, total)))), file=sys.stderr, flush=True)

    return report
