"""Memory that the system does not give: an error that names the way out, and nothing left."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipstream.testing.checkpoints import encode_header
from slipstream.types import Dtype, Strategy
from tests.fallbacks.refused_load import run_refused

MIB = 1 << 20


@pytest.fixture
def large_checkpoint(tmp_path: Path) -> Path:
    """A tensor of 256 MiB in a file of holes, which takes no room on the disk."""
    path = tmp_path / "model.safetensors"
    header = encode_header([("t", Dtype.U8, [256 * MIB])])
    path.write_bytes(header)
    with open(path, "r+b") as file:
        file.truncate(len(header) + 256 * MIB)
    return path


def test_address_space_exhausted(large_checkpoint: Path, strategy: Strategy) -> None:
    """A process whose address space is too small gets a ReadError with three ways out, and its memory back."""
    outcome = run_refused(large_checkpoint, strategy, may_map=128 * MIB, concurrency=1)
    assert outcome.error == "ReadError"
    assert outcome.message.startswith("no memory for 268,435,456 bytes of ")
    assert str(large_checkpoint) in outcome.message
    assert "Cannot allocate memory" in outcome.message
    assert "memory_limit" in outcome.message
    assert outcome.left == ""
