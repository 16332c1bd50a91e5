"""The block device under a file: its number as cgroups want it, its read-ahead, and what was read from it.

    file  --stat-->  259:1  --/sys/dev/block-->  nvme0n1p1, a partition  -->  259:0 nvme0n1, the disk

Limits and read-ahead belong to disks, not to partitions. A stack (device mapper, md) is taken by its uppermost device,
since that is what the file system submits its reads to. Names such as /dev/root are never looked at.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from slipstream.bench.errors import BenchError

SYS = Path("/sys")
_SECTOR_BYTES = 512  # of /sys/block/*/stat, whatever the device's own sectors are
_SECTORS_READ, _READS = 2, 0  # fields of it; Documentation/block/stat.rst


class NoBlockDeviceError(BenchError):
    """A file that no block device of this machine holds: a network file system, memory, a layered file system."""


@dataclass(frozen=True)
class BlockDevice:
    """A disk, or the uppermost device of a stack.

    Attributes:
        number: "254:0".
        name: "vda".
        folder: what sysfs says of it.
        counted: the same of the device that holds the files: a partition, or the device itself.
    """

    number: str
    name: str
    folder: Path
    counted: Path

    @property
    def read_ahead_file(self) -> Path:
        """Holds its read-ahead in KiB, and can be written to."""
        return self.folder / "queue" / "read_ahead_kb"

    @property
    def read_ahead_kib(self) -> int:
        """How far the kernel reads ahead of who reads in order."""
        return int(self.read_ahead_file.read_text())

    def read_bytes(self) -> int:
        """How many bytes were read from what holds the files, by everyone, since the machine started."""
        return int((self.counted / "stat").read_text().split()[_SECTORS_READ]) * _SECTOR_BYTES


def find_device(path: Path, sys: Path = SYS) -> BlockDevice:
    """The device that holds a file or directory.

    Raises:
        NoBlockDeviceError: none does.
        OSError: there is no such file.
    """
    number = path.stat().st_dev
    link = sys / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}"
    if not link.exists():
        raise NoBlockDeviceError(
            f"{path} is on no block device of its own (device {link.name}) but on a network file system, in memory, or "
            "on a layered file system; give a directory on a disk's ext4 or xfs"
        )
    counted = link.resolve()
    disk = counted.parent if (counted / "partition").exists() else counted
    return BlockDevice((disk / "dev").read_text().strip(), disk.name, disk, counted)
