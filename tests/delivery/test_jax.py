"""framework="jax", in a process of its own: where JAX has been imported, every later fork is warned of."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(find_spec("jax") is None, reason="JAX is not installed")
def test_jax(tmp_path: Path) -> None:
    """Every case of jax_cases.py holds, with four CPU devices."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    pytest_alone = ["pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'cases'}"]
    command = [sys.executable, "-P", "-m", *pytest_alone, "tests/delivery/jax_cases.py"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=115, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
