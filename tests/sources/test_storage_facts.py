"""What is seen of a file's storage agrees with what other tools see."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import slipstream
from slipstream import Options
from slipstream.sources import page_cache
from slipstream.sources.mounts import see_storage
from slipstream.sources.page_cache import count_cached_bytes
from slipstream.types import FILE_STRATEGIES, Strategy
from tests.streaming.random_checkpoints import make_bytes, write_flat

PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor to read by, without read-ahead."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        yield descriptor
    finally:
        os.close(descriptor)


def drop_cached(path: Path) -> None:
    """Brings a file to the disk and out of the page cache; skips where its file system is memory."""
    with opened(path) as descriptor:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    if see_storage(str(path)).in_memory:
        pytest.skip("the test's directory is in memory: its pages cannot be dropped")


def ask_df(path: Path) -> str:
    """The type of the file system as coreutils name it."""
    answer = subprocess.run(["df", "--output=fstype", str(path)], capture_output=True, text=True, check=True)
    return answer.stdout.split()[-1]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two mebibytes and a bit."""
    path = tmp_path / "file"
    path.write_bytes(make_bytes(2 * MIB + 100, seed=1))
    return path


def test_file_system_of_the_test_directory(file: Path) -> None:
    """Type and volume are those that df and stat give."""
    facts = see_storage(str(file))
    assert facts.filesystem == ask_df(file)
    device = file.stat().st_dev
    assert facts.volume == f"{os.major(device)}:{os.minor(device)}"
    assert facts.in_memory == (facts.filesystem in ("tmpfs", "ramfs"))
    assert not facts.remote or facts.filesystem not in ("ext4", "xfs", "btrfs", "overlay", "tmpfs")


def test_links_are_judged_by_their_target(file: Path) -> None:
    """A link from one file system to another has the facts of the file that it leads to."""
    if ask_df(Path("/dev/shm")) != "tmpfs":
        pytest.skip("/dev/shm is no tmpfs here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        link = Path(folder) / "link"
        link.symlink_to(file)
        assert see_storage(str(link)) == see_storage(str(file))


def test_tmpfs() -> None:
    """A file in shared memory is recognised as memory and mapped, and the reason says so."""
    if ask_df(Path("/dev/shm")) != "tmpfs":
        pytest.skip("/dev/shm is no tmpfs here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "a.safetensors"
        write_flat(path, {"a": 100_000})
        facts = see_storage(str(path))
        assert (facts.filesystem, facts.in_memory, facts.remote) == ("tmpfs", True, False)
        (choice,) = slipstream.plan(path).choices
        assert choice is not None
        assert choice.strategy is Strategy.MAPPED
        assert "tmpfs" in choice.reason
        for strategy in FILE_STRATEGIES:
            assert slipstream.load(path, options=Options(strategy=strategy))["a"].nbytes == 100_000


def test_memory_that_is_available(file: Path) -> None:
    """Available memory is some, and no more than the machine has."""
    available = see_storage(str(file)).available_bytes
    assert available is not None
    assert 0 < available <= os.sysconf("SC_PHYS_PAGES") * PAGE


def test_cached_bytes_follow_the_page_cache(file: Path) -> None:
    """Nothing is cached after the pages were dropped, everything after the file was read."""
    drop_cached(file)
    assert see_storage(str(file)).cached_bytes == 0
    file.read_bytes()
    assert see_storage(str(file)).cached_bytes == file.stat().st_size


def test_looking_reads_nothing(file: Path) -> None:
    """Gathering facts brings nothing into the page cache."""
    drop_cached(file)
    for _ in range(3):
        assert see_storage(str(file)).cached_bytes == 0


def test_planning_reads_the_header_only(tmp_path: Path) -> None:
    """After inspect and plan of a cold file, only its beginning is in the page cache."""
    path = tmp_path / "a.safetensors"
    write_flat(path, {f"t{number}": MIB for number in range(8)})
    drop_cached(path)
    slipstream.plan(path)
    cached = see_storage(str(path)).cached_bytes
    assert cached is not None
    assert cached <= 2 * MIB  # the header's read and the kernel's read-ahead


RANGES = [
    (0, 2 * MIB + 100),
    (0, PAGE),
    (0, 1),
    (PAGE, 5 * PAGE),
    (MIB, MIB),
    (2 * MIB, 100),
    (2 * MIB, PAGE),
    (0, 0),
]


@pytest.mark.parametrize("cached", ["nothing", "some", "all"])
@pytest.mark.parametrize(("offset", "length"), RANGES)
def test_mincore_agrees_with_cachestat(cached: str, offset: int, length: int, file: Path) -> None:
    """The way for older kernels counts the same pages as the new one."""
    drop_cached(file)
    with opened(file) as descriptor:
        if cached == "all":
            file.read_bytes()
        if cached == "some":
            os.pread(descriptor, PAGE, 2 * PAGE)
            os.pread(descriptor, PAGE, MIB)
        expected = count_cached_bytes(descriptor, offset, length)
        by_mincore = page_cache._count_by_mincore(descriptor, offset, min(length, file.stat().st_size - offset))
    there = min(length, file.stat().st_size - offset)
    assert expected is not None
    assert by_mincore is not None
    assert min(by_mincore, there) == min(expected, there)
    if cached == "all":
        assert expected >= there
    if cached == "nothing":
        assert expected == 0


def test_mincore_beyond_the_end(file: Path) -> None:
    """A range behind the file's end has no cached pages."""
    with opened(file) as descriptor:
        assert page_cache._count_by_mincore(descriptor, 4 * MIB, -2 * MIB) == 0
        assert count_cached_bytes(descriptor, 4 * MIB, MIB) == 0


def test_empty_file_has_no_pages(tmp_path: Path) -> None:
    """An empty file can be asked about."""
    (tmp_path / "empty").touch()
    assert see_storage(str(tmp_path / "empty")).cached_bytes == 0


def test_cold_and_warm_plans_say_so(tmp_path: Path) -> None:
    """The reason of a plan follows the page cache: cold, then warm."""
    path = tmp_path / "a.safetensors"
    write_flat(path, {f"t{number}": MIB for number in range(4)})
    drop_cached(path)
    (cold,) = slipstream.plan(path).choices
    slipstream.load(path)
    path.read_bytes()
    (warm,) = slipstream.plan(path).choices
    assert cold is not None
    assert warm is not None
    assert "all of it is in the page cache" not in cold.reason
    assert "all of it is in the page cache" in warm.reason
    assert warm.strategy is Strategy.MAPPED


def test_changed_file_has_another_etag(tmp_path: Path) -> None:
    """A blob's etag changes when its file is written to or replaced, and only then."""
    path = tmp_path / "a.safetensors"
    write_flat(path, {"a": 100})
    os.utime(path, ns=(1, 1))
    first = slipstream.inspect(path).blobs
    assert slipstream.inspect(path).blobs == first
    os.utime(path, ns=(1, 2))
    second = slipstream.inspect(path).blobs
    write_flat(tmp_path / "b", {"a": 100})
    os.utime(tmp_path / "b", ns=(1, 2))
    os.replace(tmp_path / "b", path)
    third = slipstream.inspect(path).blobs
    assert len({blobs[0].etag for blobs in (first, second, third)}) == 3
