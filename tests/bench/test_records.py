"""Results: one line of JSON for each sample, whole or not there."""

from __future__ import annotations

import dataclasses
import gzip
import json
import multiprocessing
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from slipstream.bench.errors import ResultsError
from slipstream.bench.records import (
    Figures,
    ModelFacts,
    Record,
    StorageFacts,
    append_record,
    format_record,
    parse_record,
    read_records,
)

RECORD = Record(
    run="a run",
    taken_at="2026-01-02T03:04:05+00:00",
    experiment="gp3",
    storage=StorageFacts(
        name="gp3",
        kind="throttled",
        emulated=True,
        uri="/models",
        limits={"bytes_per_s": 1e9, "iops": 16000},
        held={"bytes_per_s": 0.99e9},
        mount={"filesystem": "ext4"},
    ),
    contender="runai",
    label="concurrency 16",
    settings={"concurrency": 16, "direct": True, "share": 0.5, "name": "x"},
    role="peer",
    round=2,
    destination="cpu",
    model=ModelFacts(name="llama-tiny", layers=2, nbytes=8_000_000, tensors=39, files=1),
    status="ok",
    figures=Figures(seconds=1.5, first_tensor_s=0.25, cpu_s=2, nbytes=8_000_000, tensors=39),
    verified=True,
    checksum="sha256:00",
    notes={"strategies": ["mapped: it is"], "nested": {"a": None, "b": [1, 2.5]}},
    versions={"runai-model-streamer": "0.17.0"},
    machine={"cores": 2, "cpu": "a processor"},
    commit="0123456789ab",
)


def test_comes_back_as_it_went(tmp_path: Path) -> None:
    """A record that was appended is read as it was, with every field, in order with others."""
    failed = dataclasses.replace(RECORD, status="failed", reason="it broke", figures=None, verified=False, round=3)
    append_record(tmp_path / "new" / "results.jsonl", RECORD)
    append_record(tmp_path / "new" / "results.jsonl", failed)
    assert read_records(tmp_path / "new" / "results.jsonl") == [RECORD, failed]
    assert RECORD.key != failed.key
    assert RECORD.key == ("gp3", "gp3", "runai", "concurrency 16", "cpu", "llama-tiny", 2, 2)


def test_is_one_line_with_the_fields_as_keys() -> None:
    """The JSON has the names of the fields, on one line, whatever a reason says."""
    line = format_record(dataclasses.replace(RECORD, reason="two\nlines"))
    assert "\n" not in line
    assert set(json.loads(line)) == {field.name for field in dataclasses.fields(Record)}


def test_compressed(tmp_path: Path) -> None:
    """A file whose name ends in .gz is read as one that was compressed."""
    path = tmp_path / "results.jsonl.gz"
    path.write_bytes(gzip.compress(f"{format_record(RECORD)}\n".encode()))
    assert read_records(path) == [RECORD]


def test_ignores_what_later_versions_add() -> None:
    """Keys that are not known are no error, at any depth."""
    data = json.loads(format_record(RECORD))
    data["colour"] = data["figures"]["colour"] = data["storage"]["colour"] = "blue"
    assert parse_record(json.dumps(data)) == RECORD


def test_cuts_off_what_a_killed_writer_left(tmp_path: Path) -> None:
    """Half a line at the end is not read, and is gone after the next record."""
    path = tmp_path / "results.jsonl"
    append_record(path, RECORD)
    half = format_record(RECORD)[: 1 << 9]
    with path.open("a") as file:
        file.write(half)
    assert read_records(path) == [RECORD]
    append_record(path, RECORD)
    assert read_records(path) == [RECORD, RECORD]
    path.write_text(half)
    append_record(path, RECORD)
    assert read_records(path) == [RECORD]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "schema is 2"),
        ({"schema": None}, "schema is None"),
        ({"role": "friend"}, "role is 'friend'"),
        ({"round": True}, "round is True"),
        ({"figures": {"seconds": "fast"}}, "seconds is 'fast'"),
        ({"figures": {}}, "no seconds"),
        ({"storage": []}, "storage is no JSON object"),
        ({"settings": {"concurrency": [1]}}, "settings.concurrency"),
        ({"model": {"name": "x"}}, "no layers"),
    ],
)
def test_says_which_line_is_no_record_and_why(tmp_path: Path, change: dict[str, object], words: str) -> None:
    """A line of another format is an error with its number and the field, not a guess."""
    path = tmp_path / "results.jsonl"
    append_record(path, RECORD)
    with path.open("a") as file:
        file.write(json.dumps(json.loads(format_record(RECORD)) | change) + "\n")
    with pytest.raises(ResultsError, match="line 2") as raised:
        read_records(path)
    assert words in str(raised.value)


@pytest.mark.parametrize("line", ["nonsense", "[]", "[" * 100_000, '{"schema": 1}'])
def test_refuses_what_is_no_record(line: str) -> None:
    """Text that is no JSON, no object, or lacks fields is refused as what it is."""
    with pytest.raises(ResultsError):
        parse_record(line)


def test_a_figure_that_is_no_number_is_not_written(tmp_path: Path) -> None:
    """JSON has no NaN: the record is refused, and the file is as it was."""
    path = tmp_path / "results.jsonl"
    append_record(path, RECORD)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        append_record(path, dataclasses.replace(RECORD, figures=Figures(seconds=float("nan"))))
    assert path.read_bytes() == before


def _append_many(path: Path, writer: int) -> None:
    for number in range(30):
        append_record(path, dataclasses.replace(RECORD, run=f"writer {writer}", round=number))


def test_writers_at_the_same_time(tmp_path: Path) -> None:
    """Several processes may append to one file: every line is whole, and none is lost."""
    path = tmp_path / "results.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_many, args=(path, number)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = read_records(path)
    assert sorted((record.run, record.round) for record in found) == [
        (f"writer {writer}", number) for writer in range(3) for number in range(30)
    ]


def test_leaves_nothing_of_a_record_that_the_disk_has_no_room_for(tmp_path: Path) -> None:
    """Where the disk ends in the middle of a line, the error is raised and the file is as it was."""
    path = tmp_path / "results.jsonl"
    append_record(path, RECORD)
    before = path.read_bytes()
    room = len(before) + 100
    program = (
        "import resource, signal\n"
        "from pathlib import Path\n"
        "from slipstream.bench.records import append_record, read_records\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {resource.RLIM_INFINITY}))\n"
        f"path = Path({str(path)!r})\n"
        "try:\n"
        "    append_record(path, read_records(path)[0])\n"
        "except OSError as error:\n"
        "    print(error.errno)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip().isdecimal()
    assert path.read_bytes() == before
