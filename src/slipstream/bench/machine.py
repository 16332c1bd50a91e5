"""What the figures depend on beside the code: the machine, the mount, and which sources were measured."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import slipstream

_ASK_TIMEOUT_S = 20.0
_DMI = Path("/sys/class/dmi/id")
_OCTAL = re.compile(r"\\(\d{3})")


@cache
def describe_machine() -> Mapping[str, str | int]:
    """Processor, cores, memory, kernel, Python, graphics processors and virtualisation.

    Cores are those that this process may use, and where a cgroup allows it less time than they have, `cpu_quota` says
    how many processors' worth that is.
    """
    facts: dict[str, str | int] = {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "system": _system(),
        "virtualisation": _virtualisation(),
        "python": platform.python_version(),
        "gpu": _graphics(),
    }
    quota = _cpu_quota()
    return facts | ({"cpu_quota": quota} if quota else {})


def describe_mount(path: Path) -> Mapping[str, str]:
    """Where a path lies: mount point, file system, device, options, and what is known of the disk."""
    return _find_mount(path) | _describe_disk(block_device(path))


def block_device(path: Path) -> str | None:
    """The whole block device under a path, as /proc/diskstats names it: "nvme0n1"; None where there is none.

    A partition's requests are counted at its disk too. File systems of several devices have none.
    """
    number = os.stat(path).st_dev
    node = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not node.exists():  # such as btrfs, which gives its files device numbers of their own
        source = _find_mount(path)["device"]
        node = Path("/sys/class/block") / os.path.basename(os.path.realpath(source))
        if not source.startswith("/dev/") or not node.exists():
            return None
    resolved = node.resolve()
    return resolved.parent.name if (resolved / "partition").exists() else resolved.name


def device_read_bytes(device: str) -> int | None:
    """Bytes read from a block device since the machine started, by whomever; None where it is not counted.

    Source: the kernel's Documentation/admin-guide/iostats.rst: the third figure is sectors of 512 bytes.
    """
    for line in Path("/proc/diskstats").read_text().splitlines():
        _, _, name, *figures = line.split()
        if name == device:
            return int(figures[2]) * 512
    return None


def received_bytes(*, loopback: bool) -> int:
    """Bytes received by the loopback interface, or by all others, since they came up."""
    total = 0
    for line in Path("/proc/net/dev").read_text().splitlines()[2:]:
        name, _, figures = line.partition(":")
        if (name.strip() == "lo") == loopback:
            total += int(figures.split()[0])
    return total


@cache
def find_commit() -> str:
    """The commit of slipstream's sources, with "+changes" where they differ from it; "" where they are no checkout.

    An installed wheel's sources are none, but those of the directory that the benchmark is started in may be.
    """
    for folder in (Path(slipstream.__file__).parent, Path.cwd()):
        commit = _ask("git", "-C", str(folder), "rev-parse", "--short=12", "HEAD")
        tracked = _ask("git", "-C", str(folder), "ls-files", "--full-name", ":/src/slipstream/__init__.py")
        if commit and tracked:
            changes = _ask("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no", ":/src")
            return commit + ("+changes" if changes else "")
    return ""


def package_versions(*distributions: str) -> dict[str, str]:
    """The versions of those distributions that are installed for this interpreter."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def _virtualisation() -> str:
    """By systemd, else by the firmware's name of the machine, else by the processor's word."""
    found = _ask("systemd-detect-virt")
    if found and found != "none":
        return found
    for name in ("product_name", "sys_vendor"):
        try:
            return (_DMI / name).read_text().strip()
        except OSError:
            continue
    return "a virtual machine" if " hypervisor" in Path("/proc/cpuinfo").read_text() else "none known"


def _graphics() -> str:
    found = _ask("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    return "; ".join(line.strip() for line in found.splitlines()) or "none"


def _cpu_quota() -> str:
    """Processors' worth of time that the cgroup allows, or "" for no limit (cgroup v2, then v1)."""
    for quota_file, period_file in (
        ("/sys/fs/cgroup/cpu.max", None),
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
    ):
        try:
            words = Path(quota_file).read_text().split()
            period = words[1] if period_file is None else Path(period_file).read_text()
        except (OSError, IndexError):
            continue
        if words[0].isdecimal():
            return f"{int(words[0]) / int(period):g}"
    return ""


def _find_mount(path: Path) -> dict[str, str]:
    """The last of the mounts that hold a path, since a later one covers those before it (proc(5), mountinfo)."""
    resolved = os.path.realpath(path)
    found = {"point": "", "filesystem": "", "device": "", "options": ""}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        point, options = before.split()[4:6]
        point = _unescape(point)
        if os.path.commonpath([resolved, point]) == point and len(point) >= len(found["point"]):
            filesystem, device = after.split()[:2]
            found = {"point": point, "filesystem": filesystem, "device": _unescape(device), "options": options}
    return found


def _describe_disk(device: str | None) -> dict[str, str]:
    if device is None:
        return {}
    facts = {"disk": device}
    for name, key in (("read_ahead_kb", "read_ahead_kib"), ("scheduler", "scheduler"), ("rotational", "rotational")):
        try:
            facts[key] = (Path("/sys/block") / device / "queue" / name).read_text().strip()
        except OSError:
            continue
    return facts


def _unescape(text: str) -> str:
    """A field of mountinfo, which writes spaces and the like as octal numbers."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def _ask(*command: str) -> str:
    """What a program prints; "" where there is none, or it fails."""
    program = shutil.which(command[0])
    if program is None:
        return ""
    try:
        answer = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, timeout=_ASK_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
