"""Servers of files to pull."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from slipstream.testing.range_server import RangeServer
from tests.pulling.models import Served, serve_files

SIZES = {"large.bin": 1_500_001, "deep/er/middle.bin": 300_000, "small.json": 1000, "empty.txt": 0}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """One large file, one in folders, a small and an empty one."""
    root = tmp_path / "served"
    root.mkdir()
    with RangeServer(root) as server:
        yield serve_files(server, root, SIZES)
