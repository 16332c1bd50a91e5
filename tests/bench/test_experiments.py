"""The published benchmark's experiments are as published, and every row of every experiment can be asked for."""

from __future__ import annotations

import pytest

from slipstream.bench.experiments import EXPERIMENTS, GROUPS, Entry, Experiment, find_experiments
from slipstream.bench.report.published import read_published
from slipstream.bench.storages.choice import DEFAULTS
from slipstream.bench.takers import TAKERS
from slipstream.errors import UsageError

SWEEPS = {"runai": "concurrency", "tensorizer": "num_readers"}
DOCUMENT = ("gp3", "io2", "s3")


def levels(experiment: Experiment, contender: str, setting: str) -> list[object]:
    return [
        entry.settings[setting]
        for entry in experiment.entries
        if entry.contender == contender and setting in entry.settings
    ]


@pytest.mark.parametrize("name", DOCUMENT)
@pytest.mark.parametrize("contender", SWEEPS)
def test_sweeps_are_the_documents(name: str, contender: str) -> None:
    """Concurrencies and numbers of readers are those of the published tables, in their order."""
    table = read_published().table(name, name, contender)
    assert table is not None
    assert levels(EXPERIMENTS[name], contender, SWEEPS[contender]) == [cell.at for cell in table.cells]


@pytest.mark.parametrize("name", DOCUMENT)
def test_slipstream_is_swept_as_its_peer_is(name: str) -> None:
    """slipstream has exactly the rows of the Run:ai streamer: no setting is tried for it alone."""
    ours, theirs = (
        [entry.settings for entry in EXPERIMENTS[name].entries if entry.contender == contender]
        for contender in ("slipstream", "runai")
    )
    assert ours == theirs


@pytest.mark.parametrize("name", DOCUMENT)
def test_everyone_is_measured_as_they_come(name: str) -> None:
    """Every loader has a row without settings, which a short run has too, beside a plain reader."""
    experiment = EXPERIMENTS[name]
    loaders = {entry.contender for entry in experiment.entries} - {"floor"}
    plain = {entry.contender for entry in experiment.entries if not entry.settings and entry.quick}
    assert plain == loaders
    assert any(entry.contender == "floor" and entry.quick for entry in experiment.entries)


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=lambda experiment: experiment.name)
def test_every_row_can_be_asked_for(experiment: Experiment) -> None:
    """Contenders and settings are known, no two rows have one name, and every storage can be emulated."""
    rows = [TAKERS[experiment.kind].describe(experiment, entry) for entry in experiment.entries]
    names = [(row.entry.contender, row.label) for row in rows]
    assert len(set(names)) == len(names)
    assert set(experiment.storages) <= set(DEFAULTS)
    assert all(set(entry.storages) <= set(experiment.storages) for entry in experiment.entries)


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=lambda experiment: experiment.name)
def test_a_short_run_measures_slipstream(experiment: Experiment) -> None:
    """Every experiment has a row of slipstream in a short run."""
    assert any(entry.contender == "slipstream" and entry.quick for entry in experiment.entries)


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=lambda experiment: experiment.name)
def test_targets_are_of_rows_that_there_are(experiment: Experiment) -> None:
    """A target names rows and storages of its own experiment, asks it of slipstream, and has one bound."""
    for target in experiment.targets:
        assert target.of
        assert {entry.contender for entry in target.of} == {"slipstream"}
        assert all(entry in experiment.entries for entry in (*target.of, *target.against))
        assert {target.storage, target.against_storage} - {""} <= set(experiment.storages)
        assert target.storage or len(experiment.storages) == 1
        assert (target.most is None) != (target.least is None)


def test_groups_have_every_experiment() -> None:
    """Each experiment is in one group: the document's, those of the disk, those of the network."""
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(EXPERIMENTS)


def test_a_setting_that_there_is_not_is_found_when_planning() -> None:
    """A row with a setting that its contender lacks is refused before anything is measured."""
    with pytest.raises(UsageError, match="has no setting"):
        TAKERS["load"].describe(EXPERIMENTS["gp3"], Entry(contender="runai", settings={"num_readers": 1}))


def test_all_is_every_experiment_of_the_document() -> None:
    """`all` stands for the document's experiments, and a name that is given twice counts once."""
    found = [experiment.name for experiment in find_experiments(["s3", "all", "s3"])]
    assert found == ["s3", "gp3", "io2", "vllm"]


def test_an_unknown_experiment_is_refused() -> None:
    """The error lists those that there are."""
    with pytest.raises(UsageError, match=r'no experiment "gp4"; there are gp3, io2, s3'):
        find_experiments(["gp4"])
