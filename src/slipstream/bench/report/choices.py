"""How slipstream loaded, in its own words: it chooses by itself, so a reader wants to know what it chose, and why."""

from __future__ import annotations

from collections.abc import Iterable

from slipstream.bench.records import Record
from slipstream.bench.report.document import Column, Row, Table, make_table
from slipstream.bench.report.results import Entry, Place
from slipstream.bench.report.wording import NOTHING

_MOST = 3


def choices_table(place: Place) -> Table | None:
    """Strategies with their reasons, and what went another way than planned; None where no record says."""
    rows = []
    for entry in place.of("slipstream"):
        strategies = _texts(entry, "strategies")
        if strategies:
            cells = (
                entry.label,
                _joined(strategies),
                _joined(_texts(entry, "fallbacks")),
                _most(entry, "peak_concurrency"),
                _most(entry, "retries"),
                _most(entry, "hedged"),
                _struck(entry),
            )
            rows.append(Row(cells))
    if not rows:
        return None
    columns = (
        Column("Setting", numeric=False),
        Column("How it read, and why", numeric=False),
        Column("Fallbacks", numeric=False),
        Column("Reads in flight"),
        Column("Retries"),
        Column("Second requests"),
        Column("Faults that struck"),
    )
    notes = ("Numbers are the most of any sample.",) if any(row.cells[3] != NOTHING for row in rows) else ()
    return make_table("What slipstream chose here", columns, rows, notes=notes, drop_empty=True)


def _texts(entry: Entry, note: str) -> list[str]:
    """The different texts of a note that holds several, over all samples."""
    values = (record.notes.get(note) for record in _good(entry))
    return list(dict.fromkeys(str(text) for value in values if isinstance(value, list) for text in value))


def _joined(texts: list[str]) -> str:
    more = f"; and {len(texts) - _MOST} more" if len(texts) > _MOST else ""
    return ("; ".join(texts[:_MOST]) + more) or NOTHING


def _most(entry: Entry, note: str) -> str:
    numbers = [value for record in _good(entry) if isinstance(value := record.notes.get(note), int)]
    return f"{max(numbers):,}" if numbers else NOTHING


def _struck(entry: Entry) -> str:
    """How many requests a server failed on purpose."""
    counts = [struck for record in _good(entry) if isinstance(struck := record.notes.get("struck"), dict)]
    return f"{max(sum(struck.values()) for struck in counts):,}" if counts else NOTHING


def _good(entry: Entry) -> Iterable[Record]:
    return (record for record in entry.records if record.status == "ok")
