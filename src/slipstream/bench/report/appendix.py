"""Tables in the layout of the reference document, Appendix A to D, with its figures beside ours.

Where a ratio is of two loaders or of ours to a published figure, it is of seconds by 10^9 bytes, so that it holds
where models differ in size. Below 1, the first of the two is faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from slipstream.bench.report.document import Column, Row, RowKind, Table, make_table
from slipstream.bench.report.published import PublishedTable, read_published
from slipstream.bench.report.results import Entry, Place, contender_title
from slipstream.bench.report.wording import NOTHING, column_of, divide, gigabytes, ratio

_STREAMERS = ("slipstream", "runai")
_LAYOUT = ("slipstream", "runai", "safetensors", "tensorizer")
_READY_ORDER = ("safetensors", "runai", "tensorizer", "slipstream")
_APPENDICES = {"gp3": "Appendix A", "io2": "Appendix B", "s3": "Appendix C"}


@dataclass(frozen=True)
class _Level:
    """One line: what was set, and who was measured with it."""

    title: str
    at: int | None
    entries: tuple[Entry | None, ...]


def appendix_tables(place: Place) -> list[Table]:
    """The tables of Appendix A, B or C for one place; the same without published figures for another experiment."""
    appendix = _APPENDICES.get(place.experiment)
    within = f"{appendix}, {read_published().storages[place.experiment]['title']}: " if appendix else ""
    tables = [_streamers(place, within)]
    if place.of("safetensors") or place.published("safetensors"):
        tables.append(_one_loader(place, "safetensors", "Setting", f"{within}Hugging Face safetensors loader"))
    if place.of("tensorizer") or place.published("tensorizer"):
        tables.append(_one_loader(place, "tensorizer", "Number of readers", f"{within}Tensorizer"))
    others = [entry for entry in place.loaders if entry.contender not in _LAYOUT]
    if others:
        tables.append(_others(others, "Loaders that the document does not have" if appendix else "Other loaders"))
    return [table for table in tables if table.rows]


def ready_table(place: Place) -> Table:
    """The table of Appendix D for one storage: vLLM until it is ready, by loader."""
    storage = read_published().storages.get(place.storage.name)
    within = f"Appendix D, for {storage['title']} storage: " if storage else f"{place.storage.name}: "
    contenders = [name for name in _READY_ORDER if place.of(name) or place.published(name)]
    contenders += [name for name in place.contenders if name not in _READY_ORDER]
    lines = [(name, entry) for name in contenders for entry in (place.of(name) or (None,))]
    against = next((name for name in ("safetensors", "runai") if place.best(name) and place.published(name)), None)
    against = against or next((name for name in ("safetensors", "runai") if place.best(name)), None)
    base = place.best(against) if against else None
    base_published = _published_seconds(place.published(against), None) if against else None
    published = [_published_seconds(place.published(name), None) for name, _ in lines]
    ready = column_of(entry.seconds if entry else None for _, entry in lines)
    weights = column_of(entry.median(lambda each: each.weights_s) if entry else None for _, entry in lines)
    token = column_of(entry.median(lambda each: each.first_token_s) if entry else None for _, entry in lines)
    rows = []
    for n, (name, entry) in enumerate(lines):
        title = contender_title(name) + (f", {entry.label}" if entry and len(place.of(name)) > 1 else "")
        rows.append(
            Row(
                (
                    title,
                    _or_status(entry, ready[n]),
                    _printed(place.published(name), None),
                    ratio(divide(entry.seconds if entry else None, base.seconds if base else None)),
                    ratio(divide(published[n], base_published)),
                    weights[n],
                    token[n],
                ),
                _kind(entry, name),
            )
        )
    named = contender_title(against) if against else "the default loader"
    columns = [
        Column("Loader", numeric=False),
        Column("Total time until vLLM is ready (s)"),
        Column("Published (s)"),
        Column(f"÷ {named}"),
        Column(f"÷ {named}, published"),
        Column("of it loading weights (s)"),
        Column("until the first token (s)"),
    ]
    notes = (
        f"÷ {named}: the time as a multiple of that loader's, in the same column's source. Starting the engine takes a "
        "time of its own, so these multiples and not the seconds are comparable between machines and models.",
    )
    return make_table(f"{within}vLLM with different loaders", columns, rows, notes=notes, drop_empty=True)


def _streamers(place: Place, within: str) -> Table:
    """slipstream and Run:ai's streamer by concurrency."""
    published = place.published("runai")
    levels = _levels(place, _STREAMERS, published)
    ours = [[level.entries[n] for level in levels] for n in range(len(_STREAMERS))]
    known = [_published_seconds(published, level.at) for level in levels]
    known_per_gb = [divide(seconds, read_published().model["nbytes"] / 1e9) for seconds in known]
    seconds = [column_of(entry.seconds if entry else None for entry in those) for those in ours]
    per_gb = _columns_alike(
        [[entry.seconds_per_gb if entry else None for entry in those] for those in ours], known_per_gb
    )
    columns = [Column("Concurrency", numeric=False)]
    columns += [Column("slipstream (s)"), Column("Run:ai (s)"), Column("Run:ai published (s)")]
    columns += [
        Column("slipstream ÷ Run:ai"),
        Column("Run:ai ÷ published"),
        Column("slipstream ÷ published"),
        Column("slipstream (s/GB)"),
        Column("Run:ai (s/GB)"),
    ]
    columns += [Column("Published (s/GB)")]
    rows = []
    for n, level in enumerate(levels):
        slipstream, runai = level.entries
        cells = (
            level.title,
            _or_status(slipstream, seconds[0][n]),
            _or_status(runai, seconds[1][n]),
            _printed(published, level.at),
            ratio(divide(_per_gb(slipstream), _per_gb(runai))),
            ratio(divide(_per_gb(runai), known_per_gb[n])),
            ratio(divide(_per_gb(slipstream), known_per_gb[n])),
            per_gb[0][n],
            per_gb[1][n],
            per_gb[2][n],
        )
        rows.append(Row(cells, "plain" if any(entry and entry.figures for entry in level.entries) else "missing"))
    title = f"{within}slipstream and Run:ai Model Streamer by concurrency"
    return make_table(title, columns, rows, notes=_notes(place, published), drop_empty=True)


def _one_loader(place: Place, contender: str, first: str, caption: str) -> Table:
    """One loader by its settings."""
    published = place.published(contender)
    levels = _levels(place, (contender,), published)
    known = [_published_seconds(published, level.at) for level in levels]
    known_per_gb = [divide(seconds, read_published().model["nbytes"] / 1e9) for seconds in known]
    entries = [level.entries[0] for level in levels]
    seconds = column_of(entry.seconds if entry else None for entry in entries)
    per_gb = _columns_alike([[_per_gb(entry) for entry in entries]], known_per_gb)
    columns = [Column(first, numeric=False), Column("Time to load (s)"), Column("Published (s)")]
    columns += [Column("÷ published"), Column("s/GB"), Column("Published (s/GB)")]
    rows = [
        Row(
            (
                level.title,
                _or_status(entry, seconds[n]),
                _printed(published, level.at),
                ratio(divide(_per_gb(entry), known_per_gb[n])),
                per_gb[0][n],
                per_gb[1][n],
            ),
            _kind(entry, contender),
        )
        for n, (level, entry) in enumerate(zip(levels, entries, strict=True))
    ]
    return make_table(caption, columns, rows, notes=_notes(place, published), drop_empty=True)


def _others(entries: Sequence[Entry], caption: str) -> Table:
    """Loaders without a published figure."""
    seconds = column_of(entry.seconds for entry in entries)
    per_gb = column_of(entry.seconds_per_gb for entry in entries)
    rows = [
        Row((entry.setting, _or_status(entry, time), each_gb), _kind(entry, entry.contender))
        for entry, time, each_gb in zip(entries, seconds, per_gb, strict=True)
    ]
    columns = (Column("Loader, setting", numeric=False), Column("Time to load (s)"), Column("s/GB"))
    return make_table(caption, columns, rows)


def _levels(place: Place, contenders: Sequence[str], published: PublishedTable | None) -> list[_Level]:
    """Settings without a level first, defaults before all; then by level, ours and the document's together.

    A published figure without a level stands beside our only setting, or the first of several.
    """
    free: dict[str, list[Entry | None]] = {}
    at: dict[int, list[Entry | None]] = {}
    for n, contender in enumerate(contenders):
        for entry in place.of(contender):
            empty: list[Entry | None] = [None] * len(contenders)
            line = free.setdefault(entry.label, empty) if entry.level is None else at.setdefault(entry.level, empty)
            line[n] = entry
    for cell in published.cells if published else ():
        if cell.at is not None:
            at.setdefault(cell.at, [None] * len(contenders))
        elif not free:
            free["as published"] = [None] * len(contenders)
    lines = [_Level(label, None, tuple(entries)) for label, entries in free.items()]
    return lines + [_Level(str(level), level, tuple(at[level])) for level in sorted(at)]


def _columns_alike(ours: Iterable[list[float | None]], published: list[float | None]) -> list[list[str]]:
    """Several columns of numbers with the same digits."""
    columns = [*ours, published]
    texts = column_of(value for column in columns for value in column)
    length = len(published)
    return [texts[n * length : (n + 1) * length] for n in range(len(columns))]


def _notes(place: Place, published: PublishedTable | None) -> tuple[str, ...]:
    if published is None:
        return ()
    document = read_published()
    ours = f"Ours {gigabytes(place.model.nbytes)} to {place.destination or 'nowhere'}"
    theirs = f"published {document.model['size_as_printed']} to a {document.destination}"
    return (
        f"{ours}, {theirs} ({document.hardware['instance']}, {document.hardware['gpu']}). "
        "÷ is a ratio of seconds per GB: below 1, the first is faster.",
    )


def _published_seconds(table: PublishedTable | None, at: int | None) -> float | None:
    return table.seconds(at) if table else None


def _printed(table: PublishedTable | None, at: int | None) -> str:
    cell = next((cell for cell in table.cells if cell.at == at), None) if table else None
    return cell.printed if cell else NOTHING


def _per_gb(entry: Entry | None) -> float | None:
    return entry.seconds_per_gb if entry else None


def _or_status(entry: Entry | None, figure: str) -> str:
    """The figure, or why there is none."""
    if entry is None:
        return NOTHING
    return figure if entry.figures else "cannot run" if entry.status == "unavailable" else "failed"


def _kind(entry: Entry | None, contender: str) -> RowKind:
    if entry is None or not entry.figures:
        return "missing"
    return "ours" if contender == "slipstream" else "plain"
