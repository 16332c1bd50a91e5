"""Every experiment of the groups `disk` and `network` at tiny size, as a user runs them: the records, not their times.

One run for each group, of slipstream and the plain readers: what other loaders do is in test_contender_samples.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from slipstream.bench.child import lock_probe
from slipstream.bench.experiments import EXPERIMENTS, GROUPS
from slipstream.bench.plan import choose_entries
from slipstream.bench.records import Record, read_records
from slipstream.testing import seaweedfs as seaweedfs_module
from tests.bench.volumes import volume as volume
from tests.cli.process import assert_harmless, run

CONTENDERS = ["slipstream", "floor"]
LAYERS = 2
TINY = ("--quick", "--model", "llama-tiny", "--layers", str(LAYERS), "--contenders", ",".join(CONTENDERS))


class Ran:
    """A run that is over, and its records by experiment."""

    def __init__(self, done: subprocess.CompletedProcess[str], output: Path) -> None:
        self.done = done
        self._records = read_records(output / "results.jsonl")

    def of(self, experiment: str) -> list[Record]:
        return [record for record in self._records if record.experiment == experiment]


@pytest.fixture(scope="module")
def disk(volume: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The group `disk`, on a disk of its own."""
    output = tmp_path_factory.mktemp("disk-results")
    return Ran(run("bench", "run", "disk", *TINY, "--cache", volume / "cache", "--output", output), output)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The group `network`, without SeaweedFS where there is none."""
    output, cache = tmp_path_factory.mktemp("network-results"), tmp_path_factory.mktemp("cache")
    missing = {"seaweedfs"} if seaweedfs_module.why_unavailable() else set()
    names = [name for name in GROUPS["network"] if name not in missing]
    ran = Ran(run("bench", "run", *names, *TINY, "--cache", cache, "--output", output), output)
    assert not [*cache.glob("running-*")]
    return ran


@pytest.fixture
def ran(request: pytest.FixtureRequest, experiment: str) -> Ran:
    """The run that an experiment is part of."""
    if experiment == "seaweedfs" and (reason := seaweedfs_module.why_unavailable()):
        pytest.skip(reason)
    found: Ran = request.getfixturevalue("disk" if experiment in GROUPS["disk"] else "network")
    return found


def only(records: list[Record], **facts: object) -> Record:
    """The one record that is so."""
    (found,) = [record for record in records if all(getattr(record, name) == fact for name, fact in facts.items())]
    return found


def by_storage(records: list[Record]) -> Mapping[str, Record]:
    return {record.storage.name: record for record in records}


@pytest.mark.parametrize("experiment", [*GROUPS["disk"], *GROUPS["network"]])
def test_every_row_has_a_figure(experiment: str, ran: Ran) -> None:
    """A short run takes one sample of each row from each storage, and says at its end what was asked and found."""
    assert ran.done.returncode == 0, ran.done.stderr
    known = EXPERIMENTS[experiment]
    records = ran.of(experiment)
    entries = choose_entries(known, contenders=CONTENDERS, quick=True)
    wanted = [(entry.contender, dict(entry.settings), name) for entry in entries for name in known.storages]
    taken = [(record.contender, dict(record.settings), record.storage.name) for record in records]
    assert sorted(map(str, taken)) == sorted(map(str, wanted))
    for record in records:
        if experiment == "lock" and lock_probe.why_unavailable():
            assert (record.status, record.reason) == ("unavailable", lock_probe.why_unavailable())
            continue
        assert (record.status, record.reason, record.round, record.destination) == ("ok", "", 0, "cpu")
        assert record.figures is not None
        assert record.figures.seconds > 0
        assert record.versions["python"]
    for target in known.targets:
        assert target.text in ran.done.stdout
    assert_harmless(ran.done.stdout)
    assert_harmless(ran.done.stderr)


@pytest.mark.parametrize("experiment", ["cold", "warm"])
def test_the_page_cache_is_as_the_experiment_says(experiment: str, ran: Ran) -> None:
    """Cold, none of the files was cached and what was read came from the device; warm, all of them were."""
    for record in ran.of(experiment):
        assert record.figures is not None
        assert record.verified or record.role == "floor"
        cached = record.notes["cached_before_bytes"]
        if experiment == "cold":
            assert cached == 0
            assert (record.figures.device_read_bytes or 0) >= record.model.nbytes
        else:
            assert cached >= record.model.nbytes
            assert record.figures.page_cache_growth_bytes == 0
    direct = only(ran.of(experiment), label="direct")
    assert any(text.startswith("direct: ") for text in direct.notes["strategies"])


@pytest.mark.parametrize("experiment", ["small"])
def test_small_tensors_are_touched_afterwards(experiment: str, ran: Ran) -> None:
    """The model of many tensors is loaded whichever model the run is about, by torch and by numpy."""
    records = ran.of(experiment)
    assert {record.label for record in records} == {"defaults", "numpy"}
    for record in records:
        assert (record.model.name, record.model.layers, record.verified) == ("moe-small", LAYERS, True)
        assert record.figures is not None
        assert record.figures.tensors == record.model.tensors > 1000
        assert record.notes["touch_s"] > 0


@pytest.mark.parametrize("experiment", ["limit", "limit-warm"])
def test_a_limited_load_has_the_layers_alone(experiment: str, ran: Ran) -> None:
    """Only the layers are loaded, each tensor is dropped, and names, dtypes and shapes were compared."""
    for record in ran.of(experiment):
        assert record.figures is not None
        assert record.figures.tensors == 9 * LAYERS
        assert 0 < (record.figures.nbytes or 0) < record.model.nbytes
        assert "compared_by" in record.notes
        assert not record.verified  # of what was dropped, no bytes are left to compare
    assert {record.settings.get("memory_limit") for record in ran.of(experiment)} == {None, 256 << 20}


@pytest.mark.parametrize("experiment", ["import"])
def test_an_import_is_of_slipstream_alone(experiment: str, ran: Ran) -> None:
    """No model is loaded; the interpreter's own figure, a whole process, and one that does nothing are measured."""
    records = ran.of(experiment)
    assert {record.role for record in records} == {"slipstream", "floor"}
    for record in records:
        assert (record.model.name, record.model.files, record.storage.name) == ("slipstream", 0, "environment")
        assert record.figures is not None
        assert record.figures.nbytes is None
        assert (record.figures.cpu_s or 0) > 0
        assert record.versions["slipstream"]


@pytest.mark.parametrize("experiment", ["http", "https", "http-limited", "seaweedfs"])
def test_a_server_counts_what_it_sent(experiment: str, ran: Ran) -> None:
    """Everything comes over the network, verified byte for byte, with requests counted by slipstream."""
    for record in ran.of(experiment):
        assert record.figures is not None
        assert (record.figures.network_received_bytes or 0) >= record.model.nbytes
        assert record.figures.device_read_bytes is None
        assert record.verified or record.label.startswith("discard")
    ours = only(ran.of(experiment), contender="slipstream")
    assert ours.notes["requests"] >= 2
    assert ours.notes["connections"] >= 1
    limited = experiment == "http-limited"
    assert set(ours.storage.limits) == set(ours.storage.held) == ({"connection_bytes_per_s"} if limited else set())
    assert (ours.storage.mount.get("protocol") == "https") == (experiment == "https")


@pytest.mark.parametrize("experiment", ["faults"])
def test_faults_are_counted_by_the_server(experiment: str, ran: Ran) -> None:
    """The same row is measured with and without faults, and each server says what it saw and what struck."""
    clean, faulty = (by_storage(ran.of(experiment))[name] for name in ("http-faultless", "http-faulty"))
    assert (clean.storage.mount["faults"], clean.notes["struck"], clean.notes["retries"]) == ("none", {}, 0)
    assert faulty.storage.mount["faults"].startswith("Status 0.67 %")
    for record in (clean, faulty):
        assert record.verified
        assert record.notes["served"] == record.notes["requests"]
        assert record.notes["accepted"] == record.notes["connections"]


@pytest.mark.parametrize("experiment", ["headers"])
def test_headers_come_through_the_index(experiment: str, ran: Ran) -> None:
    """All shards are described, one request for each and one for their index, and no tensor is loaded."""
    (record,) = ran.of(experiment)
    assert record.figures is not None
    assert (record.label, record.model.files, record.notes["shards"]) == ("slipstream.inspect", LAYERS, LAYERS)
    assert (record.figures.tensors, record.figures.nbytes) == (record.model.tensors, None)
    assert record.notes["served"] == LAYERS + 1
    assert "compared_by" in record.notes
    assert record.storage.held["first_byte_s"] >= record.storage.limits["first_byte_s"] == 0.03


@pytest.mark.parametrize("experiment", ["lock"])
def test_the_lock_is_watched_from_outside(experiment: str, ran: Ran) -> None:
    """From each of four servers a verified load is watched, and the lock is held for a part of its time."""
    if why := lock_probe.why_unavailable():
        pytest.skip(why)
    records = by_storage(ran.of(experiment))
    assert set(records) == {"http", "http-paced", "https", "https-paced"}
    for name, record in records.items():
        assert record.verified
        assert 0 < record.notes["lock_held_s"] < record.notes["lock_watched_s"]
        assert record.notes["lock_readings"] > 10
        assert bool(record.storage.limits) == name.endswith("-paced")
