"""Everything that was measured in a place, and everything that could not be."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from slipstream.bench.records import Figures
from slipstream.bench.report.document import Column, Row, RowKind, Table, make_table
from slipstream.bench.report.results import Entry, Place
from slipstream.bench.report.wording import NOTHING, column_of, decimals_for, fixed, percent

_MANY_TENSORS = 5_000
_COLUMNS = (
    Column("Setting", numeric=False),
    Column("Samples"),
    Column("Median (s)"),
    Column("Lowest to highest (s)"),
    Column("GB/s"),
    Column("Of the floor"),
    Column("Tensors/s"),
    Column("First tensor (s)"),
    Column("CPU (s/GB)"),
    Column("Memory above the model (MiB)"),
    Column("Page cache growth (GB)"),
    Column("Read from the device (GB)"),
    Column("Received (GB)"),
    Column("Verified", numeric=False),
)


def extended_table(place: Place) -> Table:
    """Each loader with each setting: medians of what was measured, of memory the most."""
    entries = place.entries
    floor = place.floor
    vllm = place.experiment == "vllm"  # whose seconds are mostly not loading
    columns = [
        [(entry.label or NOTHING) + (" *" if entry is floor and len(place.floors) > 1 else "") for entry in entries],
        [_samples(entry) for entry in entries],
        column_of(entry.seconds for entry in entries),
        _ranges(entries),
        column_of((None if vllm else entry.gb_per_s for entry in entries), digits=2),
        [
            percent(place.of_floor(entry)) if entry.role != "floor" or entry is not floor else "100 %"
            for entry in entries
        ],
        [_tensors_per_s(entry) for entry in entries],
        column_of(
            entry.median(lambda each: each.first_tensor_s) if entry.role != "floor" else None for entry in entries
        ),
        column_of((entry.cpu_s_per_gb for entry in entries), digits=2),
        [_memory(entry, place.destination) for entry in entries],
        _gigabytes(entries, lambda each: each.page_cache_growth_bytes),
        _gigabytes(entries, lambda each: each.device_read_bytes),
        _gigabytes(entries, lambda each: each.network_received_bytes),
        [_verified(entry) for entry in entries],
    ]
    rows = []
    for before, entry, cells in zip((None, *entries), entries, zip(*columns, strict=True), strict=False):
        if before is None or before.contender != entry.contender:
            rows.append(Row((entry.title, *[""] * (len(_COLUMNS) - 1)), "group"))
        rows.append(Row(tuple(cells), _kind(entry)))
    return make_table("Everything measured here", _COLUMNS, rows, notes=_notes(place), drop_empty=True)


def failures_table(place: Place) -> Table | None:
    """What failed or could not run, with the reason; None where there is nothing of the kind."""
    rows = []
    for entry in place.entries:
        reasons: dict[tuple[str, str], list[int]] = {}
        for record in entry.failures:
            what = "cannot run here" if record.status == "unavailable" else "failed"
            reason = " ".join(record.reason.split()) or "no reason was recorded"
            reasons.setdefault((what, reason), []).append(record.round)
        for (what, reason), rounds in reasons.items():
            times = NOTHING if what != "failed" else f"{len(rounds)} of {len(entry.records)}"
            rows.append(Row((entry.setting, what, reason, times), "missing"))
    if not rows:
        return None
    columns = (
        Column("Loader, setting", numeric=False),
        Column("What", numeric=False),
        Column("Why", numeric=False),
        Column("Samples"),
    )
    return Table("What failed or could not run here", columns, tuple(rows))


def _samples(entry: Entry) -> str:
    """How many samples have figures, of how many were to be taken."""
    taken, good = len(entry.records), len(entry.figures)
    if entry.status == "unavailable":
        return "cannot run"
    return str(good) if good == taken else f"{good} of {taken}"


def _ranges(entries: Sequence[Entry]) -> list[str]:
    values = [entry.values(lambda each: each.seconds) for entry in entries]
    decimals = decimals_for(each for those in values for each in those)
    return [
        NOTHING if len(those) < 2 else f"{fixed(min(those), decimals)} to {fixed(max(those), decimals)}"
        for those in values
    ]


def _memory(entry: Entry, destination: str) -> str:
    """The most resident memory beyond the tensors themselves; on a GPU's side there are none of them in it."""
    peak = entry.most(lambda each: each.peak_memory_bytes)
    if peak is None or entry.role == "floor":
        return NOTHING
    above = peak - (entry.nbytes if destination.startswith("cpu") else 0)
    return f"{above / 2**20:,.0f}".replace("-0", "0") if abs(above) < 2**19 else f"{above / 2**20:,.0f}"


def _tensors_per_s(entry: Entry) -> str:
    """Where there are so many tensors that handing them out is most of the work."""
    tensors = entry.most(lambda each: each.tensors)
    if entry.role == "floor" or not tensors or tensors < _MANY_TENSORS or not entry.seconds:
        return NOTHING
    return f"{tensors / entry.seconds:,.0f}"


def _gigabytes(entries: Sequence[Entry], measure: Callable[[Figures], float | None]) -> list[str]:
    values = [entry.median(measure) for entry in entries]
    decimals = 4 if 0 < max((value for value in values if value is not None), default=0) < 1e9 else 2
    return [fixed(None if value is None else value / 1e9, decimals) for value in values]


def _verified(entry: Entry) -> str:
    if not entry.figures:
        return NOTHING
    return "yes" if entry.verified else "reads only" if entry.role == "floor" else "no"


def _kind(entry: Entry) -> RowKind:
    if not entry.figures:
        return "missing"
    return "floor" if entry.role == "floor" else "ours" if entry.role == "slipstream" else "plain"


def _notes(place: Place) -> tuple[str, ...]:
    notes = ["Medians of each figure by itself, of memory the most. GB are 10⁹ bytes."]
    if len(place.floors) > 1:
        notes.append("* the fastest plain reader: the floor.")
    if not place.destination.startswith("cpu"):
        notes.append("Memory is the host's; the model is not in it.")
    if any(entry.figures and entry.role != "floor" and not entry.verified for entry in place.entries):
        notes.append("Verified: no. At least one sample's tensors were not compared with the model's bytes.")
    return tuple(notes)
