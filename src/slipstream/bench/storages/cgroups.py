"""How the kernel is told to read from a device no faster than so: cgroup v1's blkio, or v2's io.

Source: Documentation/admin-guide/cgroup-v1/blkio-controller.rst and cgroup-v2.rst ("IO"). Both take whole disks, count
the reads of a group apart, and let buffered reads and mappings wait like direct ones.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Writes = list[list[str]]
"""Pairs of a file and what to write to it; a file of a group is named within the group's folder."""


@dataclass(frozen=True)
class Limits:
    """What a volume of a cloud allows.

    Attributes:
        bytes_per_s: read at most.
        iops: reads a second at most, as the block layer counts them.
        read_ahead_kib: how far the kernel reads ahead.
    """

    bytes_per_s: int
    iops: int
    read_ahead_kib: int = 128  # of every EBS volume, and Linux's default


class Hierarchy(Protocol):
    """One of the two versions, where it is mounted."""

    @property
    def root(self) -> Path: ...

    def limits_on(self, device: str, limits: Limits) -> Writes:
        """What sets limits for a group."""
        ...

    def limits_off(self, device: str) -> Writes:
        """What takes them off."""
        ...

    def preparation(self) -> tuple[Writes, Writes]:
        """What must be written before a group is made, so that it can have limits; and what undoes that."""
        ...

    def read_bytes(self, group: Path, device: str) -> int:
        """How many bytes the group has read from the device."""
        ...


@dataclass(frozen=True)
class BlkioHierarchy:
    """cgroup v1, with its controller blkio."""

    root: Path

    def limits_on(self, device: str, limits: Limits) -> Writes:
        values = {"read_bps_device": limits.bytes_per_s, "read_iops_device": limits.iops}
        return [[f"blkio.throttle.{file}", f"{device} {value}"] for file, value in values.items()]

    def limits_off(self, device: str) -> Writes:
        return self.limits_on(device, Limits(0, 0))

    def preparation(self) -> tuple[Writes, Writes]:
        return [], []

    def read_bytes(self, group: Path, device: str) -> int:
        # Lines "254:0 Read 33554432".
        for line in (group / "blkio.throttle.io_service_bytes").read_text().splitlines():
            if line.startswith(f"{device} Read "):
                return int(line.split()[2])
        return 0


@dataclass(frozen=True)
class IoHierarchy:
    """cgroup v2, with its controller io."""

    root: Path

    def limits_on(self, device: str, limits: Limits) -> Writes:
        return [["io.max", f"{device} rbps={limits.bytes_per_s} riops={limits.iops}"]]

    def limits_off(self, device: str) -> Writes:
        return [["io.max", f"{device} rbps=max riops=max"]]

    def preparation(self) -> tuple[Writes, Writes]:
        control = self.root / "cgroup.subtree_control"
        if "io" in control.read_text().split():
            return [], []
        return [[str(control), "+io"]], [[str(control), "-io"]]

    def read_bytes(self, group: Path, device: str) -> int:
        # Lines "254:0 rbytes=33554432 wbytes=0 rios=64 ...".
        for line in (group / "io.stat").read_text().splitlines():
            number, *counts = line.split()
            if number == device:
                return int(dict(count.split("=") for count in counts)["rbytes"])
        return 0


def find_hierarchy(mounts: Sequence[str] | None = None) -> Hierarchy | None:
    """The hierarchy that can limit reads here, or None where none is mounted.

    Args:
        mounts: lines of /proc/self/mountinfo (proc(5)).
    """
    for line in Path("/proc/self/mountinfo").read_text().splitlines() if mounts is None else mounts:
        left, _, right = line.partition(" - ")
        root = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), left.split()[4]))
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup" and "blkio" in options.split(","):
            return BlkioHierarchy(root)
        if kind == "cgroup2" and "io" in _controllers(root):
            return IoHierarchy(root)
    return None


def write_all(writes: Writes, folder: Path = Path("/")) -> None:
    """Writes each text to its file in a folder, which must be there.

    Raises:
        OSError: the kernel refuses one of them.
    """
    for name, text in writes:
        path = folder / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        except OSError as error:
            raise OSError(error.errno, f"{os.strerror(error.errno or 0)}, for {text!r}", str(path)) from error
        finally:
            os.close(descriptor)


def _controllers(root: Path) -> list[str]:
    try:
        return (root / "cgroup.controllers").read_text().split()
    except OSError:
        return []
