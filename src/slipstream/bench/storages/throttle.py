"""A disk of this machine made as slow as a cloud's volume, for chosen processes, and its read-ahead as short for all.

with Throttle(find_device(path), Limits(1000 << 20, 16_000)) as throttle:
    throttle.add(pid)               that process reads no faster from now on, nor do its threads and children
    throttle.renew()                the next ones begin with the credit that everyone begins with
    ...
# the limits, the cgroup and the read-ahead are as they were; also after SIGKILL: see undo.py
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from slipstream.bench.errors import BenchError, SampleError
from slipstream.bench.storages import undo
from slipstream.bench.storages.base import StorageUnavailableError
from slipstream.bench.storages.cgroups import Hierarchy, Limits, find_hierarchy, write_all
from slipstream.bench.storages.devices import BlockDevice

LEFTOVERS = Path("/run/slipstream-bench")  # of root alone, and gone when the machine starts, like all that it undoes
_GROUP = "slipstream-bench"
_UNDONE_WITHIN_S = 30.0
_numbers = itertools.count()


class Throttle:
    """Limits on one device, from `__enter__` to `__exit__`. For one thread.

    Attributes:
        device: which.
        limits: what is allowed.
        cgroup: the folder of the group, to whose processes the limits apply.
    """

    def __init__(self, device: BlockDevice, limits: Limits) -> None:
        """Changes nothing yet.

        Raises:
            StorageUnavailableError: this process may not do it, or this machine cannot.
        """
        self.device = device
        self.limits = limits
        self._hierarchy = _require_hierarchy(device)
        self._name = f"{_GROUP}-{os.getpid()}-{next(_numbers)}"
        self._groups = itertools.count()
        self.cgroup = self._name_group()
        self._file = LEFTOVERS / f"{self._name}.json"
        self._watchdog: subprocess.Popen[str] | None = None

    def __repr__(self) -> str:
        state = "set" if self._watchdog else "not set"
        return f"<Throttle {self.device.name}, {self.limits.bytes_per_s} B/s, {self.limits.iops} IOPS, {state}>"

    def __enter__(self) -> Self:
        undo_leftovers(self.device)
        try:
            before, after = self._hierarchy.preparation()
            self._undoing = self._plan_undoing(after)
            self._watchdog = self._start_watchdog()
            write_all(before)
            self._make_group()
            write_all([[str(self.device.read_ahead_file), str(self.limits.read_ahead_kib)]])
        except OSError as error:
            self._close()
            raise StorageUnavailableError(
                f"{self.device.name} cannot be throttled: {error.filename}: {error.strerror}; {_INSTEAD}"
            ) from error
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def renew(self) -> None:
        """Makes a new group, in which no process is yet, and ends the old one with all that is still in it.

        What a group has read before decides how much it may read at once when it begins again: 0.5 GB came at 1.0 to
        1.1 times the limit in a new group, and at up to 1.6 times in one that had been used.

        Raises:
            OSError: the kernel refuses it.
        """
        undo.remove_group(self.cgroup, self._undoing["limits_off"])
        self.cgroup = self._name_group()
        self._make_group()

    def add(self, pid: int) -> None:
        """Puts a process with all its threads under the limits; its children will be too.

        Raises:
            SampleError: there is no such process any more.
        """
        try:
            write_all([[str(self.cgroup / "cgroup.procs"), str(pid)]])
        except ProcessLookupError as error:
            raise SampleError(f"process {pid} ended before it could be throttled") from error

    def read_bytes(self) -> int:
        """How many bytes the processes under the limits have read from the device."""
        return self._hierarchy.read_bytes(self.cgroup, self.device.number)

    def _name_group(self) -> Path:
        return self._hierarchy.root / f"{self._name}.{next(self._groups)}"

    def _make_group(self) -> None:
        self.cgroup.mkdir()
        write_all(self._hierarchy.limits_on(self.device.number, self.limits), self.cgroup)

    def _plan_undoing(self, restore: list[list[str]]) -> undo.Undoing:
        started = undo.started_at(os.getpid())
        assert started is not None
        read_ahead = [str(self.device.read_ahead_file), str(self.device.read_ahead_kib)]
        return undo.Undoing(
            owner=os.getpid(),
            owner_started=started,
            device=self.device.number,
            groups=str(self._hierarchy.root / f"{self._name}."),
            limits_off=self._hierarchy.limits_off(self.device.number),
            restore=[read_ahead, *restore],
        )

    def _start_watchdog(self) -> subprocess.Popen[str]:
        LEFTOVERS.mkdir(mode=0o700, exist_ok=True)
        unfinished = self._file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self._undoing))
        unfinished.rename(self._file)  # whoever looks for leftovers finds all of it or nothing
        watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", undo.__file__, str(self._file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert watchdog.stdout is not None
        if watchdog.stdout.readline() != "ready\n":
            _, complaint = watchdog.communicate()
            self._file.unlink(missing_ok=True)
            raise BenchError(f"the process that would undo the throttle did not start: {complaint.strip()}")
        return watchdog

    def _close(self) -> None:
        """Has all of it undone, by the watchdog or, where that is gone, here.

        Raises:
            BenchError: part of it could not be undone; the message says which, so that it can be done by hand.
        """
        if self._watchdog is None:
            return
        watchdog, self._watchdog = self._watchdog, None
        try:
            watchdog.communicate(timeout=_UNDONE_WITHIN_S)
        except subprocess.TimeoutExpired:
            watchdog.kill()
            watchdog.communicate()
        if watchdog.returncode:
            _undo_here(self._undoing, self._file)


def undo_leftovers(device: BlockDevice | None = None) -> list[str]:
    """Undoes what runs left that were killed together with their watchdogs; returns a line for each.

    Raises:
        StorageUnavailableError: a run that still goes on has throttled `device`.
        BenchError: something could not be undone.
    """
    undone = []
    for file, undoing in _leftovers():
        if undo.is_orphan(undoing):
            _undo_here(undoing, file)
            undone.append(f"undid the throttle of device {undoing['device']} that process {undoing['owner']} left")
        elif device is not None and undoing["device"] == device.number:
            raise StorageUnavailableError(
                f"{device.name} is throttled by process {undoing['owner']}, another benchmark; let it end first"
            )
    return undone


def _leftovers() -> Iterator[tuple[Path, undo.Undoing]]:
    if not os.access(LEFTOVERS, os.R_OK | os.W_OK | os.X_OK):
        return
    for file in sorted(LEFTOVERS.glob("*.json")):
        try:
            yield file, undo.read_undoing(file)
        except FileNotFoundError:  # its watchdog was about to
            continue


def _undo_here(undoing: undo.Undoing, file: Path) -> None:
    failures = undo.undo(undoing)
    if failures:
        raise BenchError(
            f"the throttle could not be undone: {'; '.join(failures)}. Do this by hand, then remove {file}"
        )
    file.unlink(missing_ok=True)


def _require_hierarchy(device: BlockDevice) -> Hierarchy:
    hierarchy = find_hierarchy()
    if hierarchy is None:
        raise StorageUnavailableError(
            f"{device.name} cannot be throttled: no cgroup controller for block devices is mounted (blkio of v1, io of "
            f"v2); {_INSTEAD}"
        )
    for path in (hierarchy.root, device.read_ahead_file, LEFTOVERS.parent):
        if not os.access(path, os.W_OK):
            raise StorageUnavailableError(f"{device.name} cannot be throttled: no right to write to {path}; {_INSTEAD}")
    return hierarchy


_INSTEAD = (
    "run it as root of the machine itself, give a real volume (--storage gp3=/mnt/gp3), or measure the disk as it is "
    "(--unthrottled)"
)
