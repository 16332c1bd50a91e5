"""The faulty file system itself: without faults it is the directory, and each fault is what it says."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from pathlib import Path

import pytest

from slipstream.testing.faulty_fs import FaultyFs
from tests.fuse.mounts import mount_faulty

Mounted = tuple[FaultyFs, Path]
KIB = 1024


def write(mounted: Mounted, name: str, data: bytes) -> Path:
    faulty, source = mounted
    (source / name).write_bytes(data)
    return faulty.mount_point / name


def test_shows_the_directory(faulty_fs: Mounted) -> None:
    """Names, sizes, times and bytes are those of the directory; nothing can be written."""
    path = write(faulty_fs, "plain", os.urandom(300 * KIB))
    behind = faulty_fs[1] / "plain"
    assert "plain" in os.listdir(faulty_fs[0].mount_point)
    assert path.read_bytes() == behind.read_bytes()
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (behind.stat().st_size, behind.stat().st_mtime_ns)
    with pytest.raises(OSError, match="Read-only"):
        path.write_bytes(b"")


def test_failing_reads(faulty_fs: Mounted) -> None:
    """Reads fail from an offset on, and are whole before it and after a reset."""
    path = write(faulty_fs, "failing", os.urandom(512 * KIB))
    faulty_fs[0].fail_from(256 * KIB, errno.ENXIO)
    page = mmap.mmap(-1, mmap.PAGESIZE)  # aligned, as O_DIRECT wants it
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with pytest.raises(OSError) as caught:  # noqa: PT011
            os.preadv(descriptor, [page], 256 * KIB)
        assert caught.value.errno == errno.ENXIO
        assert os.preadv(descriptor, [page], 0) == mmap.PAGESIZE
    finally:
        os.close(descriptor)
    faulty_fs[0].reset()
    assert len(path.read_bytes()) == 512 * KIB


def test_held_reads(faulty_fs: Mounted) -> None:
    """A held read waits until the gate opens; who asks for more reads than come is told."""
    data = os.urandom(512 * KIB)
    path = write(faulty_fs, "held", data)
    faulty_fs[0].hold_from(256 * KIB)
    found: list[bytes] = []
    reading = threading.Thread(target=lambda: found.append(path.read_bytes()))
    reading.start()
    (first, *_) = faulty_fs[0].wait_held(1)
    assert first.path == "/held"
    with pytest.raises(TimeoutError, match="not 1000"):
        faulty_fs[0].wait_held(1000, timeout_s=0.05)
    assert not found
    faulty_fs[0].release()
    reading.join()
    assert found == [data]


def test_delayed_reads(faulty_fs: Mounted) -> None:
    """A slow disk is slow and right."""
    path = write(faulty_fs, "slow", b"x" * KIB)
    faulty_fs[0].delay(0.01)
    assert path.read_bytes() == b"x" * KIB


def test_promised_bytes(faulty_fs: Mounted) -> None:
    """A file that promises more than it has ends early all the same."""
    path = write(faulty_fs, "short", b"x" * KIB)
    faulty_fs[0].promise(100)
    assert path.stat().st_size == KIB + 100
    assert path.read_bytes() == b"x" * KIB


def test_ends_with_reads_held(tmp_path: Path) -> None:
    """Closing lets held reads go and leaves no mount and no process."""
    with mount_faulty(tmp_path) as (faulty, source):
        (source / "held").write_bytes(b"x" * 512 * KIB)
        faulty.hold_from(0)
        reading = threading.Thread(target=lambda: (faulty.mount_point / "held").read_bytes())
        reading.start()
        faulty.wait_held(1)
    reading.join()
    assert not os.path.ismount(tmp_path / "faulty")
    assert os.listdir(tmp_path / "faulty") == []
