"""Which reads are asked for a second time."""

from __future__ import annotations

import pytest

from slipstream.reading.stragglers import Peers

CHUNK = 8 << 20


@pytest.fixture
def peers() -> Peers:
    """Twenty chunks that took 0.2 s each."""
    peers = Peers()
    for _ in range(20):
        peers.note(CHUNK, 0.2)
    return peers


@pytest.mark.parametrize(
    ("landed", "seconds", "at_the_end", "expected"),
    [
        pytest.param(0, 10.0, False, True, id="stalled before the first byte"),
        pytest.param(CHUNK // 2, 5.0, False, True, id="stalled in the middle"),
        pytest.param(0, 0.5, True, True, id="late, and nothing else to do"),
        pytest.param(0, 0.5, False, False, id="late, but other reads go on"),
        pytest.param(0, 0.3, True, False, id="not yet late"),
        pytest.param(CHUNK - 4096, 10.0, True, False, id="nearly there"),
        pytest.param(CHUNK // 1000 * 989, 2.0, True, False, id="slow, but sooner there than a new one"),
    ],
)
def test_far_behind_its_peers(peers: Peers, landed: int, seconds: float, at_the_end: bool, expected: bool) -> None:
    """A straggler is far behind its peers, and a second request would probably overtake it."""
    assert peers.is_straggler(CHUNK, landed, seconds, at_the_end=at_the_end) is expected


def test_without_peers() -> None:
    """Nothing is late where nothing is known of the others."""
    peers = Peers()
    for _ in range(7):
        peers.note(CHUNK, 0.001)
    assert not peers.is_straggler(CHUNK, 0, 100.0, at_the_end=True)


def test_slow_for_all(peers: Peers) -> None:
    """Where the whole link has become slow, none is a straggler."""
    for _ in range(48):
        peers.note(CHUNK, 5.0)
    assert not peers.is_straggler(CHUNK, 0, 8.0, at_the_end=True)


def test_small_reads_are_judged_by_their_round_trip() -> None:
    """A read of some kilobytes that takes as long as others of its kind is none, though it is slow for each byte."""
    peers = Peers()
    for _ in range(20):
        peers.note(4096, 0.3)
    assert not peers.is_straggler(4096, 0, 0.55, at_the_end=True)
    assert peers.is_straggler(4096, 0, 0.65, at_the_end=True)
