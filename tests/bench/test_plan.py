"""What a run takes, in which order, and what it leaves out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from slipstream.bench.estimate import Estimate
from slipstream.bench.experiments import Entry, Experiment
from slipstream.bench.models import Model
from slipstream.bench.plan import PlannedSample, Row, Stage, choose_entries, leave_out, plan_stages, turns
from slipstream.bench.records import Figures, ModelFacts, Record, StorageFacts

FACTS = ModelFacts(name="tiny", layers=None, nbytes=1000, tensors=3, files=1)
MODEL = Model(name="tiny", layers=None, files=(), cache=Path("/"), facts=FACTS)
ENTRIES = tuple(Entry(contender=name, quick=name != "c") for name in ("a", "b", "c", "floor"))
EXPERIMENT = Experiment(name="trial", title="", storages=("x", "y"), entries=ENTRIES)
ROWS = [Row(entry=entry, label="defaults", role="floor" if entry.contender == "floor" else "peer") for entry in ENTRIES]


def stages_of(experiment: Experiment = EXPERIMENT, *, repeats: int = 3) -> list[Stage]:
    return plan_stages(
        experiment,
        MODEL,
        ROWS,
        storage_names={"x": "x", "y": "y unthrottled"},
        repeats=repeats,
        destination="cuda:0",
    )


def record_of(planned: PlannedSample, *, status: str = "ok", wall_s: float | None = None) -> Record:
    return Record(
        run="r",
        taken_at="2026-01-01T00:00:00+00:00",
        experiment=planned.experiment.name,
        storage=StorageFacts(name=planned.storage_name, kind="directory", emulated=False, uri="/"),
        contender=planned.row.entry.contender,
        label=planned.row.label,
        settings={},
        role=planned.row.role,
        round=planned.round,
        destination=planned.destination,
        model=FACTS,
        status=status,  # type: ignore[arg-type]
        figures=Figures(seconds=1.0) if status == "ok" else None,
        notes={} if wall_s is None else {"wall_s": wall_s},
    )


@pytest.mark.parametrize("rounds", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_all_take_turns(rounds: int, count: int) -> None:
    """In each round every row comes once; and with as many rows as rounds, each begins with another one."""
    taken = list(turns([*range(count)], rounds))
    for number in range(rounds):
        assert sorted(row for of, row in taken if of == number) == [*range(count)]
    firsts = [row for position, (_, row) in enumerate(taken) if position % count == 0]
    assert len(set(firsts)) == min(rounds, count)


def test_storages_come_one_after_another() -> None:
    """Each storage is a stage of its own, whose samples are taken in turns."""
    first, second = stages_of()
    assert (first.storages, second.storages) == (("x",), ("y",))
    assert [sample.row.entry.contender for sample in first.samples[:8]] == [*"ab", "c", "floor", *"bc", "floor", "a"]
    assert {sample.storage_name for sample in second.samples} == {"y unthrottled"}


def test_storages_together_are_taken_in_turns() -> None:
    """Rows that are compared across storages are taken in turns across them, from those storages that they name."""
    entries = (ENTRIES[0], replace(ENTRIES[1], storages=("y",)))
    experiment = replace(EXPERIMENT, together=True, entries=entries)
    rows = [replace(ROWS[0], entry=entries[0]), replace(ROWS[1], entry=entries[1])]
    (stage,) = plan_stages(experiment, MODEL, rows, storage_names={"x": "x", "y": "y"}, repeats=1, destination="cpu")
    assert stage.storages == ("x", "y")
    taken = [(sample.row.entry.contender, sample.storage) for sample in stage.samples]
    assert taken == [("a", "x"), ("a", "y"), ("b", "y")]


def test_plain_readers_read_to_the_host() -> None:
    """The floor of a run to a GPU is what is read to host memory."""
    (first, _) = stages_of()
    destinations = {sample.row.entry.contender: sample.destination for sample in first.samples}
    assert destinations == {"a": "cuda:0", "b": "cuda:0", "c": "cuda:0", "floor": "cpu"}


def test_a_run_goes_on_where_it_was() -> None:
    """What has a figure is left out, in whatever order it was taken; a failed or unavailable sample is not."""
    stages = stages_of()
    samples = [sample for stage in stages for sample in stage.samples]
    measured = samples[:12] + samples[15:16]
    records = [record_of(sample) for sample in measured]
    records += [record_of(samples[13], status="failed"), record_of(samples[14], status="unavailable")]
    (left,) = leave_out(stages, records)
    assert left.storages == ("y",)
    assert list(left.samples) == [sample for sample in samples if sample not in measured]


def test_a_run_that_is_complete_has_nothing_left() -> None:
    """No stage is left, so no storage is opened."""
    stages = stages_of()
    assert leave_out(stages, [record_of(sample) for stage in stages for sample in stage.samples]) == []


def test_more_repeats_leave_the_earlier_ones_as_they_are() -> None:
    """A third repeat of what was measured twice is one sample of each row."""
    twice = [record_of(sample) for stage in stages_of(repeats=2) for sample in stage.samples]
    left = [sample for stage in leave_out(stages_of(repeats=3), twice) for sample in stage.samples]
    assert Counter(sample.round for sample in left) == {2: 8}


@pytest.mark.parametrize("change", [{"nbytes": 1001}, {"tensors": 4}, {"layers": 2}, {"name": "other"}])
def test_another_model_is_measured_of_its_own(change: dict[str, int | str]) -> None:
    """Figures of another model count for nothing, even where it has the same name."""
    stages = stages_of()
    records = [
        replace(record_of(sample), model=replace(FACTS, **change))  # type: ignore[arg-type]
        for stage in stages
        for sample in stage.samples
    ]
    assert leave_out(stages, records) == stages


def test_a_short_run_and_a_choice_of_contenders() -> None:
    """A short run has the rows that say so; a choice of contenders has all of theirs."""
    assert [entry.contender for entry in choose_entries(EXPERIMENT, contenders=None, quick=True)] == ["a", "b", "floor"]
    assert [entry.contender for entry in choose_entries(EXPERIMENT, contenders=["c"], quick=False)] == ["c"]
    assert choose_entries(EXPERIMENT, contenders=["c"], quick=True) == []


def test_what_is_left_is_estimated_from_what_was_taken() -> None:
    """A row is expected to take what it took, all around its timed part; an unknown one, what the others took."""
    estimate = Estimate()
    (stage, _) = stages_of(repeats=1)
    a, b, c, floor = stage.samples
    assert estimate.left_s([a, b]) is None
    estimate.learn(record_of(a, wall_s=10.0))
    estimate.learn(record_of(replace(a, round=1), wall_s=20.0))
    estimate.learn(record_of(b, wall_s=3.0))
    estimate.learn(record_of(c, status="failed"))
    assert estimate.left_s([a]) == 15.0
    assert estimate.left_s([a, b]) == 18.0
    assert estimate.left_s([floor]) == 11.0
    assert estimate.left_s([]) == 0.0
