"""The block device under a file: its number as cgroups want it, its read-ahead, and what was read from it.

Limits and read-ahead belong to disks, not to partitions. A stack (device mapper, md) is taken by its uppermost device,
since that is what the file system submits its reads to. Names such as /dev/root are never trusted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slipstream.bench.errors import BenchError
from slipstream.bench.machine import block_device, device_read_bytes


class NoBlockDeviceError(BenchError):
    """A file that no block device of this machine holds: a network file system, memory, a layered file system."""


@dataclass(frozen=True)
class BlockDevice:
    """A disk, or the uppermost device of a stack.

    Attributes:
        name: "vda".
        number: "254:0".
        read_ahead_file: holds its read-ahead in KiB, and can be written to.
    """

    name: str
    number: str
    read_ahead_file: Path

    @property
    def read_ahead_kib(self) -> int:
        """How far the kernel reads ahead of who reads in order."""
        return int(self.read_ahead_file.read_text())

    def read_bytes(self) -> int | None:
        """How many bytes were read from it, by everyone, since the machine started; None where nobody counts."""
        return device_read_bytes(self.name)


def find_device(path: Path) -> BlockDevice:
    """The device that holds a file or directory.

    Raises:
        NoBlockDeviceError: none does.
        OSError: there is no such file.
    """
    name = block_device(path)
    if name is None:
        raise NoBlockDeviceError(
            f"{path} is on no block device of its own but on a network file system, in memory, or on a layered file "
            "system; give a directory on a disk's ext4 or xfs"
        )
    folder = Path("/sys/class/block") / name
    return BlockDevice(name, (folder / "dev").read_text().strip(), folder / "queue" / "read_ahead_kb")
