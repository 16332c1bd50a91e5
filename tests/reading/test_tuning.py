"""The search for the best concurrency, against links that are described by a formula: no clock, no network."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from slipstream.reading.tuning import ConcurrencyTuner

CHUNK = 8 << 20
MB = 1e6


def run(
    rate_at: Callable[[int], float],
    *,
    seconds: float,
    start: int = 8,
    most: int = 128,
    noise: float = 0.0,
    throttles: Callable[[float, int], int] = lambda now, level: 0,
    idle: float = 1.0,
) -> tuple[ConcurrencyTuner, float]:
    """Lets a tuner steer a link for so long; returns it, and the bytes that came. A chunk ends at a time."""
    generator = random.Random(1)
    clock = [0.0]
    tuner = ConcurrencyTuner(start, most, 0.0, lambda: clock[0] * idle)
    now, landed, throttled = 0.0, 0.0, 0
    while now < seconds:
        rate = rate_at(tuner.level) * generator.uniform(1 - noise, 1 + noise)
        now += CHUNK / rate
        landed += CHUNK
        clock[0] = now
        throttled += throttles(now, tuner.level)
        tuner.observe(now, int(landed), CHUNK * tuner.level / rate, throttled, full=True)
        assert 1 <= tuner.level <= most
    return tuner, landed


def cloud(level: int) -> float:
    """90 MB/s for each connection, 10 Gb/s in all."""
    return min(level * 90, 1250) * MB


def fast_cloud(level: int) -> float:
    """90 MB/s for each connection, 25 Gb/s in all."""
    return min(level * 90, 3125) * MB


def small_processor(level: int) -> float:
    """Two connections are best; each further one costs a little."""
    return (1200 if level == 2 else 1150 - 15 * level) * MB


def loopback(level: int) -> float:
    """It does not matter."""
    return 2000 * MB


@pytest.mark.parametrize("link", [cloud, fast_cloud, small_processor, loopback])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_near_the_best(link: Callable[[int], float], noise: float) -> None:
    """A load of ten seconds gets at least nine tenths of what the best fixed number would have got."""
    best = max(link(level) for level in range(1, 129)) * 10
    _, landed = run(link, seconds=10, noise=noise, idle=0.01 if link is small_processor else 1.0)
    assert landed >= 0.9 * best


def test_few_where_more_bring_nothing() -> None:
    """Connections that bring nothing are given up where they cost processor time that is wanted."""
    tuner, _ = run(loopback, seconds=0.9, idle=0.01)
    assert tuner.level <= 4


def test_no_look_at_few_where_processors_are_idle() -> None:
    """A look at half as many connections would cost half the throughput, and gain nothing."""
    least = [128]

    def link(level: int) -> float:
        least[0] = min(least[0], level)
        return cloud(level)

    run(link, seconds=20, start=16)
    assert least[0] == 16


def test_a_pause_ends_no_climb() -> None:
    """A network that stands still for a moment, once in a climb, is looked at again before it passes for full."""
    paused = [False]

    def link(level: int) -> float:
        if level == 32 and not paused[0]:
            paused[0] = True
            return CHUNK / 0.5
        return level * 90 * MB

    tuner, _ = run(link, seconds=3, start=16)
    assert paused[0]
    assert tuner.level == 128


def test_up_to_the_bound() -> None:
    """It never goes beyond the bound, however much more would bring."""
    tuner, _ = run(lambda level: level * 10 * MB, seconds=30, most=32)
    assert tuner.level == 32


def test_a_link_that_gets_faster() -> None:
    """It looks again: a link that was slow at first is filled later."""
    so_far = [0.0]

    def link(level: int) -> float:
        rate = min(level * 90, 400 if so_far[0] < 2e9 else 3000) * MB
        so_far[0] += CHUNK
        return rate

    tuner, _ = run(link, seconds=40)
    assert tuner.level * 90 >= 2700


def test_throttled() -> None:
    """A store that asks for less gets less at once, and does not hear from us again for a while."""
    refused: list[float] = []

    def throttles(now: float, level: int) -> int:
        if level <= 16:
            return 0
        refused.append(now)
        return 1

    tuner, _ = run(fast_cloud, seconds=3, throttles=throttles)
    assert tuner.level <= 16
    assert refused
    assert all(later - earlier > 1.9 or later - earlier < 0.5 for earlier, later in itertools.pairwise(refused))


def test_a_store_that_takes_few_is_soon_understood() -> None:
    """Where nearly all is refused, the level falls in tenths of a second, and not by one step each cool-down."""
    tuner, _ = run(cloud, seconds=1.5, start=32, throttles=lambda now, level: max(level - 3, 0))
    assert tuner.level <= 3


def test_refusals_now_and_then_change_nothing() -> None:
    """A store that refuses one request in a hundred, whatever the level, is not full."""
    requests = [0]

    def throttles(now: float, level: int) -> int:
        requests[0] += 1
        return int(requests[0] % 100 == 0)

    tuner, landed = run(cloud, seconds=60, throttles=throttles)
    _, landed_without = run(cloud, seconds=60)
    assert tuner.level >= 12
    assert landed >= 0.95 * landed_without


def test_throughput_that_falls() -> None:
    """Where a network becomes congested, fewer connections are tried."""
    so_far = [0.0]

    def link(level: int) -> float:
        so_far[0] += CHUNK
        return cloud(level) if so_far[0] < 3e9 else max(1000 - 60 * level, 30) * MB

    tuner, _ = run(link, seconds=60)
    assert tuner.level <= 6


def test_nothing_is_learnt_at_the_end() -> None:
    """Where fewer reads are in flight than allowed, a low rate is no reason to change."""
    tuner = ConcurrencyTuner(8, 128, 0.0, lambda: 0.0)
    for step in range(100):
        tuner.observe(step * 0.1, step, 0.1, 0, full=False)
    assert tuner.level == 8


def test_busy_processors() -> None:
    """Where no processor is idle, connections that bring little are not added, and those that bring much are."""
    few, _ = run(lambda level: (1000 + 15 * level) * MB, seconds=5, idle=0.01)
    many, _ = run(fast_cloud, seconds=5, idle=0.01)
    assert few.level <= 8
    assert many.level >= 24
