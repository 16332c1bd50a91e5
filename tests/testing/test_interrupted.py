"""Whatever interrupts a write, nothing of it is left behind."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipstream.errors import AccessDeniedError, SlipstreamError, UsageError
from slipstream.testing.synthetic import write_checkpoint


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB, of which a tiny Llama fills more than twice as much."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(mount_point)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs takes root")
    yield mount_point
    subprocess.run(["umount", str(mount_point)], check=True)


@pytest.fixture
def blind_to_free_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if somebody else filled the disk after the writer looked."""
    plenty = shutil.disk_usage("/")._replace(free=1 << 50)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: plenty)


def test_no_room_is_noticed_before_writing(small_disk: Path) -> None:
    """A checkpoint larger than the free space is refused at once, and the message names both sizes."""
    with pytest.raises(SlipstreamError, match=r"8\.0 MB, and .* has 3\.1 MB free"):
        write_checkpoint("llama-tiny", small_disk / "out")
    assert os.listdir(small_disk) == []


@pytest.mark.usefixtures("blind_to_free_space")
@pytest.mark.parametrize("shards", [1, 4])
def test_disk_full_while_writing(small_disk: Path, shards: int) -> None:
    """A disk that fills up in mid-write is a SlipstreamError that says so, and it is as empty as before."""
    with pytest.raises(SlipstreamError, match="No space left on device"):
        write_checkpoint("llama-tiny", small_disk / "new" / "out", shards=shards)
    assert os.listdir(small_disk) == []


def test_file_size_limit(tmp_path: Path) -> None:
    """A process that may not write files this large leaves none of them, whole or half."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, hard))
    try:
        with pytest.raises(SlipstreamError, match="File too large"):
            write_checkpoint("llama-tiny", tmp_path / "out", shards=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_interrupted_by_the_caller(tmp_path: Path, interruption: type[BaseException]) -> None:
    """Ctrl-C, or an error in the progress function, ends the threads and leaves nothing, not even the directories."""

    def interrupt(done: int, total: int) -> None:
        raise interruption

    threads = threading.active_count()
    with pytest.raises(interruption):
        write_checkpoint("llama-tiny", tmp_path / "new" / "out", shards=3, progress=interrupt)
    assert os.listdir(tmp_path) == []
    assert threading.active_count() <= threads


def test_interrupted_replacement_keeps_the_old(tmp_path: Path) -> None:
    """A write with force that is interrupted leaves the old checkpoint whole."""

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    write_checkpoint("llama-tiny", tmp_path, shards=2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint("llama-tiny", tmp_path, force=True, seed=9, progress=interrupt)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_directories_of_others_stay(tmp_path: Path) -> None:
    """An interrupted write removes what it made, and nothing that somebody else has put there meanwhile."""

    def interfere(done: int, total: int) -> None:
        (tmp_path / "new" / "note").write_text("mine")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint("llama-tiny", tmp_path / "new" / "out", progress=interfere)
    assert os.listdir(tmp_path / "new") == ["note"]


def test_out_is_a_file(tmp_path: Path) -> None:
    """A file in the place of the directory is wrong usage."""
    (tmp_path / "out").write_text("")
    with pytest.raises(UsageError, match="not a directory"):
        write_checkpoint("llama-tiny", tmp_path / "out")


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Root may write everywhere, so it becomes nobody for the while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


@pytest.mark.parametrize("mode", [0o000, 0o555])
def test_directory_that_may_not_be_written(tmp_path: Path, mode: int, request: pytest.FixtureRequest) -> None:
    """A directory that may not be written, or not even be seen, is an AccessDeniedError that names the new one."""
    (tmp_path / "closed").mkdir(mode=mode)
    request.getfixturevalue("unprivileged")
    with pytest.raises(AccessDeniedError, match=r"cannot write into .*out"):
        write_checkpoint("llama-tiny", tmp_path / "closed" / "out")
