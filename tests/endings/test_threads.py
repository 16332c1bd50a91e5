"""Endings that come from another thread than the one that iterates, or from a thread that could not begin."""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import slipstream
from slipstream.reading import engine
from slipstream.testing.faulty_fs import FaultyFs
from slipstream.types import Strategy
from tests.endings.conftest import Sample
from tests.endings.sample import as_bytes

Look = Callable[..., None]
ROOT = Path(__file__).resolve().parents[2]
HANG_S = 30.0


@contextmanager
def call_on_warning(action: Callable[[], None]) -> Iterator[None]:
    """Calls a function in whichever thread of slipstream's logs a warning, as a handler of the caller's might do."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            action()

    handler = Handler()
    logging.getLogger("slipstream").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("slipstream").removeHandler(handler)


def test_closed_by_another_thread(
    fuse_sample: Sample, faulty_fs: FaultyFs, options: slipstream.Options, nothing_left: Look
) -> None:
    """close() in another thread wakes a next() that waits for the disk: it raises StreamClosedError at once."""
    faulty_fs.hold_from(slipstream.inspect(fuse_sample.path).by_name["big.04"].start)
    tensors = slipstream.stream(fuse_sample.path, framework="numpy", options=options)
    ended: list[BaseException] = []

    def iterate() -> None:
        try:
            as_bytes(tensors)
        except slipstream.SlipstreamError as error:
            ended.append(error)

    iterating = threading.Thread(target=iterate)
    closing = threading.Thread(target=tensors.close)
    iterating.start()
    faulty_fs.wait_held(1)
    closing.start()
    iterating.join(HANG_S)
    assert [type(error) for error in ended] == [slipstream.StreamClosedError]  # and no read has ended yet
    assert closing.is_alive()
    faulty_fs.release()
    closing.join()
    nothing_left()


def test_closed_by_many_threads(sample: Sample, options: slipstream.Options, nothing_left: Look) -> None:
    """Several threads may close one stream at once; each returns when the stream has ended."""
    tensors = slipstream.stream(sample.path, framework="numpy", options=options)
    failures: list[BaseException] = []

    def close() -> None:
        try:
            tensors.close()
        except BaseException as error:
            failures.append(error)

    closing = [threading.Thread(target=close) for _ in range(8)]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join()
    assert failures == []
    nothing_left()


def test_tensors_dropped_by_other_threads(
    sample: Sample, tight_options: slipstream.Options, nothing_left: Look
) -> None:
    """Under a memory limit the stream goes on when other threads drop what it delivered."""
    found: dict[str, bytes] = {}

    def consume(pair: list[Any]) -> None:
        found.update(as_bytes([pair.pop()]))

    with slipstream.stream(sample.path, framework="numpy", options=tight_options) as tensors:
        consumers = []
        for name, tensor in tensors:
            consumers.append(threading.Thread(target=consume, args=([(name, tensor)],)))
            del tensor
            consumers[-1].start()
        for thread in consumers:
            thread.join()
    assert found == sample.contents
    nothing_left()


def test_reads_that_never_return(
    fuse_sample: Sample, faulty_fs: FaultyFs, monkeypatch: pytest.MonkeyPatch, nothing_left: Look
) -> None:
    """close() waits for all stuck reads together, not for one after the other, and then leaves them behind."""
    patience_s, workers = 0.5, 6
    monkeypatch.setattr(engine, "_CLOSE_WAIT_S", patience_s)
    options = slipstream.Options(strategy=Strategy.DIRECT, concurrency=workers, chunk_bytes=512 << 10)
    faulty_fs.hold_from(slipstream.inspect(fuse_sample.path).by_name["big.04"].start)
    tensors = slipstream.stream(fuse_sample.path, framework="numpy", options=options)
    faulty_fs.wait_held(workers)
    began = time.monotonic()
    tensors.close()
    took = time.monotonic() - began
    faulty_fs.release()
    nothing_left()
    assert took < patience_s * workers * 0.75


def test_collected_by_its_own_worker(
    fuse_sample: Sample, faulty_fs: FaultyFs, monkeypatch: pytest.MonkeyPatch, nothing_left: Look
) -> None:
    """A forgotten stream in a reference cycle may be found by a garbage collection in one of its own workers.

    The worker is made to collect by the warning it logs when O_DIRECT is refused, once the stream is forgotten.
    """
    complaints: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: complaints.append(repr(unraisable.exc_value)))
    collected_in: list[str] = []

    def collect() -> None:
        collected_in.append(threading.current_thread().name)
        gc.collect()

    start = slipstream.inspect(fuse_sample.path).by_name["big.04"].start
    faulty_fs.hold_from(start)
    options = slipstream.Options(strategy=Strategy.DIRECT, concurrency=4, chunk_bytes=512 << 10)
    gc.disable()
    try:
        cycle: list[object] = [slipstream.stream(fuse_sample.path, framework="numpy", options=options)]
        cycle.append(cycle)
        faulty_fs.wait_held(4)
        del cycle
        faulty_fs.fail_from(start, 22, direct_only=True)  # EINVAL
        with call_on_warning(collect):
            faulty_fs.release()
            nothing_left("reserved_kib")  # what the refusal itself leaves is another test's
    finally:
        gc.enable()
    assert collected_in
    assert all(name.startswith("slipstream-") for name in collected_in)
    assert complaints == []


def test_threads_refused(disk_sample: Sample) -> None:
    """Where the system starts no more threads, the stream works with those it has, or fails and leaves none of them.

    In a process of its own, whose address space has room for the stacks of two of the eight.
    """
    program = """
import json, resource, sys, threading
import slipstream, slipstream.delivery.numpy
from pathlib import Path
from tests.endings.leaks import see_footprint, wait_nothing_left
from tests.endings.sample import as_bytes

path = Path(sys.argv[1])
options = slipstream.Options(strategy="buffered", concurrency=8, chunk_bytes=128 << 10, memory_limit=5 << 18)
before = see_footprint(path.parent)
threading.stack_size(1 << 30)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (5 << 29), -1))
try:
    outcome = len(as_bytes(slipstream.stream(path, framework="numpy", options=options)))
except slipstream.SlipstreamError as error:
    outcome = None
wait_nothing_left(before, path.parent)
print(json.dumps(outcome))
"""
    command = [sys.executable, "-c", program, str(disk_sample.path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) in (len(disk_sample.contents), None)
