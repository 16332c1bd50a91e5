"""A range that takes far longer than its peers is asked for again, and only one of the two answers lands."""

from __future__ import annotations

import time

import numpy
import pytest

import slipstream
from slipstream.testing.range_faults import CloseEarly, Delay, Hold, MaxInFlight, Reset, Stall
from slipstream.testing.range_schedule import Fault, Faults, When
from tests.endings.sample import as_bytes
from tests.transport.serving import FIRST_LOOK_BYTES, PATIENT, Served, quick, sent_bytes, write_model

HEDGING = quick(hedge=True, first_byte_timeout_s=30.0, stall_timeout_s=30.0)
LATE = (20, 30)  # numbers of requests that come when there are peers to compare with


@pytest.mark.parametrize(
    "fault",
    [Stall(when=When(numbers=LATE)), Stall(0, when=When(numbers=LATE)), Stall(30_000, when=When(numbers=LATE))],
    ids=["before the head", "before the body", "in the body"],
)
def test_a_straggler_does_not_hold_the_load_up(served: Served, fault: Fault) -> None:
    """A stalled range is read by another request, long before its timeout, and from where it stalled."""
    served.server.set_faults(Faults(fault))
    began = time.monotonic()
    stats = served.load_whole(HEDGING)
    assert time.monotonic() - began < 10.0
    assert stats.hedged >= 2
    assert stats.retries == 0
    spare = sent_bytes(served.server.requests) - FIRST_LOOK_BYTES - sum(map(len, served.tensors.values()))
    assert spare == 0 or stats.hedged > 2  # a second request begins where the first one stalled


def test_the_load_ends_though_the_last_range_stalls(plain: Served) -> None:
    """With nothing else left to read, a straggler is noticed too."""
    plain.load_whole(HEDGING)
    last = len(plain.server.requests)
    plain.server.reset()
    plain.server.set_faults(Faults(Stall(when=When(numbers=(last - 1, last)))))
    began = time.monotonic()
    assert plain.load_whole(HEDGING).hedged >= 1
    assert time.monotonic() - began < 10.0


def test_a_second_request_that_stalls_too_is_followed_by_a_third(plain: Served) -> None:
    """Where the first two requests of a range stall, the load does not wait for a timeout either."""
    second = write_model(plain.root / "second.safetensors", (50_000,), seed=1, prefix="second-")
    plain.server.set_faults(Faults(Stall(0, when=When(path="second*", after=1, first_attempts=2))))
    began = time.monotonic()
    url = plain.server.url("second.safetensors")
    with slipstream.stream([plain.url, url], framework="numpy", options=HEDGING) as stream:
        assert as_bytes(stream) == {**plain.tensors, **second}
        assert stream.stats().hedged >= 2
    assert time.monotonic() - began < 10.0


def test_no_second_request_where_none_is_wanted(plain: Served) -> None:
    """hedge=False waits for the straggler."""
    plain.server.set_faults(Faults(Hold(when=When(numbers=(20,)))))
    with plain.stream(PATIENT) as stream:
        plain.server.wait_held(1)
        plain.server.wait_requests(40)
        time.sleep(1.0)  # twice as long as a straggler needs to be one
        assert stream.stats().hedged == 0
        plain.server.release()
        assert as_bytes(stream) == plain.tensors


@pytest.mark.parametrize("held", [None, 10_000])
def test_the_loser_writes_nothing_into_what_was_handed_out(served: Served, held: int | None) -> None:
    """A tensor belongs to the caller from its delivery on: an answer that comes later does not change it."""
    served.server.set_faults(Faults(Hold(held, when=When(numbers=LATE))))
    mine = []
    with served.stream(HEDGING) as stream:
        for _, tensor in stream:
            assert isinstance(tensor, numpy.ndarray)
            tensor[...] = 0x5A
            mine.append(tensor)
            if stream.stats().hedged:
                served.server.release()
        assert stream.stats().hedged >= 1
    served.server.release()
    served.server.wait_open_connections(0)
    assert len(mine) == len(served.tensors)
    assert all((tensor == 0x5A).all() for tensor in mine)


def test_many_stragglers_at_once(plain: Served) -> None:
    """Where answers of all lengths stall again and again, what was handed out stays as the caller left it."""
    numbers = tuple(range(12, 400, 9))
    plain.server.set_faults(Faults(Stall(1_000, when=When(numbers=numbers)), Delay(0.001)))
    options = quick(hedge=True, chunk_bytes=8192, concurrency=8, stall_timeout_s=0.6, retries=1000)
    mine = []
    with plain.stream(options) as stream:
        for name, tensor in stream:
            assert isinstance(tensor, numpy.ndarray)
            assert tensor.tobytes() == plain.tensors[name]
            tensor[...] = 0x5A
            mine.append(tensor)
        stats = stream.stats()
    assert stats.hedged
    assert all((tensor == 0x5A).all() for tensor in mine)


@pytest.mark.parametrize("number", [1, 3])
def test_a_fixed_concurrency_is_obeyed_exactly(served: Served, number: int) -> None:
    """Second requests and retries are within the number: the server never sees more at once."""
    served.server.set_faults(
        Faults(
            MaxInFlight(number, grace_s=1.0),  # an answer that the client has left is in flight until that is noticed
            Reset(when=When(numbers=(13, 14))),
            CloseEarly(10_000, when=When(numbers=(16, 17))),
            Stall(10_000, when=When(numbers=(20, 30))),
        )
    )
    stats = served.load_whole(quick(hedge=True, concurrency=number, stall_timeout_s=0.4 if number == 1 else 2.0))
    assert served.server.throttled == {}
    assert stats.peak_concurrency == number
    assert bool(stats.hedged) == (number > 1)  # alone, there is no room for a second request


def test_a_slow_server_is_not_asked_for_twice_as_much(plain: Served) -> None:
    """Where all ranges are slow, none is a straggler; second requests stay few."""
    plain.server.set_faults(Faults(Delay(0.25, when=When(after=1))))
    stats = plain.load_whole(quick(hedge=True, concurrency=16, first_byte_timeout_s=5.0))
    assert stats.hedged <= 4 + len(plain.server.requests) // 20


def test_both_requests_may_fail_and_one_be_healed(plain: Served) -> None:
    """A straggler that breaks after its second request began leaves the load to that, and the other way round."""
    plain.server.set_faults(
        Faults(Stall(5_000, when=When(numbers=LATE)), Reset(5_000, when=When(first_attempts=1, probability=0.3)))
    )
    stats = plain.load_whole(quick(hedge=True, stall_timeout_s=0.7, concurrency=4, retries=1000))
    assert stats.hedged or stats.retries


def test_stats_count_what_was_not_used(plain: Served) -> None:
    """The slower answer's bytes are told, and are at most what was sent beyond the blob."""
    plain.server.set_faults(Faults(Stall(30_000, when=When(numbers=LATE))))
    with slipstream.stream(plain.url, framework="numpy", options=HEDGING) as stream:
        assert as_bytes(stream) == plain.tensors
        stats = stream.stats()
    assert stats.hedged >= 2
    spare = sent_bytes(plain.server.requests) - FIRST_LOOK_BYTES - sum(map(len, plain.tensors.values()))
    assert stats.discarded_bytes <= spare
