"""Records merged and grouped: what is compared with what, and what the medians are of."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from slipstream.bench.errors import ResultsError
from slipstream.bench.records import format_record
from slipstream.bench.report.results import group_records, read_results
from tests.bench.synthetic_results import GP3, MACHINE, WHOLE, gp3, lost, make_record, s3, write


def test_medians_are_over_the_rounds() -> None:
    """Each figure's median is taken by itself, of memory the most, and a failed sample is in none of them."""
    records = [
        make_record("runai", seconds=seconds, round_=n, figures={"cpu_s": cpu, "peak_memory_bytes": peak})
        for n, (seconds, cpu, peak) in enumerate([(3.0, 1.0, 7), (1.0, 3.0, 9), (2.0, 2.5, 8)])
    ]
    records.append(lost(make_record("runai", seconds=99, round_=3), "failed", "it stopped"))
    (place,) = group_records(records)
    (entry,) = place.entries
    assert entry.seconds == 2.0
    assert entry.median(lambda each: each.cpu_s) == 2.5
    assert entry.most(lambda each: each.peak_memory_bytes) == 9
    assert (len(entry.figures), len(entry.failures)) == (3, 1)
    assert (entry.status, entry.reason) == ("ok", "it stopped")


def test_places_are_told_apart() -> None:
    """Storage, model, number of layers, destination and machine each make another place; label and round do not."""
    base = make_record("slipstream")
    others = [
        replace(base, experiment="io2"),
        replace(base, storage=replace(GP3, name="other")),
        replace(base, model=WHOLE),
        replace(base, destination="cuda:0"),
        replace(base, machine={**MACHINE, "cpu": "another"}),
    ]
    same = [replace(base, round=1), replace(base, label="concurrency 4", settings={"concurrency": 4})]
    assert len(group_records([base, *same])) == 1
    assert len(group_records([base, *same, *others])) == 1 + len(others)


def test_a_few_pages_more_make_no_other_machine() -> None:
    """The memory that a kernel has left after its start differs a little each time."""
    memory = int(MACHINE["memory_bytes"])
    after = make_record("slipstream", round_=1, machine={**MACHINE, "memory_bytes": memory + 8192})
    assert len(group_records([make_record("slipstream"), after])) == 1


def test_floor_belongs_to_every_destination() -> None:
    """A plain reader has no destination that matters: its figure is the floor beside the CPU's and the GPU's."""
    records = [
        make_record("slipstream"),
        make_record("slipstream", destination="cuda:0"),
        make_record("floor", "direct, 8 threads", seconds=0.5),
        make_record("floor", "populate, 2 threads", seconds=0.4),
    ]
    places = group_records(records)
    assert [place.destination for place in places] == ["cpu", "cuda:0"]
    assert [place.floor.label for place in places if place.floor] == ["populate, 2 threads"] * 2


def test_floor_alone_is_a_place() -> None:
    """Results that hold nothing but floors can be reported too."""
    (place,) = group_records([make_record("floor", "direct, 8 threads")])
    assert place.loaders == ()
    assert place.floor is not None


def test_fraction_of_the_floor_is_by_bytes() -> None:
    """A floor that read another number of bytes is compared by bytes a second."""
    half = make_record("floor", "direct, 8 threads", seconds=1.0, figures={"nbytes": 2_795_241_984})
    (place,) = group_records([make_record("slipstream", seconds=4.0), half])
    assert place.of_floor(place.of("slipstream")[0]) == pytest.approx(0.5)


def test_order_of_entries() -> None:
    """slipstream comes first, then the peers as the document has them, plugins, floors; defaults before levels."""
    (place,) = group_records([*gp3(rounds=1), make_record("zebra")])
    assert place.contenders == (
        "slipstream",
        "runai",
        "safetensors",
        "tensorizer",
        "fastsafetensors",
        "instanttensor",
        "zebra",
    )
    assert [entry.label for entry in place.of("runai")][:3] == ["defaults", "concurrency 1", "concurrency 4"]
    assert place.entries[-1].role == "floor"


def test_level_is_what_was_set_alone() -> None:
    """A concurrency together with another setting is no point of the sweep."""
    both = make_record("slipstream", "concurrency 4, hedge off", settings={"concurrency": 4, "hedge": False})
    auto = make_record("slipstream", "concurrency auto", settings={"concurrency": "auto"})
    alone = make_record("slipstream", "concurrency 4", settings={"concurrency": 4})
    (place,) = group_records([both, auto, alone])
    assert {entry.label: entry.level for entry in place.entries} == {
        "concurrency 4, hedge off": None,
        "concurrency auto": None,
        "concurrency 4": 4,
    }


def test_files_are_merged(tmp_path: Path) -> None:
    """Several files count together, also compressed; a record that is in two of them counts once."""
    plain = write(tmp_path / "a.jsonl", gp3(rounds=1))
    packed = tmp_path / "b.jsonl.gz"
    with gzip.open(packed, "wt") as file:
        file.writelines(format_record(record) + "\n" for record in [*gp3(rounds=1), *s3(rounds=1)])
    assert len(read_results([plain, packed])) == len(gp3(rounds=1)) + len(s3(rounds=1))


def test_nothing_to_report(tmp_path: Path) -> None:
    """A file that is not there, that is something else, or that is empty is an error that names it."""
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    other = tmp_path / "other.jsonl"
    other.write_text("{}\n")
    for path, words in ((tmp_path / "none.jsonl", "cannot be read"), (other, "line 1"), (empty, "no record")):
        with pytest.raises(ResultsError, match=words) as caught:
            read_results([path])
        assert str(path) in str(caught.value)
