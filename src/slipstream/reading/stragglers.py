"""Which reads take far longer than their peers. Pure decisions: no clock, no threads.

Source of the idea: "The Tail at Scale", Dean and Barroso, CACM 56(2), 2013: hedged requests.
"""

from __future__ import annotations

from collections import deque

# Reads so small are alike: what they take is the round trip.
_SMALL_BYTES = 1 << 20
_FEWEST_PEERS = 8
_PEERS = 48
# Before, nothing is suspicious: retransmissions and a busy computer cost as much.
_SHORTEST_S = 0.5
_TIMES_LONGER = 4.0
# When idle connections and nothing else to read make a second request cheap, and the whole load waits for it.
_SHORTEST_AT_THE_END_S = 0.2
_TIMES_LONGER_AT_THE_END = 2.0


class Peers:
    """How long reads take. Not thread-safe: its schedule's lock guards it."""

    def __init__(self) -> None:
        self._seconds_per_byte: deque[float] = deque(maxlen=_PEERS)
        self._typical: float | None = None

    def note(self, nbytes: int, seconds: float) -> None:
        """Notes a read that ended well."""
        self._seconds_per_byte.append(seconds / max(nbytes, _SMALL_BYTES))
        self._typical = None

    def typical_s(self, nbytes: int) -> float:
        """What a read of so many bytes takes; 0 before there was one."""
        if self._typical is None:
            ordered = sorted(self._seconds_per_byte)
            self._typical = ordered[len(ordered) // 2] if ordered else 0.0
        return self._typical * max(nbytes, _SMALL_BYTES)

    def is_straggler(self, nbytes: int, landed: int, seconds: float, *, at_the_end: bool) -> bool:
        """Whether a second request would probably be faster than waiting for this one.

        Args:
            nbytes: of the whole read.
            landed: how many of them are there.
            seconds: since it began.
            at_the_end: whether there is nothing else to read.
        """
        shortest_s = _SHORTEST_AT_THE_END_S if at_the_end else _SHORTEST_S
        times_longer = _TIMES_LONGER_AT_THE_END if at_the_end else _TIMES_LONGER
        if len(self._seconds_per_byte) < _FEWEST_PEERS:
            return False
        if seconds < max(shortest_s, self.typical_s(nbytes) * times_longer):
            return False
        left_s = (nbytes - landed) * seconds / landed if landed else float("inf")
        return left_s > self.typical_s(nbytes - landed)
