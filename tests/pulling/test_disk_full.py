"""A disk that is full: told before, where that can be seen, and else with everything kept that has come."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import slipstream
from slipstream import Progress
from slipstream.pulling.directory import Directory
from slipstream.pulling.record import Record, read_record
from slipstream.types import Blob, ListedFile
from tests.fuse.mounts import mount_in_memory
from tests.pulling.models import SMALL_CHUNKS, own_names, read_tree, write_files

SIZES = {"a.json": 1000, "b.bin": 1_000_000, "c.bin": 4_000_000}
MORE = "remount,size=16m"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    with mount_in_memory("tmpfs", mount_point):
        subprocess.run(["mount", "-o", "remount,size=3m", str(mount_point)], check=True)
        yield mount_point


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if somebody else filled the disk after the first look at it."""
    monkeypatch.setattr(Directory, "free_bytes", lambda self: None)


def test_too_little_room(disk: Path, tmp_path: Path) -> None:
    """What cannot fit is refused before a byte is fetched, with both sizes."""
    write_files(tmp_path / "m", SIZES)
    reports: list[Progress] = []
    with pytest.raises(slipstream.WriteError, match=r"5\.0 MB have to be fetched, and .* has 3\.1 MB free") as caught:
        slipstream.pull(tmp_path / "m", disk / "to", progress=reports.append)
    assert caught.value.errno == errno.ENOSPC
    assert reports == []
    assert read_tree(disk / "to") == {}


@pytest.mark.usefixtures("blind")
def test_full_in_the_midst(disk: Path, tmp_path: Path) -> None:
    """A disk that fills up is an error that says what to do; with more room the pull goes on from what had come."""
    contents = write_files(tmp_path / "m", SIZES)
    with pytest.raises(slipstream.WriteError, match=r"its disk is full \(ENOSPC\).*pull again") as caught:
        slipstream.pull(tmp_path / "m", disk / "to", options=SMALL_CHUNKS)
    assert caught.value.errno == errno.ENOSPC
    there = read_tree(disk / "to")
    assert "c.bin" not in there
    assert there.items() <= contents.items()
    subprocess.run(["mount", "-o", MORE, str(disk)], check=True)
    reports: list[Progress] = []
    slipstream.pull(tmp_path / "m", disk / "to", options=SMALL_CHUNKS, progress=reports.append)
    assert read_tree(disk / "to") == contents
    most_came = 3 << 20
    assert sum(SIZES.values()) - most_came <= reports[-1].bytes_total <= sum(SIZES.values()) - most_came // 2
    assert own_names(disk / "to") == ["lock", "pull.jsonl"]


@pytest.mark.usefixtures("blind")
def test_full_from_the_beginning(disk: Path, tmp_path: Path) -> None:
    """A disk without a byte left is told, whatever is the first that cannot be written."""
    write_files(tmp_path / "m", {"a.json": 1000})
    fill(disk)
    with pytest.raises(slipstream.WriteError, match="disk is full"):
        slipstream.pull(tmp_path / "m", disk / "to")
    assert read_tree(disk).keys() == {"filler"}
    (disk / "filler").unlink()
    [path] = slipstream.pull(tmp_path / "m", disk / "to")
    assert path.stat().st_size == 1000


def test_files_larger_than_allowed(tmp_path: Path) -> None:
    """A limit on the size of files is told by its name; what had come within it is kept."""
    contents = write_files(tmp_path / "m", SIZES)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    try:
        with pytest.raises(slipstream.WriteError, match=r"\(EFBIG\); raise the limit \(ulimit -f\)"):
            slipstream.pull(tmp_path / "m", tmp_path / "to", options=SMALL_CHUNKS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "c.bin" not in read_tree(tmp_path / "to")
    reports: list[Progress] = []
    slipstream.pull(tmp_path / "m", tmp_path / "to", options=SMALL_CHUNKS, progress=reports.append)
    assert read_tree(tmp_path / "to") == contents
    assert reports[-1].bytes_total < SIZES["c.bin"] - 1_000_000


def test_a_disk_that_fails_behind_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only shows when a file is brought to the disk is an error too, and no file appears that is not on it."""
    contents = write_files(tmp_path / "m", SIZES)
    fsync = os.fsync

    def fail(descriptor: int) -> None:
        if os.fstat(descriptor).st_size == SIZES["b.bin"]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(slipstream.WriteError, match=r"the disk failed \(EIO\); look at the kernel log") as caught:
            slipstream.pull(tmp_path / "m", tmp_path / "to", options=SMALL_CHUNKS)
    assert caught.value.errno == errno.EIO
    assert "b.bin" not in read_tree(tmp_path / "to")
    slipstream.pull(tmp_path / "m", tmp_path / "to", options=SMALL_CHUNKS)
    assert read_tree(tmp_path / "to") == contents
    assert own_names(tmp_path / "to") == ["lock", "pull.jsonl"]


def test_there_is_room_for_the_record(disk: Path) -> None:
    """On a disk without a byte left, what has come can still be noted."""
    file = ListedFile("b.bin", Blob("s3://m/b.bin", 100_000, '"e"'))
    spans = tuple((start, start + 5) for start in range(0, 10_000, 10))  # more than a page of text
    with Directory(str(disk / "to"), make=True) as place, Record(place, [file]) as record:
        fill(disk)
        record.note_landed(file, spans)
        assert read_record(place)["b.bin"].landed == spans
        assert own_names(disk / "to") == ["pull.jsonl"]


def fill(disk: Path) -> None:
    """Leaves no byte on a disk."""
    with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(b"x" * 4096)
    assert os.statvfs(disk).f_bavail == 0
