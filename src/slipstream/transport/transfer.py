"""One range on its way into memory, which other threads may watch and stop."""

from __future__ import annotations

from threading import Condition
from time import monotonic
from typing import Protocol


class Abortable(Protocol):
    """What a transfer waits in: a connection."""

    def abort(self) -> None:
        """Makes the call that another thread is in end at once."""
        ...


class TransferStopped(Exception):
    """Raised in the thread that receives, once somebody has stopped its transfer."""


class Transfer:
    """The state of one range while it is received. One thread receives; any thread watches and stops.

    After `stop` has returned, nothing more is written into the destination. That is what allows a range to be
    received twice at once, and the memory to be handed out as soon as one of the two has it.

        receiver                      anybody
        enter(connection) ─┐
          receive, landed  │          landed, waiting
        leave() ───────────┘          stop(): aborts the connection, waits for leave()

    Attributes:
        landed: bytes from the start of the range that are in memory.
        requests: HTTP requests made for it.
        waiting: whether it pauses before another attempt.
        started: `time.monotonic()` when it was made.
        inner: where bytes come into other memory first, the transfer of these, which is then what this one waits in.
        passed: bytes that earlier inner ones have brought.
        discarded: bytes that an inner one had brought when it was stopped.
    """

    def __init__(self) -> None:
        self.landed = 0
        self.requests = 0
        self.waiting = False
        self.started = monotonic()
        self.inner: Transfer | None = None
        self.passed = 0
        self.discarded = 0
        self._condition = Condition()
        self._connection: Abortable | None = None
        self._stopped = False

    @property
    def received(self) -> int:
        """Bytes that have come for it so far, wherever they are."""
        inner = self.inner
        return max(self.landed, self.passed) + (inner.landed if inner is not None else 0)

    @property
    def pauses(self) -> bool:
        """Whether it waits before another attempt, itself or its inner one."""
        inner = self.inner
        return self.waiting or (inner is not None and inner.waiting)

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def enter(self, connection: Abortable) -> None:
        """Says that from now on the connection may write into the destination.

        Raises:
            TransferStopped: it may not any more.
        """
        with self._condition:
            if self._stopped:
                raise TransferStopped
            self._connection = connection

    def leave(self) -> None:
        """Says that the connection writes no more."""
        with self._condition:
            self._connection = None
            self._condition.notify_all()

    def pause(self, seconds: float) -> None:
        """Waits before another attempt.

        Raises:
            TransferStopped: at once when that happens.
        """
        with self._condition:
            self.waiting = True
            self._condition.wait_for(lambda: self._stopped, seconds)
            self.waiting = False
            if self._stopped:
                raise TransferStopped

    def begin_stop(self) -> None:
        """Lets nothing more be received, without waiting for what is being written."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
            if self._connection is not None:
                self._connection.abort()

    def abort(self) -> None:
        """See Abortable: the outer transfer is stopped."""
        self.begin_stop()

    def stop(self) -> None:
        """Lets nothing more be received, and waits until nothing is written any more."""
        self.begin_stop()
        with self._condition:
            self._condition.wait_for(lambda: self._connection is None)
