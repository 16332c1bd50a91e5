"""What the kernel tells about the storage under a file: type, device, read-ahead, cached pages, memory."""

from __future__ import annotations

import contextlib
import os
import re

from slipstream.sources.page_cache import count_cached_bytes
from slipstream.types import StorageFacts

# File systems whose pages come over a network or through a user-space process.
_REMOTE = frozenset((
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse", "fuseblk", "gfs2", "glusterfs", "gpfs",
    "lustre", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "smb3", "smbfs", "virtiofs", "weka", "wekafs",
))  # fmt: skip
_IN_MEMORY = frozenset(("tmpfs", "ramfs", "hugetlbfs", "devtmpfs"))
# Since Linux 5.18 a mapping advised with MADV_HUGEPAGE is read ahead by 2 MiB at a time, in large folios
# where the file system has them, whatever the device's read-ahead is (do_sync_mmap_readahead).
_HUGE_READ_AHEAD_SINCE = (5, 18)


def see_storage(path: str) -> StorageFacts:
    """Gathers the facts the policy decides by. Reads nothing of the file.

    Raises:
        OSError: the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        filesystem = _filesystem_type(path, status.st_dev)
        return StorageFacts(
            filesystem=filesystem,
            volume=f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}",
            remote=filesystem.split(".")[0] in _REMOTE,
            in_memory=filesystem in _IN_MEMORY,
            cached_bytes=count_cached_bytes(descriptor, 0, status.st_size),
            read_ahead_bytes=_read_ahead_bytes(status.st_dev),
            huge_read_ahead=_kernel_version() >= _HUGE_READ_AHEAD_SINCE,
            available_bytes=_available_bytes(),
        )
    finally:
        os.close(descriptor)


def _filesystem_type(path: str, device: int) -> str:
    """The type in /proc/self/mountinfo of the mount with this device, else of the longest mount point above.

    Source: proc(5). Btrfs and overlayfs may give files a device number that no mount has.
    """
    wanted = f"{os.major(device)}:{os.minor(device)}"
    real = os.path.realpath(path)
    best, best_length = "unknown", -1
    with contextlib.suppress(OSError), open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            left, _, right = line.partition(" - ")
            fields = left.split(" ")
            filesystem = right.split(" ", 1)[0]
            if fields[2] == wanted:
                return filesystem
            point = _unescape(fields[4])
            if len(point) > best_length and (real + "/").startswith(point.rstrip("/") + "/"):
                best, best_length = filesystem, len(point)
    return best


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _read_ahead_bytes(device: int) -> int | None:
    kibibytes = _read_number(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    return None if kibibytes is None else kibibytes << 10


def _kernel_version() -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _available_bytes() -> int | None:
    """The least of what the host has available and what this process's cgroups still allow."""
    bounds = [_available_in_cgroup()]
    with contextlib.suppress(OSError), open("/proc/meminfo") as meminfo:
        match = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read(), re.MULTILINE)
        bounds.append(int(match[1]) << 10 if match else None)
    return min((bound for bound in bounds if bound is not None), default=None)


def _available_in_cgroup() -> int | None:
    """Limit less use of the cgroup: v2 as a container sees it, else v1."""
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        most, now = _read_number(limit), _read_number(used)
        if most is not None and now is not None:
            return max(0, most - now)
    return None


def _read_number(path: str) -> int | None:
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):
        return None  # not there, or the word "max"
