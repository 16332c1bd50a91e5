"""Tables of what is no load: imports, headers, and how long the interpreter's lock is held.

Their figures are not compared with other loaders' and make no throughput, so each kind has one table for all of its
storages, and neither headlines nor charts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import TypeAlias

from slipstream.bench.experiments import EXPERIMENTS
from slipstream.bench.report.document import Column, Row, RowKind, Table
from slipstream.bench.report.results import Entry, Place
from slipstream.bench.report.wording import NOTHING, fixed, percent, ratio

_Rows: TypeAlias = Sequence[tuple[Place, Entry]]

_WHAT = Column("What", numeric=False)
_TIMES = (Column("Samples"), Column("Median (ms)"), Column("Range (ms)"))
_LOCK_NOTES = (
    "Another process looks some thousand times a second who holds the lock. A holder that waits for a processor "
    "counts, too: only where connections are paced, and processors idle, do the figures show the code alone.",
    "The ceiling is what one process could reach if nothing but the lock took time.",
)


def is_special(experiment: str) -> bool:
    """Whether an experiment is of such a kind, by its name in records."""
    known = EXPERIMENTS.get(experiment)
    return known is not None and known.kind in _TABLES


def special_table(places: Sequence[Place]) -> Table:
    """The table of such an experiment: all of its places, which differ in their storage alone."""
    rows = [(place, entry) for place in places for entry in place.entries if entry.figures]
    return _TABLES[EXPERIMENTS[places[0].experiment].kind](rows)


def special_lines(place: Place) -> Iterable[str]:
    """The figures of such a place in sentences."""
    for entry in place.entries:
        if entry.seconds is not None:
            yield f"{_what(place, entry)}: {_ms(entry.seconds)} ms."


def _import_table(rows: _Rows) -> Table:
    cells = [Row((entry.label, *_times(entry)), _kind(entry)) for _, entry in rows]
    return Table("A fresh interpreter", (_WHAT, *_TIMES), tuple(cells), ("Medians.",))


def _headers_table(rows: _Rows) -> Table:
    columns = (_WHAT, *_TIMES, Column("Shards"), Column("Tensors"), Column("Requests"), Column("Connections"))
    cells = [
        Row(
            (
                _what(place, entry),
                *_times(entry),
                _count(_note(entry, "shards")),
                _count(entry.values(lambda each: each.tensors)),
                _count(_note(entry, "served")),
                _count(_note(entry, "accepted")),
            ),
            _kind(entry),
        )
        for place, entry in rows
    ]
    return Table("Headers alone", columns, tuple(cells), ("Medians; of what the server saw, the most of any sample.",))


def _lock_table(rows: _Rows) -> Table:
    columns = (
        _WHAT,
        Column("Samples"),
        Column("GB/s"),
        Column("CPU (s/GB)"),
        Column("Of the time"),
        Column("Held (s/GB)"),
        Column("Range (s/GB)"),
        Column("Ceiling (GB/s)"),
    )
    return Table("Who holds the lock", columns, tuple(_lock_row(*row) for row in rows), _LOCK_NOTES)


def _lock_row(place: Place, entry: Entry) -> Row:
    held, watched = _note(entry, "lock_held_s"), _note(entry, "lock_watched_s")
    per_gb = [seconds / (entry.nbytes / 1e9) for seconds in held] if entry.nbytes else []
    shares = [seconds / out_of for seconds, out_of in zip(held, watched, strict=True) if out_of]
    typical = median(per_gb) if per_gb else None
    return Row(
        (
            _what(place, entry),
            str(len(entry.figures)),
            fixed(entry.gb_per_s),
            fixed(entry.cpu_s_per_gb),
            percent(median(shares) if shares else None),
            ratio(typical),
            f"{ratio(min(per_gb))} to {ratio(max(per_gb))}" if len(per_gb) > 1 else NOTHING,
            fixed(1 / typical, 1) if typical else NOTHING,
        ),
        _kind(entry),
    )


_TABLES: Mapping[str, Callable[[_Rows], Table]] = {
    "import": _import_table,
    "headers": _headers_table,
    "lock": _lock_table,
}


def _what(place: Place, entry: Entry) -> str:
    return entry.label if place.experiment == "import" else f"{place.storage.name}, {entry.label}"


def _times(entry: Entry) -> tuple[str, str, str]:
    values = entry.values(lambda each: each.seconds)
    span = f"{_ms(min(values))} to {_ms(max(values))}" if len(values) > 1 else NOTHING
    return str(len(values)), _ms(median(values)), span


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.1f}"


def _note(entry: Entry, name: str) -> list[float]:
    """A number that the samples noted, of those that did."""
    values = (record.notes.get(name) for record in entry.records if record.status == "ok")
    return [value for value in values if isinstance(value, int | float)]


def _count(values: Sequence[float]) -> str:
    return f"{max(values):,.0f}" if values else NOTHING


def _kind(entry: Entry) -> RowKind:
    return "floor" if entry.role == "floor" else "ours"
