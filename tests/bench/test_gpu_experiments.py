"""The experiments to a GPU, and the script that runs all of them: here to the CPU, at tiny size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import compare_with_limits
from slipstream.bench.experiments import EXPERIMENTS, GROUPS
from slipstream.bench.plan import choose_entries
from slipstream.bench.records import read_records
from slipstream.testing import seaweedfs as seaweedfs_module
from tests.cli.process import run

ROOT = Path(__file__).resolve().parents[2]
CONTENDERS = ["slipstream", "floor"]


def test_every_row_has_a_figure(tmp_path: Path) -> None:
    """A short run of the group takes one sample of each row from disk, page cache, tmpfs and S3, all verified."""
    missing = {"gpu-s3"} if seaweedfs_module.why_unavailable() else set()
    names = [name for name in GROUPS["gpu"] if name not in missing]
    tiny = ("--quick", "--unthrottled", "--model", "llama-tiny", "--layers", "2", "--contenders", ",".join(CONTENDERS))
    try:
        done = run("bench", "run", *names, *tiny, "--cache", tmp_path / "cache", "--output", tmp_path / "out")
    finally:
        folder = Path("/dev/shm/slipstream-bench/llama-tiny-2-layers")
        for file in folder.glob("*") if folder.is_dir() else ():
            file.unlink()
    assert done.returncode == 0, done.stderr
    records = read_records(tmp_path / "out" / "results.jsonl")
    for name in names:
        wanted = choose_entries(EXPERIMENTS[name], contenders=CONTENDERS, quick=True)
        found = [record for record in records if record.experiment == name]
        assert len(found) == len(wanted)
        for record in found:
            assert (record.status, record.reason) == ("ok", "")
            assert record.verified


def make_record(experiment: str, role: str, label: str, gb_per_s: float, **more: Any) -> dict[str, Any]:
    figures = {"nbytes": 4_000_000_000, "seconds": 4 / gb_per_s}
    return {
        "experiment": experiment, "role": role, "contender": "slipstream" if role == "slipstream" else "theirs",
        "label": label, "status": "ok", "figures": figures, **more,
    }  # fmt: skip


def test_shares_of_the_limit() -> None:
    """From a disk the slower of disk and copy is the limit, from memory the copy; medians count."""
    records = [
        *[make_record("gpu-cold", "slipstream", "defaults", rate) for rate in (5.0, 6.0, 50.0)],
        make_record("gpu-cold", "slipstream", "chunks of 16 MiB", 6.5),
        make_record("gpu-cold", "floor", "direct", 8.0),
        make_record("gpu-cold", "peer", "defaults", 4.0),
        make_record("gpu-cold", "peer", "faster", 99.0, status="failed"),
        make_record("gpu-warm", "slipstream", "defaults", 20.0),
        make_record("gpu-warm", "floor", "populate", 8.0),
    ]
    cold, warm = compare_with_limits(records, copy_gb_per_s=40.0)
    assert cold["share_of_limit"] == pytest.approx(6.0 / 8.0)
    assert (cold["best_peer"], cold["best_peer_gb_per_s"]) == ("theirs, defaults", pytest.approx(4.0))
    assert cold["slipstream_best_gb_per_s"] == pytest.approx(6.5)
    assert warm["share_of_limit"] == pytest.approx(20.0 / 40.0)
    assert warm["best_peer"] is None
    assert compare_with_limits(records[3:4], copy_gb_per_s=5.0)[0]["share_of_limit"] == pytest.approx(6.5 / 5.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu() -> None:
    """The script says that there is no GPU, and ends with 2."""
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu.py"], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 2
    assert "finds no GPU" in done.stdout


def test_wheels_are_those_that_are_tested_here() -> None:
    """What is carried to a machine with a GPU has the versions of constraints.txt, where that names them."""
    pinned = dict(line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    carried = [
        line.lower().split("==")
        for line in (ROOT / "benchmarks" / "gpu-wheels.txt").read_text().split()
        if "==" in line
    ]
    assert len(carried) > 30
    assert {name: version for name, version in carried if pinned.get(name, version) != version} == {}
