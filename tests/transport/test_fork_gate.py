"""Forks amid TLS greetings: the child copies no lock of OpenSSL that a thread of the parent holds."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

import pytest

from slipstream.testing.process_watch import run_in_child, wait_for
from slipstream.transport import fork_gate
from slipstream.transport.fork_gate import OPENSSL, ForkGate
from tests.transport.serving import Served, quick

FORKS = 40
GREETERS = 6


def test_children_forked_amid_greetings_can_greet_too(tls: Served) -> None:
    """Of many children that are forked while threads come, open TLS connections, and go, each can load."""
    tls.load_whole()  # Python's own locks of modules that are being imported are another matter
    stop = threading.Event()

    def greet() -> None:
        while not stop.is_set():
            tls.load_whole(quick(concurrency=8))

    def load() -> None:
        tls.load_whole()

    greeters = [threading.Thread(target=greet) for _ in range(GREETERS)]
    for greeter in greeters:
        greeter.start()
    try:
        for _ in range(FORKS):
            assert run_in_child(load) == ""
    finally:
        stop.set()
        for greeter in greeters:
            greeter.join()


class Inside:
    """A thread that is inside the gate until it is told to leave."""

    def __init__(self, gate: ForkGate) -> None:
        self._entered, self._leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._stay, args=(gate,))
        self._thread.start()
        assert self._entered.wait(20)

    def _stay(self, gate: ForkGate) -> None:
        with gate.inside():
            self._entered.set()
            self._leave.wait(20)

    def leave(self) -> None:
        self._leave.set()
        self._thread.join()


def in_thread(work: Callable[[], object], done: SimpleQueue[str], word: str) -> threading.Thread:
    """Runs it in a thread, and then puts the word into the queue."""

    def run() -> None:
        work()
        done.put(word)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_fork_waits_for_who_is_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is inside any more when a fork happens, and whoever comes meanwhile is let in after it."""
    monkeypatch.setattr(fork_gate, "_LONGEST_WAIT_S", 20.0)
    gate, done = ForkGate(), SimpleQueue[str]()
    inside = Inside(gate)
    forking = in_thread(gate.close, done, "ready to fork")
    wait_for(lambda: gate._forking, "the gate does not close")

    def enter() -> None:
        with gate.inside():
            pass

    entering = in_thread(enter, done, "entered")
    assert done.empty()
    inside.leave()
    assert done.get(timeout=20) == "ready to fork"
    assert done.empty()
    gate.open()
    assert done.get(timeout=20) == "entered"
    forking.join()
    entering.join()


def test_a_fork_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that stays inside holds a fork up for a while only; and the child can use the gate."""
    monkeypatch.setattr(fork_gate, "_LONGEST_WAIT_S", 0.05)
    inside = Inside(OPENSSL)
    try:

        def enter() -> None:
            with OPENSSL.inside():
                os.getpid()

        assert run_in_child(enter) == ""
    finally:
        inside.leave()


def test_who_forks_does_not_wait_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler that interrupts a greeting may fork, and may greet in parent and child."""
    monkeypatch.setattr(fork_gate, "_LONGEST_WAIT_S", 60.0)  # more than the patience of `run_in_child`

    def enter() -> None:
        with OPENSSL.inside():
            os.getpid()

    with OPENSSL.inside():
        assert run_in_child(enter) == ""
        enter()
