"""`--shard` of `slipstream plan` and `slipstream load`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.process import assert_harmless, run

NUMPY = ("--framework", "numpy")


def test_plan_shows_every_rank(tiny: Path) -> None:
    """The table has a line for each rank, with what it holds and reads, marks the one asked for, and sums up."""
    done = run("plan", tiny, "--shard", "1/2:llama,head_dim=64")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^0 +39 +4\.00 MB", done.stdout, re.MULTILINE)
    assert re.search(r"^1 \(this\) +39 +4\.00 MB", done.stdout, re.MULTILINE)
    assert re.search(r"^all +8\.00 MB +9\.96 MB +124\.5 %", done.stdout, re.MULTILINE)
    assert "of the checkpoint" in done.stdout
    assert re.search(r"columns +\d+ tensors: [\d,]+ strips of \d+ bytes", done.stdout)


def test_plan_as_json(tiny: Path) -> None:
    """--json has the figures of all ranks, and those of the rank asked for as the plan's own."""
    plan = json.loads(run("plan", tiny, "--shard", "0/4:llama,head_dim=64", "--json").stdout)
    shard = plan["shard"]
    assert (shard["rank"], shard["world_size"], len(shard["ranks"])) == (0, 4, 4)
    assert shard["ranks"][0] == {
        "tensors": plan["tensors"],
        "bytes": plan["bytes"],
        "source_bytes": plan["source_bytes"],
    }
    assert plan["source_bytes"] >= plan["bytes"] < 8_000_000 / 3
    assert plan["skipped_tensors"] == 0
    assert sum(column["tensors"] for column in shard["columns"]) == 8
    assert "shard" not in json.loads(run("plan", tiny, "--json").stdout)


def test_load_reads_a_rank_s_part(tiny: Path) -> None:
    """A load with --shard delivers the rank's bytes, and tells them apart from those asked of the storage."""
    done = run("load", tiny, "--json", *NUMPY, "--shard", "1/2:llama,head_dim=64")
    stats = json.loads(done.stdout)
    assert stats["tensors"] == 39
    assert 4_000_000 < stats["bytes"] < 4_010_000
    assert stats["source_bytes"] >= stats["bytes"]
    summary = run("load", tiny, "-q", *NUMPY, "--shard", "1/2:llama,head_dim=64").stdout
    assert "of storage" in summary
    assert "of storage" not in run("load", tiny, "-q", *NUMPY).stdout


def test_own_rules(tiny: Path) -> None:
    """Rules may be given as patterns; experts, dimensions and none, the first that matches counts."""
    plan = json.loads(run("plan", tiny, "--shard", "0/2:lm_head.*=0,*=none", "--json").stdout)
    assert plan["bytes"] == 8_000_000 - 2048 * 256


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("4/4", "0 to 3"),
        ("0-4", "RANK/WORLD"),
        ("0/2:gpt", "gpt"),
        ("0/2:lm_head.*=0", "say nothing about"),
        ("0/2:*=5", "no dimension 5"),
        ("0/2:llama", "head_dim"),
    ],
)
def test_wrong_shards(text: str, words: str, tiny: Path) -> None:
    """What is no shard, or does not suit the checkpoint, is wrong usage: exit code 2 and one paragraph."""
    for command in ("plan", "load"):
        done = run(command, tiny, "--shard", text)
        assert done.returncode == 2
        assert words in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr


def test_hostile_names(hostile: Path) -> None:
    """Names that attack the terminal are shown harmlessly in errors about rules."""
    done = run("plan", hostile, "--shard", "0/2:nothing=0")
    assert done.returncode == 2
    assert_harmless(done.stderr)


def test_plan_of_ranks_that_cast(tiny: Path) -> None:
    """With --dtype the table has what each rank's tensors take once they are cast, beside what it reads of storage."""
    done = run("plan", tiny, "--shard", "1/2:llama,head_dim=64", "--dtype", "float32", "--device", "cuda:0")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^1 \(this\) +39 +8\.0\d MB", done.stdout, re.MULTILINE)
    assert "cast to F32" in done.stdout
    assert re.search(r"columns +\d+ tensors", done.stdout)
