"""`slipstream synth`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from slipstream.testing.layouts import LAYOUTS
from slipstream.testing.synthetic import write_checkpoint
from tests.cli.process import command, environment, run, run_on_terminal


def test_writes_what_the_library_writes(tmp_path: Path) -> None:
    """Layers, shards and seed of the command line give byte for byte the library's checkpoint."""
    done = run("synth", "llama-tiny", tmp_path / "a", "--layers", "2", "--shards", "2", "--seed", "7")
    assert (done.returncode, done.stderr) == (0, "")
    assert "21 tensors and 2 files" in done.stdout.replace("\n", " ")
    write_checkpoint("llama-tiny", tmp_path / "b", layers=2, shards=2, seed=7)
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()
    }


def test_wrong_layout_lists_the_layouts(tmp_path: Path) -> None:
    """A name that is no layout is wrong usage, and the message lists those there are."""
    done = run("synth", "gpt-9", tmp_path / "a")
    assert done.returncode == 2
    assert all(name in done.stderr for name in LAYOUTS)
    assert not (tmp_path / "a").exists()


def test_existing_checkpoint_wants_force(tiny: Path) -> None:
    """A checkpoint is not overwritten but with --force."""
    refused = run("synth", "llama-tiny", tiny)
    assert refused.returncode == 2
    assert "force" in refused.stderr
    assert len(list(tiny.glob("*.safetensors"))) == 3
    assert run("synth", "llama-tiny", tiny, "--force").returncode == 0
    assert len(list(tiny.glob("*.safetensors"))) == 1


def test_bar_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal a bar shows the writing."""
    code, screen = run_on_terminal("synth", "llama-tiny", tmp_path / "a")
    assert code == 0
    assert "writing" in screen
    assert "━" in screen


@pytest.mark.timeout(60)
def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C in mid-write ends with 130, without a traceback, and with nothing left on the disk."""
    out = tmp_path / "new" / "out"
    with subprocess.Popen(
        command("synth", "llama-3.2-1b", out, "--layers", "6"), stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        while not any(out.glob(".model.safetensors.*")):  # until it has begun to write
            assert process.poll() is None, "it ended before it could be interrupted"
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert os.listdir(tmp_path) == []
