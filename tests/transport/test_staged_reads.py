"""Ranges that are read into slots: a range that is read twice at once has one slot, whoever of the two lives longer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy
import pytest

import slipstream
from slipstream.testing.late_copies import LateCopier
from slipstream.testing.range_faults import CloseEarly, Delay, Hold, Reset, Stall, Status
from slipstream.testing.range_schedule import Faults, When
from tests.endings.sample import as_bytes
from tests.staging.conftest import accelerated as accelerated
from tests.staging.conftest import late as late
from tests.transport.serving import PATIENT, Served, quick
from tests.transport.test_hedging import HEDGING, LATE

STAGED = replace(HEDGING, staging=True, ring_bytes=1 << 20)


@pytest.fixture(params=["host", "late", "accelerated"])
def way(request: pytest.FixtureRequest) -> str:
    """Each way to where tensors stand."""
    if request.param != "host":
        request.getfixturevalue(request.param)
    return str(request.param)


def load_whole(served: Served, options: slipstream.Options) -> slipstream.LoadStats:
    with slipstream.stream(served.url, options=options, storage_options=served.storage_options) as stream:
        assert as_bytes(stream) == served.tensors
        return stream.stats()


def test_over_http_and_tls(served: Served, way: str) -> None:
    """A load through a ring has every byte, over HTTP and TLS."""
    stats = load_whole(served, STAGED)
    assert stats.copies > 30
    assert 0 < stats.ring_bytes <= 1 << 20


@pytest.mark.parametrize(
    "fault",
    [Stall(when=When(numbers=LATE)), Stall(0, when=When(numbers=LATE)), Stall(30_000, when=When(numbers=LATE))],
    ids=["before the head", "before the body", "in the body"],
)
def test_stragglers(plain: Served, fault: Any, way: str) -> None:
    """A second request goes on in the slot of the first, from where that is, and every byte is right."""
    plain.server.set_faults(Faults(fault))
    stats = load_whole(plain, STAGED)
    assert stats.hedged >= 2
    assert stats.retries == 0


def test_many_stragglers(plain: Served, way: str) -> None:
    """Where answers of all lengths stall again and again, no slot is used by two chunks at once, and none is lost."""
    numbers = tuple(range(12, 400, 9))
    plain.server.set_faults(Faults(Stall(1_000, when=When(numbers=numbers)), Delay(0.001)))
    how = quick(hedge=True, chunk_bytes=8192, concurrency=8, stall_timeout_s=0.6, retries=1000)
    assert load_whole(plain, replace(how, staging=True, ring_bytes=200_000)).hedged


def test_the_first_breaks_after_the_second_has_begun(plain: Served, way: str) -> None:
    """What the straggler had read stays in the slot for the second request, though the straggler fails."""
    plain.server.set_faults(
        Faults(Stall(30_000, when=When(numbers=LATE)), Reset(5_000, when=When(first_attempts=1, probability=0.3)))
    )
    how = quick(hedge=True, stall_timeout_s=0.7, concurrency=4, retries=1000)
    stats = load_whole(plain, replace(how, staging=True, ring_bytes=1 << 20))
    assert stats.hedged or stats.retries


def test_healed_faults(served: Served, way: str) -> None:
    """Resets, short bodies and refusals are healed inside a slot as they are elsewhere."""
    served.server.set_faults(
        Faults(
            Reset(10_000, when=When(numbers=(13, 14))),
            CloseEarly(10_000, when=When(numbers=(16, 17))),
            Status(503, when=When(numbers=(20, 21))),
        )
    )
    stats = load_whole(served, replace(STAGED, hedge=False))
    assert stats.retries >= 6


def test_a_failure_gives_slots_back(plain: Served, way: str) -> None:
    """A blob that can no longer be read ends the load with the store's answer, though every slot is in use."""
    plain.server.set_faults(Faults(Status(404, when=When(after=20))))
    with pytest.raises(slipstream.SlipstreamError, match="404"):
        load_whole(plain, replace(STAGED, ring_bytes=200_000, concurrency=8))


def test_left_while_all_is_held(plain: Served, way: str) -> None:
    """Leaving the block while every request hangs ends them at once."""
    plain.server.set_faults(Faults(Hold(when=When(after=1))))
    how = replace(PATIENT, staging=True, ring_bytes=200_000, concurrency=8)
    with slipstream.stream(plain.url, options=how):
        plain.server.wait_held(2)
    plain.server.release()


def test_the_loser_writes_nothing_into_what_was_handed_out(plain: Served) -> None:
    """A tensor belongs to the caller from its delivery on: an answer that comes later does not change it."""
    plain.server.set_faults(Faults(Hold(10_000, when=When(numbers=LATE))))
    mine = []
    with slipstream.stream(plain.url, framework="numpy", options=STAGED) as stream:
        for _, tensor in stream:
            assert isinstance(tensor, numpy.ndarray)
            tensor[...] = 0x5A
            mine.append(tensor)
            if stream.stats().hedged:
                plain.server.release()
        assert stream.stats().hedged >= 1
    plain.server.release()
    plain.server.wait_open_connections(0)
    assert len(mine) == len(plain.tensors)
    assert all((tensor == 0x5A).all() for tensor in mine)


def test_late_copies_of_ranges_were_late(plain: Served, late: list[LateCopier]) -> None:
    """The tests above would mean nothing if copies were done as they were asked for."""
    load_whole(plain, STAGED)
    assert late[0].swapped > 5
