"""A disk of the tests' own: a file behind a loop device, with ext4, mounted. Its throttle concerns nobody else.

Needs root, loop devices, and programs of util-linux and e2fsprogs; `why_unavailable` says which of it is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_DISK_BYTES = 48 << 20
_PARTITION = ("1", "2048", "90000")  # number, first sector, sectors


def why_unavailable() -> str | None:
    """Why there can be no such disk here; None where there can."""
    if os.geteuid() != 0:
        return "loop devices are for root"
    missing = [
        name for name in ("losetup", "addpart", "delpart", "mkfs.ext4", "mount", "umount") if shutil.which(name) is None
    ]
    if missing:
        return f"there is no program {missing[0]}"
    if subprocess.run(["losetup", "--find"], capture_output=True, check=False).returncode:
        return "there is no loop device"
    return None


@contextmanager
def mounted_volume(folder: Path, *, partitioned: bool = False, sector_bytes: int = 512) -> Iterator[Path]:
    """A new disk, or a partition of it, mounted in a folder; gone at the end."""
    image, point = folder / "disk.img", folder / "mounted"
    with image.open("wb") as file:
        file.truncate(_DISK_BYTES)
    point.mkdir()
    with ExitStack() as stack:
        disk = _run("losetup", "--find", "--show", "--sector-size", str(sector_bytes), str(image)).strip()
        stack.callback(_run, "losetup", "--detach", disk)
        if partitioned:  # the kernel is told of it, since not every kernel reads partition tables
            _run("addpart", disk, *_PARTITION)
            stack.callback(_run, "delpart", disk, _PARTITION[0])
        device = f"{disk}p1" if partitioned else disk
        _run("mkfs.ext4", "-q", device)
        _run("mount", device, str(point))
        stack.callback(_run, "umount", str(point))
        yield point


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
