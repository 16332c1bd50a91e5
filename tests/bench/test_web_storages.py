"""Servers of the network experiments: plain, TLS, limited, failing and late; and where slipstream itself lies."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import slipstream
from slipstream.bench.contenders import find_contender
from slipstream.bench.experiments import EXPERIMENTS, Experiment
from slipstream.bench.models import Model, make_deep_model, no_model
from slipstream.bench.sampling import SampleRequest, SampleResult, take_sample
from slipstream.bench.storages.base import Storage, StorageUnavailableError
from slipstream.bench.storages.choice import DEFAULTS, Ground, make_storage
from slipstream.bench.storages.environment import Environment
from slipstream.bench.storages.faulty_store import INDEX, MIXED_FAULTS, FaultyStore
from slipstream.bench.storages.range_store import NO_LIMITS, RangeStore
from slipstream.testing import nginx as nginx_module
from slipstream.testing.process_watch import see_descriptors
from slipstream.testing.range_faults import CloseEarly, Reset, Status
from slipstream.testing.range_server import Faults, RangeServer, When
from tests.bench.volumes import model as model

SURE_FAULTS = Faults(
    Status(503, when=When(first=1)),
    Reset(1000, when=When(numbers=(2,))),
    CloseEarly(1000, when=When(numbers=(3,))),
)


def say_nothing(what: str, done: int, total: int) -> None:
    """A report for whom it does not concern."""


def take(storage: Storage) -> SampleResult:
    """One sample of slipstream, verified, without the import of torch."""
    placed = storage.begin(0)
    request = SampleRequest(contender=find_contender("slipstream"), placed=placed, settings={"framework": "numpy"})
    return take_sample(request, storage.prepare, storage.counters)


@pytest.fixture(params=["nginx", "range server"])
def either_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either of the servers behind a RangeStore."""
    missing = nginx_module.why_unavailable()
    if request.param == "nginx" and missing:
        pytest.skip(missing)
    if request.param == "range server":
        monkeypatch.setattr(nginx_module, "why_unavailable", lambda: "it is not there")
    return str(request.param)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_server_without_limits(either_server: str, tls: bool, model: Model, tmp_path: Path) -> None:
    """Either server has the model for an S3 client that trusts it, counts what it sends, and leaves nothing."""
    descriptors = see_descriptors()
    with RangeStore("x", tmp_path / "cache", NO_LIMITS, tls=tls) as storage:
        storage.place(model, say_nothing)
        result = take(storage)
        facts = storage.facts()
        (url,) = storage.begin(0).urls
    assert result.verified
    assert (result.figures.network_received_bytes or 0) >= model.nbytes
    assert (facts.emulated, facts.limits, facts.held) == (False, {}, {})
    assert (facts.mount["server"], facts.mount.get("protocol")) == (either_server, "https" if tls else None)
    assert url.startswith("https://" if tls else "http://")
    assert see_descriptors() <= descriptors
    assert not list((tmp_path / "cache").iterdir())


def test_tls_without_certificates_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no certificate can be made, a run is refused before its first sample, with what to install."""
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(StorageUnavailableError, match=r"pip install 'slipstream\[bench\]'"), make("https", tmp_path):
        pass


def make(name: str, folder: Path) -> Storage:
    return make_storage(name, None, Ground(cache=folder, model_folder=folder))


def test_a_failing_server_is_healed_and_noted(model: Model, tmp_path: Path) -> None:
    """What struck and what slipstream did about it stand in the notes, and every byte is the model's."""
    with FaultyStore("x", tmp_path / "cache", SURE_FAULTS) as storage:
        storage.place(model, say_nothing)
        result = take(storage)
        seen = storage.end()
        assert storage.facts().mount["faults"] == "Status, Reset, CloseEarly"
    assert result.verified
    assert seen["struck"] == {"Status": 1, "Reset": 1, "CloseEarly": 1}
    assert result.notes["retries"] == 3
    assert seen["served"] == result.notes["requests"]
    assert not list((tmp_path / "cache").iterdir())


def test_every_round_is_another_server_with_luck_of_its_own(model: Model, tmp_path: Path) -> None:
    """A sample's requests are counted from none, and chance depends on the round alone."""
    faults = Faults(Status(503, when=When(probability=0.5, first_attempts=1)))
    with FaultyStore("x", tmp_path / "cache", faults) as storage:
        storage.place(model, say_nothing)
        struck = []
        for round_ in (*range(8), *range(8)):
            slipstream.load([*storage.begin(round_).uris], framework="numpy")
            seen = storage.end()
            struck.append(bool(seen["struck"]))
            assert seen["served"] in (2, 3, 4)
    assert struck[:8] == struck[8:]
    assert len(set(struck)) == 2


def test_the_mixed_faults_are_as_rare_as_they_say(model: Model, tmp_path: Path) -> None:
    """Their shares stand in the facts: 2 % that fail, in equal parts, and 0.5 % that stall."""
    shares = [fault.when.probability for fault in MIXED_FAULTS.faults]
    assert sum(shares[:-1]) == pytest.approx(0.02)
    assert shares[-1] == 0.005
    with FaultyStore("x", tmp_path / "cache", MIXED_FAULTS) as storage:
        storage.place(model, say_nothing)
        assert storage.facts().mount["faults"] == "Status 0.67 %, Reset 0.67 %, CloseEarly 0.67 %, Stall 0.5 %"


def test_a_late_server_has_an_index_for_shards(tmp_path: Path) -> None:
    """It serves a model of many files through its index alone, and what a receiver saw of the delay is in the facts."""
    deep = make_deep_model("llama-tiny", tmp_path, layers=6, files=6)
    with FaultyStore("x", tmp_path / "cache", first_byte_s=0.005) as storage:
        storage.place(deep, say_nothing)
        placed, facts = storage.begin(0), storage.facts()
        assert [uri.rpartition("/")[2] for uri in placed.uris] == [INDEX]
        assert take(storage).verified
        assert storage.end()["struck"] == {}
    assert (facts.emulated, facts.limits) == (True, {"first_byte_s": 0.005})
    assert facts.held["first_byte_s"] >= 0.005


def test_a_deep_model_has_layers_beyond_its_layout(tmp_path: Path) -> None:
    """It is written once, beside the layout's own model, and says how many layers and files it has."""
    told: list[str] = []

    def tell(what: str, done: int, total: int) -> None:
        told.append(what)

    first = make_deep_model("llama-tiny", tmp_path, layers=6, files=3, report=tell)
    written = {file: file.stat().st_mtime_ns for file in first.files}
    again = make_deep_model("llama-tiny", tmp_path, layers=6, files=3)
    assert told
    assert again == first
    assert {file: file.stat().st_mtime_ns for file in again.files} == written
    assert (first.facts.name, first.facts.layers, first.facts.files) == ("llama-tiny", 6, 3)
    assert first.facts.tensors == 3 + 9 * 6


def test_where_slipstream_lies(tmp_path: Path, model: Model) -> None:
    """It is the folder that slipstream is imported from, and holds no model."""
    with Environment("environment") as storage:
        with pytest.raises(StorageUnavailableError, match="holds no model"):
            storage.place(model, say_nothing)
        storage.place(no_model(tmp_path), say_nothing)
        storage.prepare(os.getpid())
        assert storage.begin(0).uris == ()
        assert Path(storage.facts().uri) / "slipstream" == Path(slipstream.__file__).parent.resolve()


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=lambda experiment: experiment.name)
def test_every_storage_of_an_experiment_has_its_name(experiment: Experiment, tmp_path: Path) -> None:
    """What an experiment names can be made, under that name, and starts nothing yet."""
    for name in experiment.storages:
        assert name in DEFAULTS
        assert make(name, tmp_path).name == name
    assert list(tmp_path.iterdir()) == []


def test_what_is_limited_differs_in_nothing_else(tmp_path: Path) -> None:
    """The limited and the paced servers have the limits that their names say."""
    rates = {}
    for name in ("http", "https", "http-limited", "http-paced", "https-paced"):
        storage = make(name, tmp_path)
        assert isinstance(storage, RangeStore)
        assert storage.tls == name.startswith("https")
        assert replace(storage.limits, connection_bytes_per_s=None) == NO_LIMITS
        rates[name] = storage.limits.connection_bytes_per_s
    assert rates == {"http": None, "https": None, "http-limited": 90_000_000, "http-paced": 40_000_000,
                     "https-paced": 40_000_000}  # fmt: skip


def test_the_range_server_is_ended_with_its_storage(model: Model, tmp_path: Path) -> None:
    """After the storage nobody listens any more."""
    with FaultyStore("x", tmp_path / "cache") as storage:
        storage.place(model, say_nothing)
        storage.begin(0)
        server = storage._server
        assert isinstance(server, RangeServer)
    assert not Path("/proc", str(server.pid)).exists()
