"""Many that pull into one directory: one does, the others wait, and nobody waits for the dead."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

import slipstream
from slipstream.pulling.directory import Directory
from slipstream.pulling.lock import hold_lock
from slipstream.testing.process_watch import run_in_child, see_descriptors, wait_for
from slipstream.testing.range_faults import Hold
from slipstream.testing.range_server import Faults, When
from tests.pulling.children import HANG_S, ROOT, finish, hear, start_child
from tests.pulling.models import CHUNK_BYTES, FIRST_LOOK_BYTES, SMALL_CHUNKS, Served, landed_bytes, read_tree

LARGE = "large.bin"


def hold_after(served: Served, count: int) -> None:
    """Has the first process come no further: so many requests for the large file pass, the next ones wait at a gate.

    These are as many as it makes at once, so that others may look at the file.
    """
    numbers = tuple(range(count + 1, count + 1 + int(SMALL_CHUNKS.concurrency)))
    served.server.set_faults(Faults(Hold(when=When(path=LARGE, numbers=numbers))))


def test_two_processes(served: Served, tmp_path: Path) -> None:
    """The second waits for the first, and finds all there: each byte is fetched once."""
    hold_after(served, 3)
    with start_child(served.url, tmp_path / "to") as first:
        served.server.wait_held(4)
        with start_child(served.url, tmp_path / "to") as second:
            assert hear(second) == "waiting"
            served.server.release()
            ends = [finish(first), finish(second)]
    assert [code for code, _, _ in ends] == [0, 0], ends
    files, nbytes = len(served.contents), served.nbytes
    assert ends[0][1] == [{"files": files, "fetched_files": files, "fetched_bytes": nbytes}]
    assert ends[1][1] == [{"files": files, "fetched_files": 0, "fetched_bytes": 0}]
    assert read_tree(tmp_path / "to") == served.contents


def test_the_first_is_killed(served: Served, tmp_path: Path) -> None:
    """When the first is killed, the second goes on at once, from where that one was."""
    came = 4 * CHUNK_BYTES
    hold_after(served, 5)
    with start_child(served.url, tmp_path / "to") as first:
        wait_for(lambda: landed_bytes(tmp_path / "to", LARGE) == came, "what came is not noted")
        with start_child(served.url, tmp_path / "to") as second:
            assert hear(second) == "waiting"
            first.kill()
            first.wait(HANG_S)
            code, said, err = finish(second)
    assert code == 0, err
    [done] = said
    assert isinstance(done, dict)
    assert done["fetched_bytes"] <= served.nbytes - came
    assert read_tree(tmp_path / "to") == served.contents


def test_ctrl_c_while_waiting(served: Served, tmp_path: Path) -> None:
    """Who waits can be interrupted; the one that pulls does not notice."""
    hold_after(served, 3)
    with start_child(served.url, tmp_path / "to") as first:
        served.server.wait_held(4)
        with start_child(served.url, tmp_path / "to") as second:
            assert hear(second) == "waiting"
            second.send_signal(signal.SIGINT)
            code, _, err = finish(second)
        assert code == -signal.SIGINT
        assert err.splitlines()[-1] == "KeyboardInterrupt"
        served.server.release()
        assert finish(first)[0] == 0
    assert read_tree(tmp_path / "to") == served.contents


def test_many_threads(served: Served, tmp_path: Path) -> None:
    """Threads of one process take turns as processes do."""
    with ThreadPoolExecutor(8) as pool:
        pulled = list(pool.map(lambda _: slipstream.pull(served.url, tmp_path / "to", options=SMALL_CHUNKS), range(8)))
    assert len(set(pulled)) == 1
    assert read_tree(tmp_path / "to") == served.contents
    sent = served.count_sent(LARGE)
    looks = 2 * 8  # each thread looks at it, and again if it had to wait
    assert sent <= len(served.contents[LARGE]) + looks * FIRST_LOOK_BYTES


def test_different_files(served: Served, tmp_path: Path) -> None:
    """Pulls of different files into one directory lose nothing of each other's."""
    patterns = ["large*", "*.json", "deep/*", "empty*"]
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                lambda allow: slipstream.pull(served.url, tmp_path / "to", allow=allow, options=SMALL_CHUNKS), patterns
            )
        )
    served.server.reset()
    assert served.pull(tmp_path / "to").tensors_total == 0


def test_changed_while_waiting(served: Served, tmp_path: Path) -> None:
    """Who has waited pulls what is in the store by then, not what was there when the wait began."""
    to = tmp_path / "to"
    with Directory(str(to), make=True) as place, ExitStack() as held:
        held.enter_context(hold_lock(place))
        with start_child(served.url, to) as child:
            assert hear(child) == "waiting"
            served.contents["small.json"] = b"{}"
            (served.root / "small.json").write_bytes(b"{}")
            held.close()
            assert finish(child)[0] == 0
    assert read_tree(to) == served.contents


HOLDER = """
import os, sys
from slipstream.pulling.directory import Directory
from slipstream.pulling.lock import hold_lock

with Directory(sys.argv[1], make=True) as place, hold_lock(place):
    if os.fork() == 0:
        print("held", flush=True)
        sys.stdin.readline()  # the child lives on until the test lets it go
        os._exit(0)
    os.wait()
"""


def test_a_forked_child_of_a_killed_holder(tmp_path: Path) -> None:
    """A child that a holder has forked does not keep the lock when the holder is killed."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, stdin=pipe, stdout=pipe, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
        holder.wait(HANG_S)
        with Directory(str(tmp_path)) as place, hold_lock(place) as waited:
            assert not waited
        assert holder.stdin is not None
        holder.stdin.close()


def test_a_child_does_not_hold_what_its_parent_holds(tmp_path: Path) -> None:
    """A forked child finds the lock taken, as any other process does, and its end gives back nothing of it."""

    def find_it_taken() -> None:
        with open(tmp_path / ".slipstream" / "lock") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    with Directory(str(tmp_path), make=True) as place, hold_lock(place):
        assert run_in_child(find_it_taken) == ""
        assert run_in_child(find_it_taken) == ""
        find_it_taken()


def test_a_lock_file_that_was_removed(tmp_path: Path) -> None:
    """Who has waited for a lock whose file is gone by then locks the one that is there."""
    lock = tmp_path / ".slipstream" / "lock"
    locked: list[bool] = []

    def wait_and_lock() -> None:
        with Directory(str(tmp_path)) as place, hold_lock(place):
            locked.append(lock.exists())

    with Directory(str(tmp_path), make=True) as place, hold_lock(place):
        waiter = threading.Thread(target=wait_and_lock)
        waiter.start()
        wait_for(lambda: _count_opened(lock) == 2, "nobody opens the lock")
        lock.unlink()
    waiter.join(HANG_S)
    assert locked == [True]


def _count_opened(path: Path) -> int:
    """How many descriptors of a file this process has."""
    return sum(line.partition(" ")[2] == str(path) for line in see_descriptors())
