"""Lets no fork happen while a thread is inside OpenSSL where that holds locks of the whole process.

A forked child gets a copy of every lock as it is, and no thread that would release it. glibc takes care of its own
locks; OpenSSL does not: a child that was forked while another thread drew random numbers for a greeting waits for
ever in its first greeting (seen with OpenSSL 3.0: the lock of the generator that those of all threads are seeded
from).

So greetings, and the first bytes of an answer, which bring TLS session tickets, are received with `inside()` around
each call that works and never around one that waits. Receiving a body takes no such lock, and is not slowed down. Out
of reach are the microseconds in which OpenSSL takes leave of a thread that ends.

Source: pthread_atfork(3), RATIONALE; OPENSSL_fork_prepare(3), which since OpenSSL 3.0 does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, get_ident
from time import monotonic

# A call takes microseconds to milliseconds of processor time. A fork that would wait for longer happens all the same.
_LONGEST_WAIT_S = 2.0


class ForkGate:
    """Counts who is inside, and makes a fork wait for them. Safe to use from many threads."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._inside: list[int] = []  # by thread
        self._forking = False

    @contextmanager
    def inside(self) -> Iterator[None]:
        """While this is held, no fork of another thread happens. Waits for one that is about to."""
        me = get_ident()
        with self._changed:
            if me not in self._inside:  # a signal handler in here waits for nobody
                self._changed.wait_for(lambda: not self._forking, _LONGEST_WAIT_S)
            self._inside.append(me)
        try:
            yield
        finally:
            with self._changed:
                self._inside.remove(me)
                if self._forking:
                    self._changed.notify_all()

    def close(self) -> None:
        """Before a fork: lets nobody in, and waits until all other threads are out."""
        me = get_ident()
        until = monotonic() + _LONGEST_WAIT_S
        with self._changed:
            self._forking = True
            while any(thread != me for thread in self._inside) and (left_s := until - monotonic()) > 0:
                self._changed.wait(left_s)

    def open(self) -> None:
        """After a fork, in the parent."""
        with self._changed:
            self._forking = False
            self._changed.notify_all()

    def reset(self) -> None:
        """After a fork, in the child, which is the only thread left, and may be inside."""
        me = get_ident()
        self._changed = Condition()
        self._inside = [thread for thread in self._inside if thread == me]
        self._forking = False


OPENSSL = ForkGate()
"""The gate of this process."""

os.register_at_fork(before=OPENSSL.close, after_in_parent=OPENSSL.open, after_in_child=OPENSSL.reset)
