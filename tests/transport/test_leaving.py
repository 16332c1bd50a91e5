"""Ends of a load whose requests stall: at once, with nothing left of it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import slipstream
from slipstream.errors import BlobNotFoundError, StreamClosedError
from slipstream.testing.range_faults import Hold, MaxInFlight, Redirect, Stall, Status
from slipstream.testing.range_lies import CorruptHead
from slipstream.testing.range_schedule import Faults, When
from tests.endings.leaks import see_footprint, wait_nothing_left
from tests.transport.serving import PATIENT, RawServer, Served, quick, write_model

ROOT = Path(__file__).parents[2]
AT_ONCE_S = 1.0
LATER = When(after=3)
EIGHT = quick(concurrency=8, connect_timeout_s=60.0, first_byte_timeout_s=60.0, stall_timeout_s=60.0)


@pytest.mark.parametrize("held", [None, 10_000])
@pytest.mark.parametrize("how", ["leave", "close", "close elsewhere", "forget"])
def test_leaving_while_eight_reads_stall(served: Served, held: int | None, how: str) -> None:
    """However a stream is left, it ends at once, and its threads, sockets and memory are gone."""
    served.server.set_faults(Faults(Hold(held, when=LATER)))
    served.server.wait_open_connections(0)
    before = see_footprint(served.root)
    stream = served.stream(EIGHT)
    served.server.wait_held(8)
    began = time.monotonic()
    if how == "leave":
        with stream:
            pass
    elif how == "close":
        stream.close()
    elif how == "forget":
        del stream
    else:
        closer = threading.Timer(0.05, stream.close)
        closer.start()
        with pytest.raises(StreamClosedError):
            dict(stream)
        closer.join()
    assert time.monotonic() - began < AT_ONCE_S
    if how != "forget":
        del stream
    wait_nothing_left(before, served.root)
    served.server.release()
    served.server.wait_open_connections(0)


@pytest.mark.parametrize("stage", ["TCP", "TLS"])
def test_leaving_while_connections_are_made(plain: Served, stage: str) -> None:
    """Connections that hang in TCP or in the greeting of TLS end at once too."""
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(RawServer(backlog=0 if stage == "TCP" else 64))
        if stage == "TCP":  # whoever comes when the backlog is full gets no answer at all
            for _ in range(2):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", silent.port))
        before = see_footprint(plain.root)
        where = f"https://127.0.0.1:{silent.port}/"
        plain.server.set_faults(Faults(Redirect(where + "{path}", when=When(after=1))))
        stream = plain.stream(EIGHT)
        plain.server.wait_requests(9)
        time.sleep(0.2)  # until the last of them has begun to connect
        began = time.monotonic()
        stream.close()
        assert time.monotonic() - began < AT_ONCE_S
        assert stream.stats().retries == 0
        del stream
        wait_nothing_left(before, plain.root)


@pytest.mark.parametrize("way", ["pause", "error body"])
def test_leaving_between_attempts(plain: Served, way: str) -> None:
    """A pause that a store has asked for, and a refusal that does not come to its end, are left as quickly."""
    refusals = {
        "pause": (Status(503, retry_after_s=50, when=LATER),),
        "error body": (Status(503, body="x" * 9000, when=LATER), Hold(100, when=LATER)),
    }
    plain.server.set_faults(Faults(*refusals[way]))
    stream = plain.stream(EIGHT)
    plain.server.wait_requests(3 + 8)
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < AT_ONCE_S


def test_the_first_error_ends_the_others(plain: Served) -> None:
    """A blob that is gone ends the load at once, though seven other reads stall."""
    stalled = (4, 5, 6, 7, 8, 9, 10)
    plain.server.set_faults(Faults(Stall(when=When(numbers=stalled)), Status(404, when=When(after=max(stalled)))))
    began = time.monotonic()
    assert type(plain.fail(EIGHT)) is BlobNotFoundError
    assert time.monotonic() - began < 5.0


PROGRAM = """
import signal, sys, threading
import numpy
import slipstream
try:
    slipstream.load(sys.argv[1:], framework="numpy", options=slipstream.Options(
        concurrency=8, chunk_bytes=65536, first_byte_timeout_s=60.0, stall_timeout_s=60.0))
finally:
    print("left:", [t.name for t in threading.enumerate() if t.name.startswith("slipstream")], flush=True)
"""


@pytest.mark.parametrize("when", ["one header", "headers", "reads"])
def test_ctrl_c(plain: Served, when: str) -> None:
    """Ctrl-C ends a load that waits for headers or for tensors at once, with no thread left."""
    names = [f"shard-{number}.safetensors" for number in range(8 if when == "headers" else 1)]
    for number, name in enumerate(names):
        write_model(plain.root / name, (1 << 20,), prefix=f"{number}.")
    held = When(after=1) if when == "reads" else When()
    plain.server.set_faults(Faults(Hold(when=held)))
    command = [sys.executable, "-P", "-c", PROGRAM, *map(plain.server.url, names)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as child:
        try:
            plain.server.wait_held(1 if when == "one header" else 8)
            child.send_signal(signal.SIGINT)
            began = time.monotonic()
            out, err = child.communicate(timeout=30)
            seconds = time.monotonic() - began
        finally:
            child.kill()
    assert out == "left: []\n"
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert child.returncode == -signal.SIGINT
    assert seconds < 2 * AT_ONCE_S


@pytest.mark.parametrize("use", [slipstream.inspect, slipstream.plan])
def test_inspect_and_plan_leave_nothing(served: Served, use: Callable[..., object]) -> None:
    """Connections that only headers were read with are closed with the call."""
    before = see_footprint(served.root)
    use(served.url, storage_options=served.storage_options)
    wait_nothing_left(before, served.root)
    served.server.wait_open_connections(0)


def test_failed_loads_leave_nothing(served: Served) -> None:
    """Errors of all stages leave no thread and no socket."""
    before = see_footprint(served.root)
    for fault in (Status(404), Stall(), CorruptHead("no_colon"), Status(503, when=LATER), MaxInFlight(0)):
        served.server.set_faults(Faults(fault))
        served.fail(quick(attempts=2))
    wait_nothing_left(before, served.root)
    served.server.wait_open_connections(0)


def test_a_finished_load_closes_its_connections(served: Served) -> None:
    """With the last tensor, nothing is kept for later."""
    before = see_footprint(served.root)
    served.load_whole(PATIENT)
    wait_nothing_left(before, served.root)
    served.server.wait_open_connections(0)


def test_reprs_say_what_happens(plain: Served) -> None:
    """The stream's text tells how far it is."""
    with plain.stream() as stream:
        dict(stream)
        assert re.fullmatch(r"<TensorStream closed: 10 of 10 tensors delivered>", repr(stream))
