"""Two FUSE file systems: bindfs, written in C, and the faulty one of slipstream.testing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from slipstream.testing.faulty_fs import FaultyFs
from tests.endings.sample import write_sample
from tests.fuse.mounts import mount_bindfs, mount_faulty


@pytest.fixture(scope="session")
def faulty_mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FaultyFs, Path]]:
    with mount_faulty(tmp_path_factory.mktemp("fuse")) as mounted:
        yield mounted


@pytest.fixture
def faulty_fs(faulty_mount: tuple[FaultyFs, Path]) -> Iterator[tuple[FaultyFs, Path]]:
    """The faulty file system without a fault yet, and the directory behind it."""
    yield faulty_mount
    faulty_mount[0].reset()


@pytest.fixture
def bindfs_checkpoint(tmp_path: Path) -> Iterator[tuple[Path, dict[str, bytes]]]:
    """A checkpoint seen through bindfs, and its contents."""
    source, mount_point = tmp_path / "source", tmp_path / "bindfs"
    source.mkdir()
    mount_point.mkdir()
    contents = write_sample(source / "model.safetensors")
    with mount_bindfs(source, mount_point):
        yield mount_point / "model.safetensors", contents
