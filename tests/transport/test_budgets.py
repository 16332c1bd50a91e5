"""What a load may take: attempts, retries, time, bandwidth."""

from __future__ import annotations

import re
import time

import pytest

from slipstream.errors import ReadError
from slipstream.testing.range_faults import Rate, Reset, Stall, Status, Trickle
from slipstream.testing.range_schedule import Fault, Faults, When
from tests.transport.serving import FIRST_LOOK_BYTES, PATIENT, RawServer, Served, fail, quick

LATER = When(after=6)


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_attempts_are_in_a_row(plain: Served, attempts: int) -> None:
    """A range is asked for so many times without a byte of it coming, and no more."""
    plain.server.set_faults(Faults(Status(500, when=LATER)))
    error = plain.fail(quick(attempts=attempts, concurrency=1))
    assert error.attempts == attempts
    assert len(plain.server.requests) == 6 + attempts


def test_attempts_begin_anew_with_each_byte(plain: Served) -> None:
    """Every attempt that brings something is a success for this count, so two attempts heal ten breaks."""
    plain.server.set_faults(Faults(Reset(6_000)))
    assert plain.load_whole(quick(attempts=2, retries=10_000)).retries > 300


@pytest.mark.parametrize("retries", [0, 7])
def test_the_budget_of_retries(plain: Served, retries: int) -> None:
    """The whole load heals so many failures, and then says that this was the limit."""
    plain.server.set_faults(Faults(Reset(1_000)))  # no request succeeds, so nothing is earned
    error = plain.fail(quick(attempts=5, retries=retries, concurrency=1))
    assert len(plain.server.requests) == retries + 1
    assert f"budget of retries={retries} is used up: raise it" in str(error)
    assert error.attempts == retries + 1


def test_successes_earn_retries(plain: Served) -> None:
    """A long load may heal as large a share as a short one."""
    plain.server.set_faults(Faults(Status(500, when=When(first_attempts=1, probability=0.1))))
    stats = plain.load_whole(quick(retries=2, chunk_bytes=8192))
    assert stats.retries > 10


@pytest.mark.parametrize(
    "fault",
    [
        Rate(20_000, when=LATER),
        Trickle(4_000, 0.1, when=LATER),
        Stall(when=LATER),
        Stall(1_000, when=LATER),
        Status(503, retry_after_s=50, when=LATER),
        Status(500, when=LATER),
    ],
    ids=["slow", "in pieces", "stalled before the head", "stalled in the body", "told to wait", "failing"],
)
def test_the_deadline_is_kept(plain: Served, fault: Fault) -> None:
    """However the time passes, the load ends when it is over, or at once when the store asks for more than is left."""
    plain.server.set_faults(Faults(fault))
    began = time.monotonic()
    error = plain.fail(
        quick(deadline_s=0.6, stall_timeout_s=30.0, first_byte_timeout_s=30.0, attempts=100, retries=10_000)
    )
    assert time.monotonic() - began < 2.0
    assert type(error) is ReadError
    assert "deadline_s=0.6 leaves no time for another attempt: raise it" in str(error)
    if isinstance(fault, Status):
        assert error.status == fault.status  # the cause is told, not only that time is over


def test_the_deadline_holds_for_headers(plain: Served) -> None:
    """The first request is within the time too."""
    plain.server.set_faults(Faults(Stall()))
    began = time.monotonic()
    assert "deadline_s=0.3" in str(plain.fail(quick(deadline_s=0.3, first_byte_timeout_s=30.0)))
    assert time.monotonic() - began < 1.5


def test_the_deadline_of_a_load_that_is_fast_enough(plain: Served) -> None:
    """A deadline that is not reached changes nothing."""
    plain.load_whole(quick(deadline_s=60.0))


def test_the_first_byte_timeout(plain: Served) -> None:
    """From the request to the head of its answer; the body may take longer."""
    plain.server.set_faults(Faults(Stall(when=LATER)))
    began = time.monotonic()
    error = plain.fail(quick(first_byte_timeout_s=0.3, stall_timeout_s=30.0, attempts=1))
    assert 0.3 <= time.monotonic() - began < 1.5
    assert "waiting for the first byte" in str(error)


def test_the_stall_timeout(plain: Served) -> None:
    """Without a byte for so long, a body counts as lost; a head may take longer."""
    plain.server.set_faults(Faults(Stall(1_000, when=LATER)))
    began = time.monotonic()
    error = plain.fail(quick(first_byte_timeout_s=30.0, stall_timeout_s=0.3, attempts=1, retries=0))
    assert 0.3 <= time.monotonic() - began < 1.5
    assert "while receiving" in str(error)


def test_the_connect_timeout_covers_tls() -> None:
    """A port that accepts and says nothing is given up after the time for TCP and TLS together."""
    with RawServer() as server:
        began = time.monotonic()
        error = fail(f"https://127.0.0.1:{server.port}/a", quick(connect_timeout_s=0.3, attempts=1))
        assert 0.3 <= time.monotonic() - began < 1.5
    assert re.search(r"while greeting.*firewall", str(error))


@pytest.mark.parametrize("chunk_bytes", [65_536, 1 << 20])
def test_the_bandwidth_limit(plain: Served, chunk_bytes: int) -> None:
    """So many bytes per second over all connections, whatever the size of the ranges."""
    limit = 2_400_000
    stats = plain.load_whole(quick(bandwidth_limit=limit, chunk_bytes=chunk_bytes, concurrency=8))
    seconds = (stats.bytes + FIRST_LOOK_BYTES) / limit  # the first look counts
    assert seconds * 0.85 < stats.seconds < seconds * 1.15 + 0.1


def test_a_bandwidth_limit_is_no_stall(plain: Served) -> None:
    """Connections that wait for their share are not given up, and not asked for twice."""
    stats = plain.load_whole(quick(bandwidth_limit=2_000_000, concurrency=16, stall_timeout_s=0.1, hedge=True))
    assert stats.retries == stats.hedged == 0


def test_patience_is_not_a_timeout(plain: Served) -> None:
    """What is slow but steady is waited for."""
    plain.server.set_faults(Faults(Rate(1_000_000)))
    assert plain.load_whole(PATIENT).retries == 0
