"""Two files of results: what got slower or faster, and what only scattered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from random import Random
from typing import Any

import pytest

from slipstream.bench.records import Record
from slipstream.bench.report import noise
from slipstream.bench.report.compare import Comparison, Difference, as_json, compare_results
from slipstream.bench.report.noise import measure_shift, typical_scatter
from tests.bench.synthetic_results import GP3, MACHINE, gp3, lost, make_record


def samples(contender: str, *seconds: float, run: str = "run", **others: Any) -> list[Record]:
    return [make_record(contender, seconds=s, round_=n, run=run, **others) for n, s in enumerate(seconds)]


def only(comparison: Comparison, contender: str = "slipstream") -> Difference:
    (found,) = [each for each in comparison.differences if each.key.contender == contender]
    return found


def compare(before: Sequence[Record], after: Sequence[Record], **how: Any) -> Comparison:
    return compare_results(before, after, **how)


@pytest.mark.parametrize(("before", "after"), [(1, 1), (3, 3), (2, 5), (4, 6), (5, 5)])
def test_orders_are_counted_right(before: int, after: int) -> None:
    """The distribution behind the interval is that of all orders, counted one by one."""
    counts: dict[int, int] = {}
    for places in combinations(range(before + after), before):
        others = [n for n in range(before + after) if n not in places]
        wrong = sum(first > second for first in places for second in others)
        counts[wrong] = counts.get(wrong, 0) + 1
    assert counts == {n: noise._ways(before, after, n) for n in range(before * after + 1)}


@pytest.mark.parametrize(("before", "after", "rank"), [(2, 4, 0), (2, 5, 1), (3, 3, 1), (5, 5, 5), (10, 10, 28)])
def test_interval_is_that_of_the_tables(before: int, after: int, rank: int) -> None:
    """The rank is one more than the published critical value of the Mann-Whitney test at 10 %, two-sided."""
    assert noise._rank(before, after, 0.9) == rank


def test_many_samples_go_by_the_normal_distribution() -> None:
    """Beyond the exact distribution the interval goes on without a jump."""
    exact, approximate = noise._rank(20, 20, 0.9), noise._rank(21, 20, 0.9)
    assert 0 <= approximate - exact <= 10


def test_interval_covers_the_truth() -> None:
    """Over many draws of three and three samples the interval holds the true ratio nine times in ten."""
    random = Random(4)
    hits = 0
    for _ in range(2000):
        before = [random.lognormvariate(0, 0.1) for _ in range(3)]
        after = [1.2 * random.lognormvariate(0, 0.1) for _ in range(3)]
        shift = measure_shift(before, after)
        assert shift.low is not None
        assert shift.high is not None
        hits += shift.low <= 1.2 <= shift.high
    assert 0.88 <= hits / 2000 <= 0.93


@pytest.mark.parametrize(("deviation", "count"), [(0.02, 3), (0.05, 3), (0.1, 5)])
def test_noise_is_no_difference(deviation: float, count: int) -> None:
    """Where nothing changed, fewer than one comparison in a hundred says slower or faster."""
    random = Random(5)

    def draw() -> list[float]:
        return [random.lognormvariate(0, deviation) for _ in range(count)]

    wrong = 0
    for _ in range(1000):
        sets = [draw() for _ in range(10)]
        shift = measure_shift(sets[0], sets[1], scatter=typical_scatter(sets))
        wrong += shift.judge() in ("slower", "faster")
    assert wrong <= 10


@pytest.mark.parametrize(("deviation", "count", "effect"), [(0.02, 3, 1.2), (0.05, 5, 1.4), (0.05, 10, 1.2)])
def test_differences_are_found(deviation: float, count: int, effect: float) -> None:
    """Differences well above the scatter are found nearly always."""
    random = Random(6)
    found = 0
    for _ in range(300):
        sets = [[random.lognormvariate(0, deviation) for _ in range(count)] for _ in range(10)]
        shift = measure_shift(sets[0], [effect * each for each in sets[1]], scatter=typical_scatter(sets))
        found += shift.judge() == "slower"
    assert found >= 290


def test_scatter_is_the_typical_one() -> None:
    """One wild set among many does not count, and a set of one sample says nothing."""
    random = Random(7)
    sets = [[random.lognormvariate(0, 0.03) for _ in range(3)] for _ in range(200)]
    assert typical_scatter(sets) == pytest.approx(0.03, rel=0.15)
    assert typical_scatter([*sets, [1.0, 50.0, 0.01]]) == pytest.approx(typical_scatter(sets), rel=0.02)
    assert typical_scatter([[1.0], [2.0]]) == 0.0


def test_slower_and_faster() -> None:
    """A loader whose samples all moved by more than their scatter got slower, or the other way round faster."""
    before = samples("slipstream", 1.00, 1.01, 0.99)
    after = samples("slipstream", 1.21, 1.19, 1.20)
    found = only(compare(before, after))
    assert found.change == "slower"
    assert found.shift is not None
    assert found.shift.ratio == pytest.approx(1.2)
    assert found.shift.low == pytest.approx(1.19 / 1.01)
    assert found.shift.high == pytest.approx(1.21 / 0.99)
    assert (found.before_s, found.after_s, found.samples) == (1.0, 1.2, (3, 3))
    assert only(compare(after, before)).change == "faster"
    assert [each.key.contender for each in compare(before, after).slower] == ["slipstream"]
    assert compare(after, before).slower == ()


def test_small_and_equal_differences() -> None:
    """A difference below the least that counts is none, however sure; equal samples are the same."""
    before = samples("slipstream", 1.00, 1.001, 0.999)
    after = samples("slipstream", 1.03, 1.031, 1.029)
    assert only(compare(before, after)).change == "same"
    assert only(compare(before, after, least_effect=0.02)).change == "slower"
    assert only(compare(before, before)).change == "same"


def test_few_samples_cannot_tell() -> None:
    """With one or two samples on a side nothing is said, whatever the ratio, and a note says why."""
    comparison = compare(samples("slipstream", 1.0, 1.0), samples("slipstream", 3.0, 3.0))
    assert only(comparison).change == "cannot tell"
    assert any("fewer than three samples" in warning for warning in comparison.warnings)
    assert comparison.slower == ()


def test_wide_scatter_cannot_tell() -> None:
    """Three samples that happen to lie apart are no proof where everything beside them scatters as much."""
    before, after = samples("slipstream", 1.00, 1.01, 1.02), samples("slipstream", 1.10, 1.11, 1.12)
    assert only(compare(before, after)).change == "slower"
    wild = [each for name in ("a", "b", "c") for each in samples(name, 1.0, 1.3, 0.8)]
    assert only(compare([*before, *wild], [*after, *wild])).change == "cannot tell"


def test_what_the_machine_did_is_not_the_loaders() -> None:
    """A loader that got slower exactly as the floor and the unchanged peers did got so with the machine."""
    before = [*samples("slipstream", 1.0, 1.01, 0.99), *samples("runai", 2.0, 2.02, 1.98)]
    before += samples("floor", 0.9, 0.91, 0.89)
    after = [replace(each, figures=replace(each.figures, seconds=1.3 * each.figures.seconds)) for each in before
             if each.figures]  # fmt: skip
    comparison = compare(before, after)
    assert only(comparison).change == "with the machine"
    assert only(comparison).drift == pytest.approx(1.3)
    assert comparison.slower == ()
    absolute = compare(before, after, absolute=True)
    assert {each.change for each in absolute.differences} == {"slower"}
    assert len(absolute.slower) == 3


def test_slower_than_the_machine_got() -> None:
    """A loader that lost much more than the controls did is slower all the same."""
    before = [*samples("slipstream", 1.0, 1.01, 0.99), *samples("floor", 0.9, 0.91, 0.89)]
    after = [*samples("slipstream", 1.5, 1.51, 1.49), *samples("floor", 0.99, 1.0, 0.98)]
    assert only(compare(before, after)).change == "slower"


def test_behind_a_machine_that_got_faster() -> None:
    """A loader that stayed where it was while the controls got faster is said to have fallen behind."""
    before = [*samples("slipstream", 1.0, 1.01, 0.99), *samples("floor", 0.9, 0.91, 0.89)]
    after = [*samples("slipstream", 1.0, 1.01, 0.99), *samples("floor", 0.6, 0.61, 0.59)]
    comparison = compare(before, after)
    assert only(comparison).change == "behind the machine"
    assert comparison.slower == ()


def test_another_version_is_no_control() -> None:
    """A peer of another version is compared, counts, and is not what others are held against."""
    before, after = samples("runai", 1.0, 1.01, 0.99), samples("runai", 1.3, 1.31, 1.29, versions={"runai": "0.18"})
    found = only(compare(before, after), "runai")
    assert (found.is_control, found.change) == (False, "slower")
    assert len(compare(before, after).slower) == 1
    same = samples("runai", 1.3, 1.31, 1.29)
    assert only(compare(before, same), "runai").is_control
    assert compare(before, same).slower == ()


def test_what_no_longer_runs_counts() -> None:
    """A loader that had figures and now fails got worse, with its reason; one that now runs did not."""
    before = samples("slipstream", 1.0, 1.0, 1.0)
    after = [lost(each, "failed", "403 from the store") for each in before]
    comparison = compare(before, after)
    assert (only(comparison).change, only(comparison).reason) == ("no longer runs", "403 from the store")
    assert len(comparison.slower) == 1
    back = compare(after, before)
    assert only(back).change == "runs now"
    assert back.slower == ()


def test_only_in_one_file() -> None:
    """What was measured in one of the files alone is listed, and compared with nothing."""
    comparison = compare(
        samples("slipstream", 1.0), samples("slipstream", 1.0, model=replace(make_record("x").model, layers=4))
    )
    assert comparison.differences == ()
    assert comparison.only_before == ("gp3, gp3: slipstream, defaults",)
    assert len(comparison.only_after) == 1


def test_other_circumstances_are_noted() -> None:
    """Another machine, other limits of a storage and other settings behind a label are named."""
    before = samples("slipstream", 1.0, 1.0, 1.0)
    after = samples(
        "slipstream", 1.0, 1.0, 1.0, machine={**MACHINE, "kernel": "7.0"}, storage=replace(GP3, limits={"iops": 1.0}),
        settings={"hedge": False},
    )  # fmt: skip
    found = " ".join(compare(before, after).warnings)
    for words in ("kernel 6.18.5 and 7.0", "other limits", "settings behind this label"):
        assert words in found
    assert compare(before, before).warnings == ()


def test_a_whole_experiment() -> None:
    """Of a whole experiment with slipstream a fifth slower, exactly slipstream's settings are found."""
    comparison = compare(gp3(run="a", seed=1), gp3(run="b", seed=2, slower=1.2))
    assert {each.key.contender for each in comparison.slower} == {"slipstream"}
    assert len(comparison.slower) == 5
    assert len(comparison.differences) == 22  # all but the loader that cannot run here
    assert compare(gp3(run="a", seed=1), gp3(run="b", seed=3)).slower == ()


def test_json_holds_the_same() -> None:
    """The JSON value has each difference with its key, its bounds and its verdict."""
    data = as_json(compare(samples("slipstream", 1.00, 1.01, 0.99), samples("slipstream", 1.21, 1.19, 1.20)))
    (found,) = data["differences"]
    assert data["slower"] == 1
    assert (found["contender"], found["change"], found["samples"]) == ("slipstream", "slower", [3, 3])
    assert found["ratio"] == pytest.approx(1.2)
    assert found["low"] < found["ratio"] < found["high"]
    assert found["noise"] > 0
    assert found["cpu_change"] == "same"
