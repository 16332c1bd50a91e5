"""Checkpoints to run the commands on."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipstream.testing.checkpoints import write_safetensors
from slipstream.testing.synthetic import write_checkpoint

HOSTILE_NAMES = (
    "\x1b]0;owned\x07\x1b[2J",
    "[red]markup[/red][/]",
    "two\nlines\rand\ttabs",
    "\u202egnitirw fo redro",
    "emoji :smile: \x9b31m \x7f",
    "x" * 5000,
    "",
)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A tiny Llama in three shards: 39 tensors, 8,000,000 bytes."""
    return write_checkpoint("llama-tiny", tmp_path / "tiny", shards=3).directory


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A valid file whose own name, tensor names and metadata attack the terminal."""
    path = tmp_path / "[bold]\x1b[31m.safetensors"
    tensors = {name: ("U8", [1] * number, b"\0") for number, name in enumerate(HOSTILE_NAMES)}
    write_safetensors(path, tensors, metadata={name: name for name in HOSTILE_NAMES})
    return path
