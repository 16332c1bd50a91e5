"""Ctrl-C, SIGTERM and other signals in the midst of a load; and the end of the interpreter."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

import slipstream
from slipstream.reading import engine
from slipstream.testing.faulty_fs import FaultyFs
from slipstream.types import Strategy
from tests.endings.conftest import Sample
from tests.endings.sample import as_bytes

ROOT = Path(__file__).resolve().parents[2]
HANG_S = 30.0  # no ending takes nearly as long

EXITS = [
    "exit_with_a_global",
    "exit_unread",
    "exit_while_memory_is_short",
    "exit_with_a_cycle",
    "exit_inside_with",
    "exit_with_tensors",
    "exit_while_a_thread_iterates",
]


@contextmanager
def start_child(way: str, path: Path, strategy: Strategy) -> Iterator[subprocess.Popen[str]]:
    """A process that has begun to load; see child_load.py."""
    command = [sys.executable, "-m", "tests.endings.child_load", way, str(path), strategy]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == '"loading"\n'
            yield child
        finally:
            child.kill()


def finish(child: subprocess.Popen[str]) -> tuple[int, list[object], str]:
    """Waits for its end: exit code, what it said, and its standard error."""
    out, err = child.communicate(timeout=HANG_S)
    return child.returncode, [json.loads(line) for line in out.splitlines()], err


def middle(sample: Sample) -> int:
    """From where on reads are held: behind the header and the first tensors."""
    return slipstream.inspect(sample.path).by_name["big.04"].start


@pytest.mark.parametrize("way", ["read_in_with", "read_bare", "read_by_load", "read_with_progress"])
def test_ctrl_c(fuse_sample: Sample, faulty_fs: FaultyFs, strategy: Strategy, way: str) -> None:
    """Ctrl-C while next() waits for the disk ends the load by KeyboardInterrupt alone, and nothing is left of it."""
    faulty_fs.hold_from(middle(fuse_sample))
    with start_child(way, fuse_sample.path, strategy) as child:
        faulty_fs.wait_held(2)
        child.send_signal(signal.SIGINT)
        faulty_fs.release()  # a read under way ends sooner or later; no other begins
        code, said, err = finish(child)
    assert said == ["nothing left"]
    assert code == -signal.SIGINT
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert err.count("Traceback") == 1


def test_ctrl_c_while_reads_hang(fuse_sample: Sample, faulty_fs: FaultyFs) -> None:
    """Ctrl-C ends a load whose reads do not return: it waits a while, logs that, and leaves them behind.

    The process itself ends with them: the kernel keeps it as long as it is in a FUSE read.
    """
    faulty_fs.hold_from(middle(fuse_sample))
    with start_child("read_stuck", fuse_sample.path, Strategy.BUFFERED) as child:
        assert child.stdout is not None
        faulty_fs.wait_held(2)
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == '"left"\n'
        faulty_fs.release()
        code, _, err = finish(child)
    assert code == -signal.SIGINT
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert "a read is stuck in the kernel" in err


def test_sigterm(fuse_sample: Sample, faulty_fs: FaultyFs, strategy: Strategy) -> None:
    """SIGTERM ends the process as it ends any: at once, and without a word."""
    faulty_fs.hold_from(middle(fuse_sample))
    with start_child("read_in_with", fuse_sample.path, strategy) as child:
        faulty_fs.wait_held(2)
        child.terminate()
        faulty_fs.release()  # the kernel lets a process go once its reads past the page cache have ended
        assert finish(child) == (-signal.SIGTERM, [], "")


def test_sigterm_as_system_exit(fuse_sample: Sample, faulty_fs: FaultyFs, strategy: Strategy) -> None:
    """A SIGTERM handler that raises SystemExit interrupts next(), and nothing is left of the load."""
    faulty_fs.hold_from(middle(fuse_sample))
    with start_child("read_until_exit_by_sigterm", fuse_sample.path, strategy) as child:
        faulty_fs.wait_held(2)
        child.terminate()
        faulty_fs.release()
        assert finish(child) == (7, ["nothing left"], "")


@pytest.mark.parametrize("way", EXITS)
def test_exit_with_an_open_stream(disk_sample: Sample, way: str) -> None:
    """An interpreter that ends while a stream is open, or its tensors are held, ends well and without a word."""
    with start_child(way, disk_sample.path, Strategy.MAPPED) as child:
        code, _, err = finish(child)
    assert (code, err) == (0, "")


def test_exit_while_reads_are_held(fuse_sample: Sample, faulty_fs: FaultyFs, strategy: Strategy) -> None:
    """An interpreter that ends while reads are in the kernel ends well once they have ended."""
    faulty_fs.hold_from(middle(fuse_sample))
    with start_child("exit_while_reads_are_held", fuse_sample.path, strategy) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        faulty_fs.wait_held(2)
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == '"exiting"\n'
        faulty_fs.release()
        code, _, err = finish(child)
    assert (code, err) == (0, "")


def test_closed_by_a_signal_handler(disk_sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler may close the stream, also at a moment at which next() holds the stream's lock.

    The moment is fixed by the garbage collection that next() makes, under the lock, when it is short of memory.
    """
    patience_s = 2.0
    monkeypatch.setattr(engine, "_CLOSE_WAIT_S", patience_s)
    options = slipstream.Options(strategy=Strategy.BUFFERED, concurrency=4, memory_limit=5 << 18)
    tensors = slipstream.stream(disk_sample.path, framework="numpy", options=options)
    kept = [next(tensors)]
    took: list[float] = []

    def close(number: int, frame: FrameType | None) -> None:
        began = time.monotonic()
        tensors.close()
        took.append(time.monotonic() - began)

    def shoot(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and not took:
            signal.raise_signal(signal.SIGUSR1)

    old = signal.signal(signal.SIGUSR1, close)
    gc.callbacks.append(shoot)
    try:
        with pytest.raises(slipstream.StreamClosedError):
            kept.extend(tensors)
    finally:
        gc.callbacks.remove(shoot)
        signal.signal(signal.SIGUSR1, old)
    assert took[0] < patience_s


def test_handled_signals_do_no_harm(
    disk_sample: Sample, options: slipstream.Options, nothing_left: Callable[..., None]
) -> None:
    """Signals that the caller handles, many in a second, neither break a load nor end it."""
    seen: list[int] = []
    done = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    def shoot() -> None:
        while not done.wait(0.0005):
            os.kill(os.getpid(), signal.SIGUSR1)

    old = signal.signal(signal.SIGUSR1, note)
    shooter = threading.Thread(target=shoot)
    shooter.start()
    try:
        while len(seen) < 20:
            assert as_bytes(slipstream.stream(disk_sample.path, framework="numpy", options=options)) == (
                disk_sample.contents
            )
    finally:
        done.set()
        shooter.join()
        signal.signal(signal.SIGUSR1, old)
    nothing_left()
