"""`slipstream bench run` as a user gives it: every experiment at tiny size, stopped in every way, and gone on with."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from slipstream.bench.experiments import EXPERIMENTS, Experiment
from slipstream.bench.plan import choose_entries
from slipstream.bench.records import Record, read_records
from slipstream.bench.storages.cgroups import find_hierarchy
from slipstream.bench.storages.devices import find_device
from slipstream.bench.storages.throttle import LEFTOVERS
from slipstream.bench.storages.undo import started_at
from slipstream.testing import seaweedfs as seaweedfs_module
from slipstream.testing.process_watch import wait_for
from tests.bench.volumes import throttled_volume as throttled_volume
from tests.bench.volumes import volume as volume
from tests.cli.process import assert_harmless, command, environment, run, run_on_terminal

LOADS = [EXPERIMENTS[name] for name in ("gp3", "io2", "s3")]  # the others: test_own_experiments
TINY = ("--model", "llama-tiny", "--layers", "1")


@pytest.fixture
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where models lie: on a disk that may be throttled."""
    throttled: Path = request.getfixturevalue("throttled_volume")
    return throttled / "cache"


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run("bench", "run", *arguments)


def records_in(output: Path) -> list[Record]:
    results = output / "results.jsonl"
    return read_records(results) if results.exists() else []


@pytest.mark.parametrize("experiment", LOADS, ids=lambda experiment: experiment.name)
def test_every_experiment_at_tiny_size(experiment: Experiment, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A short run of it has one record for each row: with verified figures, or with why the loader cannot run here."""
    cache = tmp_path / "cache"
    if {"gp3", "io2"} & set(experiment.storages):
        cache = request.getfixturevalue("throttled_volume") / "cache"
    elif (reason := seaweedfs_module.why_unavailable()) is not None:
        pytest.skip(reason)
    output = tmp_path / "results"
    done = bench(experiment.name, "--quick", *TINY, "--cache", cache, "--output", output)
    assert done.returncode == 0, done.stderr
    records = records_in(output)
    entries = choose_entries(experiment, contenders=None, quick=True)
    assert sorted(record.contender for record in records) == sorted(entry.contender for entry in entries)
    for record in records:
        assert (record.experiment, record.round, record.destination) == (experiment.name, 0, "cpu")
        assert record.storage.emulated
        if record.status == "ok":
            assert record.figures is not None
            assert record.verified or record.role == "floor"
            assert record.figures.device_read_bytes or record.figures.network_received_bytes
        else:
            assert record.status == "unavailable"
            assert record.reason
    have_figures = {record.contender for record in records if record.status == "ok"}
    assert {"slipstream", "floor"} <= have_figures
    assert f"slipstream bench report {output}/results.jsonl" in done.stdout
    assert "slipstream" in done.stdout
    assert_harmless(done.stdout)
    assert_harmless(done.stderr)
    assert nothing_left(cache)


def nothing_left(cache: Path) -> bool:
    """Whether no throttle and no folder of a running server is there."""
    hierarchy = find_hierarchy()
    groups = [] if hierarchy is None else [*hierarchy.root.glob("slipstream-bench-*")]
    return not groups and not [*LEFTOVERS.glob("*")] and not [*cache.glob("running-*")]


@contextmanager
def running(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A run in a session of its own, which is over at the end."""
    with subprocess.Popen(
        command("bench", "run", *arguments),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_killed_run_leaves_no_throttle_and_goes_on(cache: Path, tmp_path: Path) -> None:
    """SIGKILL in the midst of a throttled run: throttle and processes are gone, and the same command takes the rest."""
    output = tmp_path / "results"
    asked = ("gp3", "--quick", "--repeats", "4", *TINY, "--contenders", "floor", "--cache", cache, "--output", output)
    before = find_device(cache.parent).read_ahead_kib
    with running(*asked) as process:
        wait_for(lambda: len(records_in(output)) >= 2, "no sample was taken")
        assert find_device(cache).read_ahead_kib == 128
        children = children_of(process.pid)
        process.kill()
    wait_for(lambda: nothing_left(cache), "the throttle is still there")
    wait_for(lambda: all(started_at(child) is None for child in children), "a process is still there")
    assert find_device(cache).read_ahead_kib == before
    taken = records_in(output)
    assert len(taken) < 8
    done = bench(*asked)
    assert done.returncode == 0, done.stderr
    assert f"8 samples, {len(taken)} of them measured before" in done.stderr
    records = records_in(output)
    assert len(records) == len({record.key for record in records}) == 8
    assert records[: len(taken)] == taken
    assert len({record.run for record in records}) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_how_to_go_on(cache: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C or a shutdown: exit code 130, nothing left at that moment, and the command that goes on."""
    output = tmp_path / "results"
    asked = ("gp3", "--quick", "--repeats", "9", *TINY, "--contenders", "floor", "--cache", cache, "--output", output)
    with running(*asked) as process:
        wait_for(lambda: len(records_in(output)) >= 1, "no sample was taken")
        os.kill(process.pid, number)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert nothing_left(cache)
    assert f"{output}/results.jsonl" in told
    assert "To go on: slipstream bench run gp3" in told
    assert "Traceback" not in told


def test_a_disk_as_it_is_needs_no_rights(tmp_path: Path) -> None:
    """`--unthrottled` measures the disk as it is, under a name that says so."""
    output = tmp_path / "results"
    done = bench(
        "gp3", "--unthrottled", "--quick", *TINY, "--contenders", "floor", "--cache", tmp_path, "--output", output
    )
    assert done.returncode == 0, done.stderr
    for record in records_in(output):
        assert (record.storage.name, record.storage.kind) == ("gp3 unthrottled", "directory")
        assert not record.storage.limits


def test_a_real_volume_is_taken_by_its_path(volume: Path, tmp_path: Path) -> None:
    """`--storage gp3=DIR` copies the model there, and measures it as what it is."""
    place = volume / "mounted"
    place.mkdir(exist_ok=True)
    output = tmp_path / "results"
    done = bench(
        "gp3", "--storage", f"gp3={place}", "--quick", *TINY, "--contenders", "floor", "--cache", tmp_path,
        "--output", output,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (record, *_) = records_in(output)
    assert (record.storage.name, record.storage.kind, record.storage.emulated) == ("gp3", "directory", False)
    assert record.storage.uri.startswith(str(place))


def test_a_failed_contender_is_the_exit_code(tmp_path: Path) -> None:
    """A run in which a sample failed measures all others, names it at the end, and ends with 1."""
    output = tmp_path / "results"
    done = bench(
        "gp3", "--unthrottled", "--quick", *TINY, "--contenders", "slipstream,floor", "--cache", tmp_path, "--output",
        output, "--timeout", "0.000001",
    )  # fmt: skip
    assert done.returncode == 1
    assert {record.status for record in records_in(output)} == {"failed"}
    assert "failed: gp3: slipstream, defaults:" in done.stderr
    assert "the same command tries them again" in done.stderr
    assert "Traceback" not in done.stderr


def test_on_a_terminal_there_is_a_bar(tmp_path: Path) -> None:
    """A terminal shows what runs, how many of how many, and a line for each sample that stays."""
    output = tmp_path / "results"
    code, shown = run_on_terminal(
        "bench", "run", "gp3", "--unthrottled", "--quick", *TINY, "--contenders", "floor", "--cache", tmp_path,
        "--output", output, columns=140,
    )  # fmt: skip
    assert code == 0, shown
    assert "2/2" in shown
    for record in records_in(output):
        assert f"{record.contender}, {record.label}:" in shown


def test_quiet_says_nothing_but_the_table(tmp_path: Path) -> None:
    """`--quiet` leaves the summary on stdout and stderr empty."""
    done = bench(
        "gp3", "--unthrottled", "--quick", "--quiet", *TINY, "--contenders", "floor", "--cache", tmp_path, "--output",
        tmp_path / "results",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "direct, 16 threads" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("gp4",), 'no experiment "gp4"'),
        (("gp3", "--contenders", "runai,nobody"), 'no contender "nobody"'),
        (("gp3", "--repeats", "0"), "--repeats is at least 1"),
        (("gp3", "--storage", "gp3=/no/such/place"), "no such directory"),
        (("gp3", "--storage", "mine"), "NAME=PLACE"),
        (("gp3", "--python", "runai=/no/such/python"), "no interpreter"),
        (("gp3", "--python", "nobody=/bin/true"), 'no contender "nobody"'),
        (("s3", "--storage-option", "s3.endpoint=http://x"), "one store"),
        (("gp3", "--layers", "99"), "layers"),
        ((), "Missing argument"),
    ],
)
def test_wrong_usage_measures_nothing(tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    """What cannot work is exit code 2, says why, and leaves no folder of results."""
    model = () if "--layers" in arguments else ("--layers", "1")
    done = bench(*arguments, "--model", "llama-tiny", *model, "--cache", tmp_path / "c", "--output", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert expected in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
