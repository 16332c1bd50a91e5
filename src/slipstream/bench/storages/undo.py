"""Undoes a throttle, whoever set it being there or not. As a program: waits until its standard input ends, then does.

    throttle.py                                 this program
    --------------------------------------------------------------------------------------
    writes what is to be undone to a file
    starts it, with a pipe                 ->   "ready"
    sets limits and read-ahead                  waits
    closes the pipe, or is killed          ->   undoes all of it, removes the file

So there is one way to undo, which every run takes. Should this program be killed as well, the file stays, and the next
run finds it (`undo_leftovers`). It is in a session of its own and ignores what a terminal or a shutdown sends.

Standard library only, nothing of slipstream: it starts in 20 ms and needs nothing that may be gone by then.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

_MEMBERS_GONE_WITHIN_S = 10.0
_POLL_S = 0.01


class Undoing(TypedDict):
    """What is to be undone.

    Attributes:
        owner: the process that set it.
        owner_started: when that process started, in the kernel's ticks: process ids are used again.
        device: "254:0".
        groups: the path that the folders of its cgroups begin with. They are removed; processes in them are samples,
            and are killed.
        limits_off: pairs of a file in each of these folders and what to write to it, so that reads that wait for the
            limit are let go.
        restore: pairs of a file and what stood in it before, written last.
    """

    owner: int
    owner_started: int
    device: str
    groups: str
    limits_off: list[list[str]]
    restore: list[list[str]]


def undo(undoing: Undoing) -> list[str]:
    """Undoes all that can be undone; returns what could not, in words. What is undone already is no failure."""
    begin = Path(undoing["groups"])
    steps: list[tuple[str, Callable[[], None]]] = [
        (f"remove {group}", partial(remove_group, group, undoing["limits_off"]))
        for group in sorted(begin.parent.glob(f"{begin.name}*"))
    ]
    steps += [(f"write {text!r} to {path}", partial(_write, path, text)) for path, text in undoing["restore"]]
    failures = []
    for name, step in steps:
        try:
            step()
        except FileNotFoundError:
            continue
        except OSError as error:
            failures.append(f"cannot {name}: {error.strerror}")
    return failures


def remove_group(group: Path, limits_off: Sequence[Sequence[str]]) -> None:
    """Takes the limits off a cgroup, kills what is in it, and removes it.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it cannot be removed.
    """
    for name, text in limits_off:
        _write(str(group / name), text)
    deadline = time.monotonic() + _MEMBERS_GONE_WITHIN_S
    while True:
        for pid in members(group):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            group.rmdir()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_POLL_S)


def started_at(pid: int) -> int | None:
    """When a process started, in ticks since the machine did; None where there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])  # field 22 of proc(5); the third comes first here


def is_orphan(undoing: Undoing) -> bool:
    """Whether the process that set it is gone."""
    return started_at(undoing["owner"]) != undoing["owner_started"]


def members(cgroup: Path) -> list[int]:
    """The processes in a cgroup."""
    return [int(line) for line in (cgroup / "cgroup.procs").read_text().split()]


def _write(path: str, text: str) -> None:
    # No O_CREAT: in a folder that is not the kernel's this would make files.
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _main(arguments: Sequence[str]) -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    file = Path(arguments[0])
    undoing: Any = json.loads(file.read_text())
    print("ready", flush=True)
    while sys.stdin.buffer.read(1):
        pass
    failures = undo(undoing)
    if failures:
        print("\n".join(failures), file=sys.stderr)
        return 1
    file.unlink(missing_ok=True)
    return 0


def read_undoing(file: Path) -> Undoing:
    """What such a file holds.

    Raises:
        ValueError: something else.
    """
    read: Mapping[str, Any] = json.loads(file.read_text())
    return Undoing(
        owner=int(read["owner"]),
        owner_started=int(read["owner_started"]),
        device=str(read["device"]),
        groups=str(read["groups"]),
        limits_off=list(read["limits_off"]),
        restore=list(read["restore"]),
    )


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
