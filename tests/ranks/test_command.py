"""`slipstream load --distributed` under torchrun."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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
