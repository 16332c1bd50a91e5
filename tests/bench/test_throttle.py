"""The throttle, on a disk of the tests' own: what the kernel's files say while it is set, and that all is undone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slipstream.bench.storages import undo
from slipstream.bench.storages.base import StorageUnavailableError
from slipstream.bench.storages.cgroups import BlkioHierarchy, IoHierarchy, Limits, find_hierarchy
from slipstream.bench.storages.devices import BlockDevice, NoBlockDeviceError, find_device
from slipstream.bench.storages.plain_reader import PlainReader
from slipstream.bench.storages.throttle import LEFTOVERS, Throttle, undo_leftovers
from slipstream.testing.process_watch import run_in_child, see_descriptors, wait_for
from tests.bench.loop_volume import mounted_volume, why_unavailable
from tests.bench.throttle_owner import LIMITS

ROOT = Path(__file__).parents[2]
NOBODY = 65534


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A mounted disk that may be throttled, with a file of a few MiB."""
    reason = why_unavailable()
    if reason is not None:
        pytest.skip(reason)
    with mounted_volume(tmp_path_factory.mktemp("disk")) as point:
        try:
            Throttle(find_device(point), LIMITS)
        except StorageUnavailableError as error:
            pytest.skip(str(error))
        (point / "file").write_bytes(os.urandom(4 << 20))
        yield point


@pytest.fixture
def device(volume: Path) -> BlockDevice:
    return find_device(volume)


def set_limits(cgroup: Path, device: BlockDevice) -> dict[str, int]:
    """The limits that the kernel says a group has on a device, in either version's words."""
    if (cgroup / "io.max").exists():
        words = (cgroup / "io.max").read_text().split()
        found = dict(word.split("=") for word in words[1:])
        return {"bytes_per_s": int(found["rbps"]), "iops": int(found["riops"])}
    limits = {}
    for name, file in (("bytes_per_s", "read_bps_device"), ("iops", "read_iops_device")):
        number, value = (cgroup / f"blkio.throttle.{file}").read_text().split()
        assert number == device.number
        limits[name] = int(value)
    return limits


def ours() -> list[Path]:
    """What is left of throttles: groups, and files that say what is to be undone."""
    hierarchy = find_hierarchy()
    assert hierarchy is not None
    return [*hierarchy.root.glob("slipstream-bench-*"), *LEFTOVERS.glob("*")]


def test_limits_stand_in_the_kernel(device: BlockDevice) -> None:
    """While it is set, the kernel names exactly these limits for the group, and the read-ahead is the short one."""
    with Throttle(device, LIMITS) as throttle:
        assert set_limits(throttle.cgroup, device) == {"bytes_per_s": 64 << 20, "iops": 1000}
        assert device.read_ahead_kib == 64


def test_all_is_undone_at_the_end(device: BlockDevice) -> None:
    """At its end the read-ahead is as it was, and neither group nor file nor descriptor is left."""
    before, descriptors = device.read_ahead_kib, see_descriptors()
    with Throttle(device, LIMITS):
        assert device.read_ahead_kib != before
        assert len(ours()) == 2
    assert device.read_ahead_kib == before
    assert ours() == []
    assert see_descriptors() <= descriptors


def test_undone_when_the_body_fails(device: BlockDevice) -> None:
    """An error inside leaves nothing behind, and is the error that the caller sees."""
    before = device.read_ahead_kib
    with pytest.raises(KeyboardInterrupt), Throttle(device, LIMITS):
        raise KeyboardInterrupt
    assert device.read_ahead_kib == before
    assert ours() == []


def test_children_are_under_the_limits_too(device: BlockDevice) -> None:
    """A process that is added takes the processes that it starts along."""
    with Throttle(device, LIMITS) as throttle:
        process = subprocess.Popen(
            ["sh", "-c", "read go; cat /proc/self/cgroup"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        throttle.add(process.pid)
        seen, _ = process.communicate("\n")
        assert throttle.cgroup.name in seen


def test_each_sample_can_have_a_group_of_its_own(device: BlockDevice) -> None:
    """A new group has the same limits and nobody in it; the old one is gone, with what was still running there."""
    with Throttle(device, LIMITS) as throttle:
        old = throttle.cgroup
        with subprocess.Popen(["sleep", "1000"]) as left:
            throttle.add(left.pid)
            throttle.renew()
            assert left.wait() == -signal.SIGKILL
        assert not old.exists()
        assert set_limits(throttle.cgroup, device) == {"bytes_per_s": 64 << 20, "iops": 1000}
        assert undo.members(throttle.cgroup) == []
        assert throttle.read_bytes() == 0
        assert len(ours()) == 2
    assert ours() == []


def test_counts_what_the_group_reads(volume: Path, device: BlockDevice) -> None:
    """The group's counter grows by what its processes read from the device, and by nothing that others read."""
    with Throttle(device, Limits(1 << 30, 100_000)) as throttle, PlainReader(volume / "file") as reader:
        reader.measure(0.01)
        assert throttle.read_bytes() == 0
        throttle.add(reader.pid)
        reader.measure(0.01)
        assert throttle.read_bytes() >= 4 << 20


def test_a_plain_reader_measures_both_figures(volume: Path) -> None:
    """It says bytes and reads a second, as often as it is asked, also of a file that is smaller than one read."""
    small = volume / "small"
    small.write_bytes(bytes(10_000))
    for file in (volume / "file", small):
        with PlainReader(file) as reader:
            for _ in range(2):
                found = reader.measure(0.01)
                assert set(found) == {"bytes_per_s", "iops"}
                assert min(found.values()) > 0


def test_a_file_of_less_than_a_block_has_no_figures(volume: Path) -> None:
    """What cannot be read past the page cache is neither measured nor an error."""
    (volume / "tiny").write_bytes(b"less than a block")
    with PlainReader(volume / "tiny") as reader:
        assert reader.measure(0.01) == {}


def test_a_plain_reader_says_why_it_cannot(tmp_path: Path) -> None:
    """A file that cannot be opened is an error that names it, and leaves no process."""
    descriptors = see_descriptors()
    with pytest.raises(OSError, match=r"absent could not be read plainly.*No such file"):
        PlainReader(tmp_path / "absent")
    assert see_descriptors() <= descriptors


def test_a_plain_reader_that_was_killed_is_an_error(volume: Path) -> None:
    """A reader that is gone is said to be, not waited for."""
    with PlainReader(volume / "file") as reader:
        os.kill(reader.pid, signal.SIGKILL)
        with pytest.raises(OSError, match="could not be read plainly"):
            reader.measure(0.01)


def start_owner(volume: Path) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.throttle_owner", str(volume / "file")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def end_owner(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_undone_after_sigkill_of_the_owner(volume: Path, device: BlockDevice) -> None:
    """After SIGKILL of the run and its process group, limits, group, read-ahead and the sample in it are gone too."""
    before = device.read_ahead_kib
    owner, seen = start_owner(volume)
    assert device.read_ahead_kib == 64
    os.killpg(owner.pid, signal.SIGKILL)
    end_owner(owner)
    wait_for(lambda: not ours(), "the watchdog left something")
    assert device.read_ahead_kib == before
    assert undo.started_at(seen["sample"]) is None
    wait_for(lambda: undo.started_at(seen["watchdog"]) is None, "the watchdog is still there")


def test_next_run_undoes_what_both_left(volume: Path, device: BlockDevice) -> None:
    """Where run and watchdog were both killed, the next throttle undoes what they left before it sets its own."""
    before = device.read_ahead_kib
    owner, seen = start_owner(volume)
    os.kill(seen["watchdog"], signal.SIGKILL)
    os.kill(owner.pid, signal.SIGKILL)
    end_owner(owner)
    assert Path(seen["cgroup"]).exists()
    assert device.read_ahead_kib == 64
    with Throttle(device, Limits(1 << 20, 100, 32)):
        assert not Path(seen["cgroup"]).exists()
        assert device.read_ahead_kib == 32
    assert device.read_ahead_kib == before
    assert ours() == []


def test_leftovers_are_named(volume: Path, device: BlockDevice) -> None:
    """Undoing leftovers says what was undone, once."""
    owner, seen = start_owner(volume)
    os.kill(seen["watchdog"], signal.SIGKILL)
    os.kill(owner.pid, signal.SIGKILL)
    end_owner(owner)
    assert undo_leftovers() == [f"undid the throttle of device {device.number} that process {owner.pid} left"]
    assert undo_leftovers() == []


def test_undone_without_the_watchdog(volume: Path, device: BlockDevice) -> None:
    """A run whose watchdog was killed undoes its throttle itself."""
    before = device.read_ahead_kib
    owner, seen = start_owner(volume)
    os.kill(seen["watchdog"], signal.SIGKILL)
    owner.communicate("")
    assert owner.returncode == 0
    assert device.read_ahead_kib == before
    assert ours() == []


def test_ctrl_c_does_not_end_the_watchdog(volume: Path, device: BlockDevice) -> None:
    """The watchdog ignores what a terminal or a shutdown sends, and undoes when its run is gone."""
    before = device.read_ahead_kib
    owner, seen = start_owner(volume)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(seen["watchdog"], number)
    end_owner(owner)
    wait_for(lambda: not ours(), "the watchdog left something")
    assert device.read_ahead_kib == before


def test_one_throttle_at_a_time(volume: Path, device: BlockDevice) -> None:
    """A device that another run has throttled is refused, by the name of the process, and stays as that run has it."""
    owner, _ = start_owner(volume)
    try:
        with (
            pytest.raises(StorageUnavailableError, match=f"throttled by process {owner.pid}"),
            Throttle(device, LIMITS),
        ):
            pass
        assert device.read_ahead_kib == 64
    finally:
        owner.communicate("")
    assert ours() == []


def test_without_rights_the_error_names_the_way_out(volume: Path, device: BlockDevice) -> None:
    """Who may not throttle is told so, with the three things that can be done."""

    def throttle() -> None:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        Throttle(device, LIMITS)

    complaint = run_in_child(throttle)
    assert "StorageUnavailableError" in complaint
    assert "no right to write to" in complaint
    for way_out in ("as root", "--storage gp3=", "--unthrottled"):
        assert way_out in complaint


def test_partition_is_throttled_by_its_disk(volume: Path, tmp_path: Path) -> None:
    """Of a partition, the disk is what can be throttled: the kernel takes no partition."""
    with mounted_volume(tmp_path, partitioned=True) as point:
        device = find_device(point)
        assert (Path("/sys/class/block") / device.name / f"{device.name}p1" / "partition").exists()
        with Throttle(device, LIMITS) as throttle:
            assert set_limits(throttle.cgroup, device)["iops"] == 1000


def test_memory_is_no_device() -> None:
    """A file system without a block device is refused in words that say what to give instead."""
    with pytest.raises(NoBlockDeviceError, match="give a directory on a disk"):
        find_device(Path("/proc"))


MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
38 31 0:35 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/my\\040groups rw,relatime shared:9 - cgroup cgroup rw,blkio
"""


def test_finds_version_1_by_its_controller() -> None:
    """A v1 hierarchy is found where it is mounted, whatever the folder is called."""
    assert find_hierarchy(MOUNTS.splitlines()) == BlkioHierarchy(Path("/sys/fs/my groups"))


def test_finds_version_2_only_with_its_controller(tmp_path: Path) -> None:
    """A v2 hierarchy counts only where its io controller is there: on hybrid systems it is not."""
    mounts = [f"41 31 0:38 / {tmp_path} rw - cgroup2 cgroup2 rw"]
    assert find_hierarchy(mounts) is None
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    assert find_hierarchy(mounts) is None
    (tmp_path / "cgroup.controllers").write_text("cpu io memory\n")
    assert find_hierarchy(mounts) == IoHierarchy(tmp_path)


def test_version_2_in_its_own_words(tmp_path: Path) -> None:
    """v2 is enabled for children only if it was not, that is undone, and limits and counts are in v2's format."""
    hierarchy = IoHierarchy(tmp_path)
    group = tmp_path / "group"
    group.mkdir()
    (tmp_path / "cgroup.subtree_control").write_text("cpu\n")
    control = str(tmp_path / "cgroup.subtree_control")
    assert hierarchy.preparation() == ([[control, "+io"]], [[control, "-io"]])
    (tmp_path / "cgroup.subtree_control").write_text("cpu io\n")
    assert hierarchy.preparation() == ([], [])
    assert hierarchy.limits_on("8:0", Limits(1000, 10)) == [["io.max", "8:0 rbps=1000 riops=10"]]
    assert hierarchy.limits_off("8:0") == [["io.max", "8:0 rbps=max riops=max"]]
    (group / "io.stat").write_text("8:16 rbytes=7 wbytes=0 rios=1 wios=0\n8:0 rbytes=4096 wbytes=1 rios=1 wios=1\n")
    assert hierarchy.read_bytes(group, "8:0") == 4096
    assert hierarchy.read_bytes(group, "9:0") == 0
