"""The experiments are those of the published benchmark, and every row of them can be asked for."""

from __future__ import annotations

import pytest

from slipstream.bench.experiments import EXPERIMENTS, Entry, Experiment, find_experiments
from slipstream.bench.report.published import read_published
from slipstream.bench.storages.choice import DEFAULTS
from slipstream.bench.takers import TAKERS
from slipstream.errors import UsageError

SWEEPS = {"runai": "concurrency", "tensorizer": "num_readers"}
LOADS = [experiment for experiment in EXPERIMENTS.values() if experiment.kind == "load"]


def levels(experiment: Experiment, contender: str, setting: str) -> list[object]:
    return [
        entry.settings[setting]
        for entry in experiment.entries
        if entry.contender == contender and setting in entry.settings
    ]


@pytest.mark.parametrize("name", ["gp3", "io2", "s3"])
@pytest.mark.parametrize("contender", SWEEPS)
def test_sweeps_are_the_documents(name: str, contender: str) -> None:
    """Concurrencies and numbers of readers are those of the published tables, in their order."""
    table = read_published().table(name, name, contender)
    assert table is not None
    assert levels(EXPERIMENTS[name], contender, SWEEPS[contender]) == [cell.at for cell in table.cells]


@pytest.mark.parametrize("name", ["gp3", "io2", "s3"])
def test_slipstream_is_swept_as_its_peer_is(name: str) -> None:
    """slipstream has exactly the rows of the Run:ai streamer: no setting is tried for it alone."""
    ours, theirs = (
        [entry.settings for entry in EXPERIMENTS[name].entries if entry.contender == contender]
        for contender in ("slipstream", "runai")
    )
    assert ours == theirs


@pytest.mark.parametrize("experiment", LOADS, ids=lambda experiment: experiment.name)
def test_everyone_is_measured_as_they_come(experiment: Experiment) -> None:
    """Every loader has a row without settings, which a short run has too, beside a plain reader."""
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


def test_a_setting_that_there_is_not_is_found_when_planning() -> None:
    """A row with a setting that its contender lacks is refused before anything is measured."""
    with pytest.raises(UsageError, match="has no setting"):
        TAKERS["load"].describe(EXPERIMENTS["gp3"], Entry(contender="runai", settings={"num_readers": 1}))


def test_all_is_every_experiment_of_the_document() -> None:
    """`all` stands for the document's experiments, and a name that is given twice counts once."""
    found = [experiment.name for experiment in find_experiments(["s3", "all", "s3"])]
    assert found[0] == "s3"
    assert set(found) >= {"gp3", "io2", "s3"}
    assert len(set(found)) == len(found)


def test_an_unknown_experiment_is_refused() -> None:
    """The error lists those that there are."""
    with pytest.raises(UsageError, match=r'no experiment "gp4"; there are gp3, io2, s3'):
        find_experiments(["gp4"])
