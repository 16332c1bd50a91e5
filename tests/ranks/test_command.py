"""`slipstream load --distributed` under torchrun."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from slipstream.cli.ranks import find_own_device
from tests.cli.process import environment, run
from tests.ranks.models import Model


def torchrun(size: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `slipstream ARGUMENTS` in so many processes, as a user does."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    return subprocess.run(
        [*launch, "-m", "slipstream", *arguments],
        capture_output=True,
        text=True,
        env=environment(OMP_NUM_THREADS="1"),
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_json(model: Model) -> None:
    """One object is printed, with what each rank did; together they have read the checkpoint once."""
    ended = torchrun(2, "load", str(model.folder), "--distributed", "--json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert (told["bytes"], told["tensors"], told["ranks"]) == (model.nbytes, len(model.digests), 2)
    assert [figures["rank"] for figures in told["per_rank"]] == [0, 1]
    assert sum(figures["read_bytes"] for figures in told["per_rank"]) == model.nbytes
    for figures in told["per_rank"]:
        assert figures["read_bytes"] + figures["received_bytes"] == model.nbytes


def test_summary(model: Model) -> None:
    """The summary for people is printed once, and says how the reading was shared."""
    ended = torchrun(2, "load", str(model.folder), "--distributed")
    assert ended.returncode == 0, ended.stderr
    lines = [line.split(maxsplit=1) for line in ended.stdout.splitlines()]
    assert sum(words[:1] == ["loaded"] for words in lines) == 1
    assert any(" ".join(words).startswith("ranks 2, which read") for words in lines)


def test_failure(tmp_path: Path) -> None:
    """A load that fails says so, without a traceback, and torchrun ends with an error."""
    ended = torchrun(2, "load", str(tmp_path / "missing"), "--distributed")
    assert ended.returncode != 0
    assert "error: " in ended.stderr
    assert "does not exist" in ended.stderr
    assert 'File "' not in ended.stderr.partition("error: ")[0]


def test_without_torchrun(model: Model) -> None:
    """Without torchrun the command says how it is called."""
    ended = run("load", str(model.folder), "--distributed")
    assert ended.returncode == 2
    assert "torchrun --nproc-per-node 4 -m slipstream load URI" in " ".join(ended.stderr.split())


def test_shards(model: Model) -> None:
    """Each rank takes its part of what all have read once: its own rank is known to it."""
    rules = "torchrun:embedding=1,*=none"
    ended = torchrun(2, "load", str(model.folder), "--distributed", "--shard", rules, "--names", "embedding", "--json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert sum(figures["read_bytes"] for figures in told["per_rank"]) == told["bytes"] == 12 << 20


def test_shards_without_torchrun(model: Model) -> None:
    """Without torchrun the command says what to write instead."""
    ended = run("load", str(model.folder), "--shard", "torchrun:llama")
    assert ended.returncode == 2
    assert "for example 0/4" in " ".join(ended.stderr.split())


@pytest.mark.parametrize(
    ("given", "local_rank", "own"),
    [("cuda", "3", "cuda:3"), ("cuda:1", "3", "cuda:1"), ("cpu", "3", "cpu"), ("cuda", None, "cuda")],
)
def test_own_device(monkeypatch: pytest.MonkeyPatch, given: str, local_rank: str | None, own: str) -> None:
    """Each rank of a host takes a GPU of its own, unless one is named."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert find_own_device(given) == own
