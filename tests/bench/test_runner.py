"""A run: one record for each sample, in turns; what fails is a record too; and a stopped run goes on where it was."""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from slipstream.bench.experiments import Entry, Experiment
from slipstream.bench.models import Model
from slipstream.bench.plan import PlannedSample
from slipstream.bench.records import Record, append_record, read_records
from slipstream.bench.runner import Outcome, Run, RunSettings
from slipstream.bench.storages.base import StorageUnavailableError
from slipstream.bench.storages.choice import Ground
from slipstream.bench.takers import Conditions
from slipstream.errors import UsageError
from slipstream.testing.process_watch import see_descriptors
from slipstream.testing.seaweedfs import SeaweedFS
from tests.bench.volumes import model as model

OURS = Entry(contender="slipstream", settings={"framework": "numpy"})  # torch is not imported, so samples are quick
OTHER = Entry(contender="slipstream", settings={"framework": "numpy", "concurrency": 1})
FLOOR = Entry(contender="floor", settings={"method": "direct", "threads": 2})
BROKEN = Entry(contender="slipstream", settings={"framework": "numpy", "memory_limit": 1})
NOT_HERE = Entry(contender="instanttensor")


class Seen:
    """What a display was told."""

    def __init__(self) -> None:
        self.totals: tuple[int, int] | None = None
        self.begun: list[PlannedSample] = []
        self.ended: list[Record] = []
        self.lines: list[str] = []
        self.doings: list[str] = []
        self.left_counts: list[int] = []

    def planned(self, total: int, done: int) -> None:
        self.totals = (total, done)

    def doing(self, what: str, done: int, total: int) -> None:
        self.doings.append(what)

    def begins(self, planned: PlannedSample, left_s: float | None) -> None:
        self.begun.append(planned)

    def ends(self, record: Record) -> None:
        self.ended.append(record)

    def left(self, count: int) -> None:
        self.left_counts.append(count)

    def notes(self, line: str) -> None:
        self.lines.append(line)

    def tells(self, line: str) -> None:
        self.lines.append(line)


class StopsAt(Seen):
    """Presses Ctrl-C when that many samples have been taken."""

    def __init__(self, count: int, number: signal.Signals = signal.SIGINT) -> None:
        super().__init__()
        self._count = count
        self._number = number

    def ends(self, record: Record) -> None:
        super().ends(record)
        if len(self.ended) == self._count:
            os.kill(os.getpid(), self._number)


@pytest.fixture
def settings(model: Model, tmp_path: Path) -> RunSettings:
    """Two rows and a floor on this machine's disk, twice."""
    return RunSettings(
        experiments=[experiment_of(OURS, OTHER, FLOOR)],
        models={"": model},
        output=tmp_path / "results",
        ground=Ground(cache=model.cache, model_folder=model.files[0].parent),
        repeats=2,
    )


def experiment_of(*entries: Entry, storages: tuple[str, ...] = ("disk",)) -> Experiment:
    return Experiment(name="trial", title="", storages=storages, entries=entries)


def take(settings: RunSettings, seen: Seen | None = None) -> tuple[Outcome, Seen]:
    seen = seen or Seen()
    return Run(settings, seen).take_all(), seen


def rows_of(records: list[Record]) -> list[tuple[int, str]]:
    return [(record.round, record.label) for record in records]


def test_every_sample_is_a_record(settings: RunSettings, model: Model) -> None:
    """Each has figures, was verified, and says who, where, with what and on what it was taken."""
    outcome, seen = take(settings)
    assert outcome.failed == []
    assert outcome.taken == 6
    assert seen.totals == (6, 0)
    assert seen.left_counts[-1] == 0
    records = read_records(settings.results)
    assert records == outcome.records == seen.ended
    assert len({record.run for record in records}) == 1
    for record in records:
        assert (record.experiment, record.status, record.storage.name) == ("trial", "ok", "disk")
        assert record.storage.mount["filesystem"]
        assert record.model == model.facts
        assert record.figures is not None
        assert record.figures.seconds > 0
        assert record.figures.nbytes is not None
        assert record.figures.nbytes >= model.nbytes
        assert record.notes["cached_before_bytes"] == 0
        assert record.notes["wall_s"] > 0
        assert record.machine["cores"]
        assert record.verified
        assert record.checksum
    assert len({record.checksum for record in records if record.role == "slipstream"}) == 1


def test_contenders_take_turns(settings: RunSettings) -> None:
    """Every row comes once a round, and each round begins with another one."""
    _, seen = take(settings)
    labels = ["concurrency 1, numpy", "numpy", "direct, 2 threads"]
    taken = rows_of(seen.ended)
    assert sorted(taken[:3]) == sorted((0, label) for label in labels)
    assert sorted(taken[3:]) == sorted((1, label) for label in labels)
    assert taken[0][1] != taken[3][1]


def test_what_was_measured_is_not_measured_again(settings: RunSettings) -> None:
    """A second run takes nothing; one with another repeat takes that alone."""
    take(settings)
    outcome, seen = take(settings)
    assert (seen.totals, seen.ended, outcome.taken) == ((6, 6), [], 0)
    assert len(outcome.records) == 6
    _, seen = take(replace(settings, repeats=3))
    assert seen.totals == (9, 6)
    assert {record.round for record in seen.ended} == {2}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_run_goes_on(settings: RunSettings, number: signal.Signals) -> None:
    """After Ctrl-C, SIGTERM or SIGHUP what was measured is there, nothing else is, and the rest is what is left."""
    descriptors = see_descriptors()
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        take(settings, StopsAt(2, number))
    assert signal.getsignal(number) is before
    assert see_descriptors() <= descriptors
    first = read_records(settings.results)
    assert len(first) == 2
    _, seen = take(settings)
    assert seen.totals == (6, 2)
    assert sorted(rows_of(first + seen.ended)) == sorted(set(rows_of(first + seen.ended)))
    assert len(seen.ended) == 4


def test_half_a_line_of_a_killed_run_is_no_record(settings: RunSettings) -> None:
    """What a killed run left of its last line is cut off, and that sample is taken again."""
    take(settings)
    whole = settings.results.read_bytes()
    settings.results.write_bytes(whole[:-100])
    _, seen = take(settings)
    assert len(seen.ended) == 1
    assert len(read_records(settings.results)) == 6


def test_a_contender_that_fails_ends_nothing(settings: RunSettings) -> None:
    """Its samples are records with the reason, the others have their figures, and the next run tries it again."""
    settings = replace(settings, experiments=[experiment_of(OURS, BROKEN, FLOOR)], repeats=1)
    outcome, _ = take(settings)
    (failed,) = [record for record in outcome.records if record.status == "failed"]
    assert failed.figures is None
    assert "memory_limit" in failed.reason
    assert "\n" not in failed.reason
    assert outcome.taken == 2
    assert [failed.contender in line and failed.reason in line for line in outcome.failed] == [True]
    _, seen = take(settings)
    assert [record.status for record in seen.ended] == ["failed"]


def test_a_contender_that_cannot_run_says_so_once(settings: RunSettings) -> None:
    """It is one record with the reason, whatever the repeats, and not one more in the next run."""
    settings = replace(settings, experiments=[experiment_of(OURS, NOT_HERE)])
    for _ in range(2):
        outcome, _ = take(settings)
        (record,) = [record for record in outcome.records if record.contender == "instanttensor"]
        assert (record.status, record.reason, record.round) == ("unavailable", "needs CUDA", 0)
        assert outcome.failed == []


def test_a_file_that_stays_cached_is_no_sample(settings: RunSettings, model: Model) -> None:
    """Where another process keeps the model in the page cache, there is the reason instead of a warm figure."""
    settings = replace(settings, experiments=[experiment_of(OURS)], repeats=1)
    with model.files[0].open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as held:
        assert sum(held[::4096]) >= 0
        outcome, _ = take(settings)
    assert [(record.status, record.figures) for record in outcome.records] == [("failed", None)]
    assert "stay in the page cache" in outcome.records[0].reason


def test_warm_experiments_are_warm(settings: RunSettings) -> None:
    """An experiment may want the files in the page cache: then they are, all of them, before each sample."""
    warm = replace(experiment_of(OURS), page_cache="warm")
    outcome, _ = take(replace(settings, experiments=[warm], repeats=1))
    (record,) = outcome.records
    assert record.notes["cached_before_bytes"] >= record.model.nbytes
    assert record.figures is not None
    assert record.figures.page_cache_growth_bytes == 0


def test_experiments_may_select_and_drop_tensors(settings: RunSettings) -> None:
    """A glob selects tensors, and a caller that drops each of them keeps nothing that could be verified."""
    some = replace(experiment_of(OURS), names="model.layers.*", keep=False)
    outcome, _ = take(replace(settings, experiments=[some], repeats=1))
    (record,) = outcome.records
    assert record.figures is not None
    assert record.figures.tensors is not None
    assert 0 < record.figures.tensors < record.model.tensors
    assert not record.verified


def test_rows_may_have_variables_of_their_own(settings: RunSettings) -> None:
    """A row's variables are set for its samples: here one that slipstream reads, and refuses."""
    odd = replace(OURS, label="by the environment", environment={"SLIPSTREAM_CONCURRENCY": "none at all"})
    outcome, _ = take(replace(settings, experiments=[experiment_of(OURS, odd)], repeats=1))
    assert {record.label: record.status for record in outcome.records} == {
        "numpy": "ok",
        "by the environment": "failed",
    }


def test_each_experiment_may_have_a_model_of_its_own(settings: RunSettings, model: Model) -> None:
    """An experiment with a layout loads that layout's model."""
    other = replace(model, name="another", facts=replace(model.facts, name="another"))
    experiments = [experiment_of(OURS), replace(experiment_of(OURS), name="of its own", layout="another")]
    settings = replace(settings, experiments=experiments, models={"": model, "another": other}, repeats=1)
    outcome, _ = take(settings)
    assert {record.experiment: record.model.name for record in outcome.records} == {
        "trial": "llama-tiny",
        "of its own": "another",
    }


def test_two_runs_never_share_a_folder(settings: RunSettings) -> None:
    """A second run into a folder is refused while the first goes on, since each would slow the other down."""
    settings.output.mkdir()
    descriptor = os.open(settings.output, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another run writes"):
            take(settings)
    finally:
        os.close(descriptor)
    assert take(settings)[0].taken == 6


def test_another_kind_of_storage_is_not_mixed_in(settings: RunSettings) -> None:
    """Results of an emulated volume are not continued on a real one of the same name."""
    outcome, _ = take(replace(settings, repeats=1))
    emulated = replace(outcome.records[0].storage, kind="throttled", emulated=True)
    append_record(settings.results, replace(outcome.records[0], storage=emulated))
    with pytest.raises(
        UsageError, match="measured as throttled, and now it would be directory: choose another --output"
    ):
        take(settings)


def test_samples_of_other_commits_are_pointed_out(settings: RunSettings) -> None:
    """Going on with results of another commit is allowed, and said."""
    outcome, _ = take(replace(settings, repeats=1))
    settings.results.unlink()
    append_record(settings.results, replace(outcome.records[0], commit="0123456789ab"))
    _, seen = take(replace(settings, repeats=1))
    assert any("0123456789ab" in line and "--output" in line for line in seen.lines)


def test_a_storage_that_cannot_be_had_stops_the_run_before_it_begins(
    settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a storage of the plan is out of reach nothing is measured, of the other storages neither."""
    monkeypatch.setattr("slipstream.bench.storages.embedded_s3.why_unavailable", lambda: "there is no program weed")
    experiments = [experiment_of(OURS), replace(experiment_of(OURS, storages=("s3",)), name="second")]
    with pytest.raises(StorageUnavailableError, match="there is no program weed"):
        take(replace(settings, experiments=experiments))
    assert not settings.results.exists()


def test_a_storage_that_fails_later_ends_its_experiment_alone(settings: RunSettings, seaweedfs: SeaweedFS) -> None:
    """A bucket that turns out not to be there is told, and the experiments after it are measured."""
    experiments = [replace(experiment_of(OURS, storages=("s3",)), name="first"), experiment_of(OURS)]
    ground = replace(settings.ground, storage_options=seaweedfs.storage_options)
    places = {"s3": "s3://no-such-bucket-at-all/x"}
    outcome, seen = take(replace(settings, experiments=experiments, ground=ground, places=places, repeats=1))
    assert [record.experiment for record in outcome.records] == ["trial"]
    assert [line for line in outcome.failed if "no-such-bucket-at-all" in line]
    assert any("first is left out" in line for line in seen.lines)
    assert seen.left_counts[-1] == 0


def test_a_store_is_given_its_pause(settings: RunSettings, seaweedfs: SeaweedFS) -> None:
    """Before each sample from a store the run waits as long as was asked, and shows it."""
    seaweedfs.create_bucket("bench-runner")
    ground = replace(settings.ground, storage_options=seaweedfs.storage_options, pause_s=0.01)
    places = {"s3": "s3://bench-runner/x"}
    experiments = [experiment_of(OURS, storages=("s3",))]
    outcome, seen = take(replace(settings, experiments=experiments, ground=ground, places=places))
    assert [(record.status, record.storage.kind) for record in outcome.records] == [("ok", "object-store")] * 2
    assert all(record.figures and record.figures.network_received_bytes for record in outcome.records)
    assert sum("pause" in what for what in seen.doings) >= 2


def test_an_interpreter_that_lacks_a_contender_says_so(settings: RunSettings, tmp_path: Path) -> None:
    """`--python` names the interpreter that is asked, and its lack is the reason in the record."""
    conditions = Conditions(pythons={"slipstream": Path(os.path.realpath("/usr/bin/env")).with_name("true")})
    outcome, _ = take(replace(settings, experiments=[experiment_of(OURS, FLOOR)], conditions=conditions, repeats=1))
    statuses = {record.contender: record.status for record in outcome.records}
    assert statuses == {"slipstream": "unavailable", "floor": "ok"}
