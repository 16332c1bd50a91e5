"""What is asked of slipstream is judged by the records alone: reached, missed, or not measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from slipstream.bench.experiment import Entry, Experiment, Target
from slipstream.bench.experiments import EXPERIMENTS
from slipstream.bench.records import ModelFacts, Record, Setting, StorageFacts
from slipstream.bench.targets import Verdict, judge_targets
from tests.bench.synthetic_results import MACHINE, WHOLE, lost, make_record

DISK = StorageFacts(name="disk", kind="directory", emulated=False, uri="/")
MODEL = ModelFacts(name="ten", layers=None, nbytes=10_000_000_000, tensors=100, files=1)
COLD = EXPERIMENTS["cold"]


def sample(
    contender: str,
    seconds: float,
    settings: Mapping[str, Setting] | None = None,
    *,
    experiment: str = "cold",
    storage: str = "disk",
    **others: Any,
) -> Record:
    label = ", ".join(f"{name} {value}" for name, value in (settings or {}).items()) or "defaults"
    others = {"model": MODEL, "storage": replace(DISK, name=storage), **others}
    return make_record(contender, label, seconds=seconds, experiment=experiment, settings=settings, **others)


def only_verdicts(experiment: Experiment, records: list[Record]) -> dict[str, Verdict]:
    (judgement,) = judge_targets(experiment, records)
    return {verdict.target.text: verdict for verdict in judgement.verdicts}


def floor(seconds: float, threads: int) -> Record:
    return sample("floor", seconds, {"method": "direct", "threads": threads})


def test_figures_are_of_the_fastest_peer_and_floor() -> None:
    """A ratio takes the median of the fastest of the rows that it names, whichever that is."""
    records = [
        sample("slipstream", 4.0),
        sample("slipstream", 5.0, {"strategy": "direct"}),
        sample("runai", 9.0),
        sample("safetensors", 5.0),
        floor(4.5, 8),
        floor(3.9, 16),
    ]
    found = only_verdicts(COLD, records)
    assert found["time / the best peer's"].measured == pytest.approx(0.8)
    assert found["throughput / the raw floor's"].measured == pytest.approx(3.9 / 4)
    assert found["direct: throughput / the raw floor's"].measured == pytest.approx(3.9 / 5)
    assert found["CPU seconds per GB"].measured == pytest.approx(0.1)
    words = [verdict.word for verdict in found.values()]
    assert words == ["reached", "reached", "reached", "missed"]


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    """A target is not measured where a row that it takes is missing, failed, or cannot run."""
    ours = sample("slipstream", 1.0)
    found = only_verdicts(COLD, [ours, lost(sample("runai", 1.0), "unavailable", "not installed")])
    assert found["time / the best peer's"].word == "not measured"
    assert found["CPU seconds per GB"].word == "reached"
    (judgement,) = judge_targets(COLD, [lost(ours, "failed", "it stopped")])
    assert {verdict.word for verdict in judgement.verdicts} == {"not measured"}


def test_other_settings_and_experiments_do_not_count() -> None:
    """A row is told by its settings: nobody else's figure passes for it, nor one of another experiment."""
    records = [
        sample("slipstream", 1.0, {"concurrency": 4}),
        sample("slipstream", 1.0, experiment="warm"),
        sample("runai", 2.0),
    ]
    assert only_verdicts(COLD, records)["time / the best peer's"].measured is None


def test_models_and_machines_are_judged_apart() -> None:
    """Records of several models, destinations or machines make a judgement each."""
    base = sample("slipstream", 1.0)
    records = [
        base,
        sample("slipstream", 1.0, model=WHOLE),
        replace(base, destination="cuda:0"),
        replace(base, machine={**MACHINE, "cpu": "another"}),
    ]
    assert len(judge_targets(COLD, records)) == 4


def test_rows_are_compared_across_storages() -> None:
    """The time with faults is divided by that of the same row without them, from another storage."""
    records = [
        sample("slipstream", seconds, experiment="faults", storage=storage, round_=round_)
        for storage, times in (("http-faultless", (2.0, 1.0, 9.0)), ("http-faulty", (3.0, 2.5, 4.0)))
        for round_, seconds in enumerate(times)
    ]
    (verdict,) = only_verdicts(EXPERIMENTS["faults"], records).values()
    assert (verdict.measured, verdict.word) == (1.5, "reached")


def test_memory_is_the_most_of_any_sample() -> None:
    """Of peaks the highest counts, above the tensors' own bytes where a target says so."""
    records = [
        sample("slipstream", 1.0, experiment="http", storage="http", round_=n,
               figures={"peak_memory_bytes": MODEL.nbytes + (mib << 20)})
        for n, mib in enumerate((20, 150, 30))
    ]  # fmt: skip
    verdict = only_verdicts(EXPERIMENTS["http"], records)["peak MiB above the model's size, defaults"]
    assert (verdict.measured, verdict.word) == (150, "missed")


def test_what_moves_no_bytes_has_milliseconds() -> None:
    """Headers and imports are judged by their time, whatever the bytes."""
    for name, settings, storage in (("headers", {}, "http-slow"), ("import", {"by": "importtime"}, "environment")):
        record = sample("slipstream", 0.1, settings, experiment=name, storage=storage, figures={"nbytes": None})
        (verdict,) = only_verdicts(EXPERIMENTS[name], [record]).values()
        assert verdict.measured == pytest.approx(100)
        assert verdict.word == ("reached" if name == "headers" else "missed")


def test_tensors_per_second() -> None:
    """Many small tensors are judged by how many a second are handed out."""
    record = sample("slipstream", 0.5, experiment="small", figures={"tensors": 60_000})
    (verdict,) = only_verdicts(EXPERIMENTS["small"], [record]).values()
    assert (verdict.measured, verdict.word, verdict.bound) == (120_000, "reached", "at least 100,000")


@pytest.mark.parametrize(("measured", "word"), [(1.0, "reached"), (1.01, "missed"), (None, "not measured")])
def test_a_bound_is_reached_exactly(measured: float | None, word: str) -> None:
    """ "At most" and "at least" hold at the bound itself."""
    row = (Entry(contender="slipstream"),)
    assert Verdict(Target(text="", measure="seconds", of=row, most=1.0), measured).word == word
    mirrored = None if measured is None else -measured
    assert Verdict(Target(text="", measure="seconds", of=row, least=-1.0), mirrored).word == word


def test_experiments_without_targets_are_not_judged() -> None:
    """The published experiments ask nothing, so there is no table of verdicts."""
    assert judge_targets(EXPERIMENTS["gp3"], [make_record("slipstream")]) == []
