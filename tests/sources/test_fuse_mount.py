"""On a real FUSE mount: it is recognised, read in parallel, and every forced strategy works or falls back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import slipstream
from slipstream import Options
from slipstream.sources.mounts import see_storage
from slipstream.types import FILE_STRATEGIES, Strategy
from tests.fuse.mounts import mount_bindfs
from tests.streaming.random_checkpoints import tensor_bytes, write_flat


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A directory that bindfs shows through FUSE."""
    source, mount = tmp_path / "source", tmp_path / "mount"
    source.mkdir()
    mount.mkdir()
    with mount_bindfs(source, mount):
        yield mount


def test_fuse_is_recognised_and_read(mounted: Path) -> None:
    """A file on FUSE is remote by its facts, buffered by the policy, with the reason in words, and loads right."""
    written = write_flat(mounted / "a.safetensors", {f"t{number}": 70_001 for number in range(20)})
    facts = see_storage(str(mounted / "a.safetensors"))
    assert facts.remote
    assert facts.filesystem.startswith("fuse")
    (choice,) = slipstream.plan(mounted).choices
    assert choice is not None
    assert choice.strategy is Strategy.BUFFERED
    assert "FUSE" in choice.reason
    found = slipstream.load(mounted, options=Options(chunk_bytes=4096))
    assert {name: tensor_bytes(tensor) for name, tensor in found.items()} == written


@pytest.mark.parametrize("strategy", FILE_STRATEGIES)
def test_forced_strategies_on_fuse(strategy: Strategy, mounted: Path) -> None:
    """Each strategy that is forced on FUSE delivers the right bytes, by a fallback where it is refused."""
    written = write_flat(mounted / "a.safetensors", {f"t{number}": 70_001 for number in range(20)})
    with slipstream.stream(mounted, options=Options(strategy=strategy, chunk_bytes=8192)) as tensors:
        found = {name: tensor_bytes(tensor) for name, tensor in tensors}
    assert found == written
    assert all(line.startswith(str(mounted)) for line in tensors.stats().fallbacks)
