"""How often and when a failed request is made again. No I/O, no sleeping."""

from __future__ import annotations

import random
from threading import Lock

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


def pause_before(attempt: int, retry_after_s: float | None = None) -> float:
    """Seconds to wait before the attempt after the `attempt`-th that failed in a row.

    Exponential with full jitter, but at least what the store asked for, to which half as much again is added at
    random. Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    longest = min(_FIRST_PAUSE_S * 2.0 ** (attempt - 1), _LONGEST_PAUSE_S)
    if retry_after_s is not None:
        return retry_after_s + random.uniform(0.0, max(retry_after_s / 2, _FIRST_PAUSE_S))
    return random.uniform(longest / 4, longest)


class RetryBudget:
    """How many more failures one load may heal, over all its requests. Safe to use from many threads.

    A budget keeps a failing store from being asked several times as much as a healthy one. Every so many requests that
    succeed earn one more retry, so that a long load may heal as large a share as a short one.
    """

    _EARNED_BY = 4

    def __init__(self, retries: int) -> None:
        self._lock = Lock()
        self._left = float(retries)
        self.retries = retries

    def earn(self) -> None:
        """Notes a request that succeeded."""
        if self.retries:
            with self._lock:
                self._left += 1 / self._EARNED_BY

    def try_spend(self) -> bool:
        """Takes one retry, if there is one left."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True
