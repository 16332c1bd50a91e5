"""What a load may leave behind in its process: threads, descriptors, mappings, memory, files."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

_DEADLINE_S = 5.0  # the kernel removes an ended thread a moment after it was joined


@dataclass(frozen=True)
class Footprint:
    """What this process holds at one moment, and what lies in a folder. Two are equal if nothing was left.

    Attributes:
        workers: the names of slipstream's threads.
        tasks: the kernel's numbers of all threads.
        descriptors: what each open descriptor stands for.
        mappings: the lines of the memory map that name a file in the folder.
        reserved_kib: anonymous memory with the flags that only slipstream's own reservations have.
        files: the files in the folder.
    """

    workers: tuple[str, ...]
    tasks: frozenset[str]
    descriptors: tuple[tuple[int, str], ...]
    mappings: tuple[str, ...]
    reserved_kib: int
    files: tuple[str, ...] = field(default=())

    def __sub__(self, before: Footprint) -> dict[str, object]:
        """What there is now that was not there before, by kind; empty if nothing."""
        new = {
            "workers": sorted(set(self.workers) - set(before.workers)),
            "tasks": sorted(self.tasks - before.tasks),
            "descriptors": sorted(set(self.descriptors) - set(before.descriptors)),
            "mappings": sorted(set(self.mappings) - set(before.mappings)),
            "reserved_kib": max(0, self.reserved_kib - before.reserved_kib),
            "files": sorted(set(self.files) - set(before.files)),
        }
        return {kind: found for kind, found in new.items() if found}


def see_footprint(folder: Path) -> Footprint:
    """Looks at this process, and at what lies in the folder."""
    return Footprint(
        workers=tuple(sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("slipstream"))),
        tasks=frozenset(os.listdir("/proc/self/task")),
        descriptors=tuple(_see_descriptors()),
        mappings=tuple(line.rstrip() for line in open_lines("/proc/self/maps") if str(folder) in line),
        reserved_kib=_count_reserved_kib(),
        files=tuple(str(path) for path in sorted(folder.rglob("*"))),
    )


def wait_nothing_left(before: Footprint, folder: Path, *, but: tuple[str, ...] = ()) -> None:
    """Waits until nothing is there that was not there before; fails with what there is after a deadline.

    Collects no garbage: what a load leaves must go with its last reference.

    Args:
        before: the process as it was.
        folder: where the files of the test are.
        but: kinds that may still be there, e.g. mappings while tensors are held.
    """
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        left = {kind: found for kind, found in (see_footprint(folder) - before).items() if kind not in but}
        if not left:
            return
        assert time.monotonic() < deadline, f"the load has left {left}"
        time.sleep(0.01)


def open_lines(path: str) -> list[str]:
    """The lines of a file under /proc, read at once."""
    with open(path) as file:
        return file.read().splitlines()


def _see_descriptors() -> list[tuple[int, str]]:
    seen: list[tuple[int, str]] = []
    for number in sorted(map(int, os.listdir("/proc/self/fd"))):
        try:
            seen.append((number, os.readlink(f"/proc/self/fd/{number}")))
        except FileNotFoundError:
            continue  # the one that the directory was listed with
    return seen


def _count_reserved_kib() -> int:
    """Anonymous memory that was reserved without commitment and advised to use huge pages: `nr` and `hg`.

    Source: proc(5), VmFlags of /proc/PID/smaps.
    """
    total = size = 0
    for line in open_lines("/proc/self/smaps"):
        if line.startswith("Size:"):
            size = int(line.split()[1])
        elif line.startswith("VmFlags:"):
            flags = line.split()[1:]
            total += size if "nr" in flags and "hg" in flags else 0
    return total
