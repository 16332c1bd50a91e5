"""Two FUSE file systems: bindfs, written in C, and the faulty one of slipstream.testing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.endings.sample import write_sample
from tests.fuse.mounts import mount_bindfs


@pytest.fixture
def bindfs_checkpoint(tmp_path: Path) -> Iterator[tuple[Path, dict[str, bytes]]]:
    """A checkpoint seen through bindfs, and its contents."""
    source, mount_point = tmp_path / "source", tmp_path / "bindfs"
    source.mkdir()
    mount_point.mkdir()
    contents = write_sample(source / "model.safetensors")
    with mount_bindfs(source, mount_point):
        yield mount_point / "model.safetensors", contents
