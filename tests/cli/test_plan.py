"""`slipstream plan`."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.cli.process import assert_harmless, run


def test_shows_strategy_reason_and_totals(tiny: Path) -> None:
    """It names each file with its strategy and the reason, and what is read in all."""
    done = run("plan", tiny, "--strategy", "direct")
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("model-00001-of-00003.safetensors", "direct", "asked for", "8.00 MB in 39 tensors", "in flight"):
        assert words in done.stdout
    assert "skipped" not in done.stdout


def test_reads_headers_only(tiny: Path) -> None:
    """A checkpoint whose data may be a hole is planned all the same: only headers are read."""
    for path in tiny.glob("*.safetensors"):
        size = path.stat().st_size
        header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
        os.truncate(path, header)
        os.truncate(path, size)
    assert run("plan", tiny).returncode == 0


def test_json(tiny: Path) -> None:
    """--json has the totals, and for each file what is read of it and the choice; reads are no larger than a chunk."""
    plan = json.loads(run("plan", tiny, "--json", "--strategy", "buffered", "--chunk-bytes", "64KiB").stdout)
    assert (plan["bytes"], plan["tensors"], plan["skipped_bytes"]) == (8_000_000, 39, 0)
    assert sum(file["bytes"] for file in plan["files"]) == 8_000_000
    for file in plan["files"]:
        assert file["choice"]["strategy"] == "buffered"
        assert file["choice"]["chunk_bytes"] == 64 << 10
        assert file["reads"] >= file["bytes"] / (64 << 10)


def test_skipped_by_names(tiny: Path) -> None:
    """What --names leaves out is counted as skipped, and a file of which nothing is selected says so."""
    done = run("plan", tiny, "--names", "lm_head.weight")
    assert "1.05 MB in 1 tensor " in done.stdout
    assert "6.95 MB in 38 tensors" in done.stdout
    assert "no tensor of it is selected" in done.stdout
    plan = json.loads(run("plan", tiny, "--names", "lm_head.weight", "--json").stdout)
    assert plan["skipped_tensors"] == 38
    assert [file["choice"] is None for file in plan["files"]] == [True, True, False]


def test_hostile_file_name(hostile: Path) -> None:
    """Control characters and markup in a file's name are shown, not obeyed."""
    done = run("plan", hostile)
    assert done.returncode == 0
    assert_harmless(done.stdout)
    assert r"[bold]\x1b[31m.safetensors" in done.stdout


def test_for_a_device_and_a_type(tiny: Path) -> None:
    """A load to a device that is not here can be planned: the ring, why there is one, and what tensors take there."""
    done = run("plan", tiny, "--device", "cuda:0", "--dtype", "float32")
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("ring", "page-locked", "tensors take", "16.00 MB, cast to F32"):
        assert words in done.stdout
    plan = json.loads(run("plan", tiny, "--device", "cuda:0", "--json").stdout)
    assert plan["staging"]["limited_by"] == "device_memory_limit"
    assert json.loads(run("plan", tiny, "--json").stdout)["staging"] is None
