"""Checkpoints on a disk, in memory and on FUSE."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipstream.types import FILE_STRATEGIES, Strategy
from tests.endings.sample import write_sample


@pytest.fixture(params=FILE_STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> Strategy:
    """Each of the strategies."""
    found: Strategy = request.param
    return found


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """A checkpoint on the disk, and its contents."""
    path = tmp_path / "model.safetensors"
    return path, write_sample(path)
