"""A cap on bandwidth, shared by all connections of a load."""

from __future__ import annotations

from threading import Lock
from time import monotonic

_BURST_S = 0.05  # how much may come at once after a pause
_SLICE_S = 0.02  # how much a connection may take at a time


class BandwidthLimit:
    """Says how long to wait before receiving. Safe to use from many threads."""

    def __init__(self, bytes_per_second: int) -> None:
        self._rate = bytes_per_second
        self._lock = Lock()
        self._next = monotonic()  # when what was let through so far will have been paid for
        self.slice_bytes = max(int(bytes_per_second * _SLICE_S), 4096)

    def charge(self, count: int) -> float:
        """Notes that `count` bytes came; returns the seconds to wait before more may."""
        now = monotonic()
        with self._lock:
            self._next = max(self._next, now - _BURST_S) + count / self._rate
            return max(self._next - now, 0.0)
