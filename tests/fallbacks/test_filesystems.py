"""Every strategy on every file system: each works when forced, and tells what it could not keep."""

from __future__ import annotations

import errno
import gc
import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import slipstream
from slipstream.options import make_options
from slipstream.testing.faulty_fs import FaultyFs
from slipstream.types import FILE_STRATEGIES, Strategy
from tests.endings.leaks import see_footprint, wait_nothing_left
from tests.endings.sample import as_bytes, write_sample
from tests.fuse.mounts import mount_bindfs, mount_in_memory

Checkpoint = tuple[Path, dict[str, bytes]]


def load(path: Path, strategy: str) -> tuple[dict[str, bytes], slipstream.LoadStats]:
    options = make_options(strategy=strategy, concurrency=4, chunk_bytes=128 << 10)
    tensors = slipstream.stream(path, framework="numpy", options=options)
    return as_bytes(tensors), tensors.stats()


def assert_told_of_direct(stats: slipstream.LoadStats, path: Path) -> None:
    """One line: which file, what was refused, with the system's words for it, and what was done instead."""
    (line,) = stats.fallbacks
    assert line.startswith(f"{path}: O_DIRECT was refused (")
    assert "Invalid argument" in line
    assert "through the page cache instead" in line


@pytest.fixture(params=["disk", "tmpfs", "ramfs", "bindfs", "faulty"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path, Path]]:
    """A file system's name, where files are written, and where they are read."""
    written, read = tmp_path / "written", tmp_path / "read"
    written.mkdir()
    read.mkdir()
    if request.param == "disk":
        yield request.param, written, written
    elif request.param == "bindfs":
        with mount_bindfs(written, read):
            yield request.param, written, read
    elif request.param == "faulty":
        faulty, source = request.getfixturevalue("faulty_fs")
        yield request.param, source, faulty.mount_point
    else:
        with mount_in_memory(request.param, read):
            yield request.param, read, read


@pytest.mark.parametrize("name", ["auto", *FILE_STRATEGIES])
def test_forced(place: tuple[str, Path, Path], name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The strategy that is asked for delivers every byte, and what was refused is told once, in stats and log."""
    filesystem, written, read = place
    contents = write_sample(written / "model.safetensors")
    path = read / "model.safetensors"
    before = see_footprint(read)
    with caplog.at_level(logging.WARNING, "slipstream"):
        found, stats = load(path, name)
    assert found == contents
    assert caplog.messages == list(stats.fallbacks)
    if name != "auto":
        assert stats.files[0].strategy == name
        assert stats.files[0].reason == "asked for by the options"
    if filesystem == "ramfs" and name == "direct":
        assert_told_of_direct(stats, path)
    elif filesystem != "tmpfs":  # which knows O_DIRECT since Linux 6.6
        assert stats.fallbacks == ()
    wait_nothing_left(before, read)


def test_in_memory_is_mapped(tmp_path: Path) -> None:
    """What lies in a tmpfs is memory already: auto maps it, and says so."""
    with mount_in_memory("tmpfs", tmp_path):
        contents = write_sample(tmp_path / "model.safetensors")
        found, stats = load(tmp_path / "model.safetensors", "auto")
    assert found == contents
    assert [(file.strategy, file.reason) for file in stats.files] == [
        (Strategy.MAPPED, "tmpfs is memory already: mapped, nothing is copied")
    ]


def test_read_only_mount(tmp_path: Path, strategy: Strategy) -> None:
    """A file that nobody can write to loads like any other: tensors are writable, the file is not touched."""
    with mount_in_memory("tmpfs", tmp_path):
        contents = write_sample(tmp_path / "model.safetensors")
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        options = slipstream.Options(strategy=strategy)
        tensors = slipstream.load(tmp_path / "model.safetensors", framework="numpy", options=options)
        for tensor in tensors.values():
            tensor[...] = 0
        del tensor, tensors
        found, _ = load(tmp_path / "model.safetensors", strategy)
    assert found == contents


@pytest.mark.parametrize("first_bad", [0, 3 << 20], ids=["at once", "in the middle"])
def test_direct_read_refused(
    faulty_fs: tuple[FaultyFs, Path], first_bad: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A file system that opens with O_DIRECT but refuses to read so (EINVAL) is read through the page cache instead."""
    faulty, source = faulty_fs
    contents = write_sample(source / "model.safetensors")
    path = faulty.mount_point / "model.safetensors"
    faulty.fail_from(first_bad, errno.EINVAL, direct_only=True)
    found, stats = load(path, "direct")
    assert found == contents
    assert_told_of_direct(stats, path)
    assert caplog.messages == list(stats.fallbacks)


def test_refused_direct_reads_keep_no_memory(faulty_fs: tuple[FaultyFs, Path]) -> None:
    """The refusal is forgotten with its memory at once: none waits for the garbage collector."""
    faulty, source = faulty_fs
    write_sample(source / "model.safetensors")
    faulty.fail_from(0, errno.EINVAL, direct_only=True)
    before = see_footprint(faulty.mount_point)
    gc.disable()
    try:
        load(faulty.mount_point / "model.safetensors", "direct")
        wait_nothing_left(before, faulty.mount_point)
    finally:
        gc.enable()


def test_failing_direct_reads_are_no_refusal(faulty_fs: tuple[FaultyFs, Path]) -> None:
    """EIO is no refusal: the disk failed, and the error says so instead of trying another way."""
    faulty, source = faulty_fs
    write_sample(source / "model.safetensors")
    faulty.fail_from(0, errno.EIO, direct_only=True)
    with pytest.raises(slipstream.ReadError, match="EIO"):
        load(faulty.mount_point / "model.safetensors", "direct")
