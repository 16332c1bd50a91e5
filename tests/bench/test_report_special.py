"""What is no load has a table of its own in the report and at the end of a run, and no throughput."""

from __future__ import annotations

from typing import Any

from slipstream.bench.experiments import EXPERIMENTS
from slipstream.bench.records import ModelFacts, Record, StorageFacts
from slipstream.bench.report.choices import choices_table
from slipstream.bench.report.conditions import warnings
from slipstream.bench.report.headline import headline_card, summary_lines
from slipstream.bench.report.results import group_records
from slipstream.bench.report.special import is_special, special_table
from slipstream.bench.report.story import tell_story
from tests.bench.synthetic_results import gp3, lost, make_record

SHARDS = ModelFacts(name="llama-tiny", layers=64, nbytes=60_000_000, tensors=579, files=64)
NOTHING = ModelFacts(name="slipstream", layers=None, nbytes=0, tensors=0, files=0)


def special_records(experiment: str, storage: str, **others: Any) -> list[Record]:
    """Three samples of slipstream."""
    known = EXPERIMENTS[experiment]
    facts = StorageFacts(name=storage, kind="range-server", emulated=False, uri="s3://models/")
    row = next(entry for entry in known.entries if entry.contender == "slipstream")
    return [
        make_record("slipstream", row.label or "defaults", seconds=0.2 + n / 10, experiment=experiment, storage=facts,
                    settings=row.settings, round_=n, **others)
        for n in range(3)
    ]  # fmt: skip


def imports() -> list[Record]:
    return special_records("import", "environment", model=NOTHING, verified=False, figures={"nbytes": None})


def headers() -> list[Record]:
    notes = {"shards": 64, "served": 65, "accepted": 12}
    figures = {"nbytes": None}
    return special_records("headers", "http-slow", model=SHARDS, notes=notes, figures=figures, verified=False)


def lock(storage: str = "http") -> list[Record]:
    return special_records("lock", storage, notes={"lock_held_s": 0.56, "lock_watched_s": 2.0, "lock_readings": 900})


def cells(records: list[Record]) -> list[dict[str, str]]:
    table = special_table(group_records(records))
    return [dict(zip([column.title for column in table.columns], row.cells, strict=True)) for row in table.rows]


def test_headers_have_their_requests() -> None:
    """Milliseconds, and what the server saw."""
    (row,) = cells(headers())
    assert (row["Median (ms)"], row["Range (ms)"], row["Samples"]) == ("300.0", "200.0 to 400.0", "3")
    assert (row["Shards"], row["Tensors"], row["Requests"], row["Connections"]) == ("64", "579", "65", "12")


def test_the_lock_is_shown_for_all_storages_at_once() -> None:
    """One row for each storage, with the time it was held for each GB and what one process could reach at most."""
    first, second = cells([*lock(), *lock("http-paced")])
    assert (first["What"], second["What"]) == ("http, defaults", "http-paced, defaults")
    assert (first["Of the time"], first["Held (s/GB)"], first["Ceiling (GB/s)"]) == ("28 %", "0.10", "10.0")


def test_imports_are_milliseconds() -> None:
    """An import has its time, and the empty process beside it."""
    empty = make_record("floor", "a process that does nothing", seconds=0.01, experiment="import", model=NOTHING,
                        storage=imports()[0].storage, figures={"nbytes": None})  # fmt: skip
    rows = cells([*imports(), empty])
    assert [row["Median (ms)"] for row in rows] == ["300.0", "10.0"]


def test_a_report_says_nothing_of_their_speed() -> None:
    """They have a section with a table and a line on the terminal, but no headline, chart or warning."""
    records = [*gp3(), *imports(), *headers(), *lock()]
    places = group_records(records)
    document = tell_story(sorted(records, key=lambda record: record.taken_at))
    titles = [section.title for section in document.sections]
    for place in places:
        if is_special(place.experiment):
            assert headline_card(place) is None
            assert not any(title.startswith(f"{place.experiment} ·") for title in titles)
            assert any(title.startswith(f"{place.experiment}: ") for title in titles)
    assert {place.experiment for place in places if is_special(place.experiment)} == {"import", "headers", "lock"}
    assert all(figure.name.startswith("gp3") for figure in document.figures)
    assert warnings(places, records) == []
    assert any("headers: http-slow, slipstream.inspect: 300.0 ms." in line for line in summary_lines(places))


def test_why_one_failed_is_in_the_report() -> None:
    """A special sample without figures is in no table of figures, and its reason stands in the report."""
    (one, *_) = lock()
    failed = lost(one, "unavailable", "only root may watch the interpreter's lock")
    assert cells([failed]) == []
    texts = {cell for table in tell_story([failed]).tables for row in table.rows for cell in row.cells}
    assert failed.reason in texts


def test_faults_that_struck_are_counted() -> None:
    """Beside retries and second requests stands how many requests the server failed."""
    notes = {"strategies": ["ranged"], "retries": 4, "hedged": 1, "struck": {"Status": 3, "Stall": 1}}
    (place,) = group_records([make_record("slipstream", notes=notes)])
    table = choices_table(place)
    assert table is not None
    found = dict(zip([column.title for column in table.columns], table.rows[0].cells, strict=True))
    assert (found["Retries"], found["Second requests"], found["Faults that struck"]) == ("4", "1", "4")
