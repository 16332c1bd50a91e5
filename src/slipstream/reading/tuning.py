"""Finds out how many reads in flight are fastest, while a load runs. Pure decisions: no clock, no threads.

GROW      double, as long as that brings a tenth more throughput; look twice before giving up, since a network that
          pauses for a moment looks just like one that is full
SHRINK    where no processor is idle, halve as long as that costs nothing: connections that bring nothing cost
          processor time. Elsewhere too many are harmless, and a look at too few is not
HOLD      stay with the best level; from time to time try a little more, or less where throughput has fallen
busy      where no processor is idle, more connections mostly fight for them: a quarter more throughput is asked for
throttled: a store that asks for less gets less at once, and is not asked for more for a while; one that refuses a
          request now and then is not full
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

# A level is judged over at least this long, and over as long as a read takes, so that every connection counts in it.
# The first climb is quick, since a load may be over in seconds; later looks are long enough for a noisy network.
_SHORTEST_LOOK_S = 0.1
_LATER_LOOK_S = 0.3
_LONGEST_SETTLING_S = 0.3
_GAIN = 1.10
_GAIN_WHEN_BUSY = 1.25
_HARDLY_LESS = 0.98
_FALLEN = 0.7
_FEWEST = 2
_HARDLY_IDLE = 0.15
# The first try after a decision comes soon, since a single look may mislead; each later one after twice as long.
_LOOK_AGAIN_S = 1.0
_LOOK_AGAIN_AT_MOST_S = 16.0
_COOL_DOWN_S = 2.0
# What comes in this time is one wave of refusals, and one reason; a single one, and few among many, are none.
_SHORTEST_WAVE_S = 0.1
_LONGEST_WAVE_S = 0.3
_RARE = 0.05
_BACK_OFF = 0.7
_BACK_OFF_FROM_MOST = 0.5  # where more than half were refused


class _Phase(Enum):
    GROW = auto()
    SHRINK = auto()
    HOLD = auto()


class ConcurrencyTuner:
    """Climbs towards the level with the most throughput. Not thread-safe: its schedule's lock guards it.

    Attributes:
        level: how many reads shall be in flight.
    """

    def __init__(self, start: int, most: int, now: float, idle_s: Callable[[], float]) -> None:
        """
        Args:
            start: the first level.
            most: the highest.
            now: see `observe`.
            idle_s: for how many seconds the processors were idle so far, on average.
        """
        self.level = start
        self._most = most
        self._phase = _Phase.GROW
        self._best_level, self._best_rate = start, 0.0
        self._known_below = 1  # levels up to here are known to be slower than the best one
        self._idle_s = idle_s
        self._look_from: float | None = now  # since when this level counts
        self._look_idle_s = idle_s()
        self._look_at_earliest = 0.0
        self._look_bytes = 0
        self._throttled = 0  # before the present wave, if there is one
        self._wave_from: float | None = None
        self._look_s = _SHORTEST_LOOK_S
        self._hold_until = 0.0
        self._hold_s = _LOOK_AGAIN_S
        self._looked_twice = False

    def __repr__(self) -> str:
        return f"<ConcurrencyTuner {self._phase.name} at {self.level}: best {self._best_rate / 1e6:.0f} MB/s>"

    def observe(self, now: float, landed: int, read_s: float, throttled: int, *, full: bool) -> int:
        """Takes note of how far the load is; returns the level from now on.

        Args:
            now: seconds, of a clock that only rises.
            landed: bytes that have come since the load began.
            read_s: how long a read takes at present.
            throttled: how often the store has asked for less so far.
            full: whether as many reads were in flight as the level allows; else nothing can be learnt.
        """
        if throttled > self._throttled:
            self._note_refusals(now, throttled, read_s)
        elif self._look_from is None or not full:
            if now >= self._look_at_earliest:
                self._look_from, self._look_bytes, self._look_idle_s = now, landed, self._idle_s()
        elif now >= max(self._look_from + max(self._look_s, read_s), self._hold_until):
            look_s = now - self._look_from
            busy = self._idle_s() - self._look_idle_s < look_s * _HARDLY_IDLE
            self._judge(now, (landed - self._look_bytes) / look_s, busy)
            # What is in flight was begun at the old level: the next look begins when that has landed.
            self._look_from, self._look_at_earliest = None, now + min(read_s, _LONGEST_SETTLING_S)
        return self.level

    def _judge(self, now: float, rate: float, busy: bool) -> None:
        match self._phase:
            case _Phase.GROW if rate >= self._best_rate * (_GAIN_WHEN_BUSY if busy else _GAIN):
                first = not self._best_rate
                self._looked_twice = False
                self._known_below = 1 if first else self._best_level
                self._best_level, self._best_rate = self.level, rate
                if self.level == self._most or (first and busy):
                    self._shrink(now)
                else:
                    self.level = min(self.level * 2, self._most)
            case _Phase.SHRINK if rate >= self._best_rate * _HARDLY_LESS:
                self._best_level, self._best_rate = self.level, rate
                self._shrink(now)
            case _Phase.HOLD:  # `rate` is that of the whole hold
                fallen, self._best_rate = rate < self._best_rate * _FALLEN, rate
                if fallen:
                    self._known_below = 1
                    self._shrink(now)
                else:
                    self._phase = _Phase.GROW
                    self.level = min(self.level + max(self.level // 2, 1), self._most)
            case _Phase.GROW if not (busy or self._looked_twice):
                self._looked_twice = True
            case _Phase.GROW:
                self._looked_twice = False
                if busy:
                    self._shrink(now)
                else:
                    self._hold(now)
            case _Phase.SHRINK:
                self._hold(now)

    def _shrink(self, now: float) -> None:
        """Tries half of the best level, unless that is known to be slower."""
        half = self._best_level // 2
        if half < _FEWEST or half <= self._known_below:
            self._hold(now)
        else:
            self._phase = _Phase.SHRINK
            self.level = half

    def _hold(self, now: float) -> None:
        self._phase = _Phase.HOLD
        self.level = self._best_level
        self._look_s = _LATER_LOOK_S
        self._hold_until = now + self._hold_s
        self._hold_s = min(self._hold_s * 2, _LOOK_AGAIN_AT_MOST_S)

    def _note_refusals(self, now: float, throttled: int, read_s: float) -> None:
        """Draws the conclusion once a wave of refusals is over, or has refused as many as are in flight."""
        self._look_from = None
        if self._wave_from is None:
            self._wave_from = now
        wave_s, refused = now - self._wave_from, throttled - self._throttled
        if refused < self.level and wave_s < min(max(read_s, _SHORTEST_WAVE_S), _LONGEST_WAVE_S):
            return
        self._throttled, self._wave_from = throttled, None
        share = refused / (refused + self.level * wave_s / read_s) if read_s else 1.0
        if refused > 1 and share > _RARE:
            less = _BACK_OFF if share < 0.5 else _BACK_OFF_FROM_MOST
            self._best_level = max(int(self.level * less), 1)
            self._hold(now)
            self._hold_until = now + _COOL_DOWN_S
