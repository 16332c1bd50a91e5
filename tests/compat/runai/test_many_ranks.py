"""`is_distributed` among ranks of torch.distributed: who reads, and that it makes no other difference."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed import HashStore, TCPStore  # type: ignore[attr-defined]

from tests.compat.runai.drop_in import DROP_IN, child_environment

PROGRAM = Path(__file__).with_name("rank_program.py")
RANKS = 2


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two files of 8 MiB, so that there is something to share."""
    folder = tmp_path_factory.mktemp("shared")
    made = [folder / f"model-{number}.safetensors" for number in range(2)]
    for number, path in enumerate(made):
        tensors = {f"{number}.{part}": torch.arange(1 << 18).reshape(512, -1) + 7 * part for part in range(4)}
        save_file({**tensors, f"{number}.half": torch.arange(33).to(torch.bfloat16)}, path)
    return made


def run(files: list[Path], *, original: bool = False, **variables: str) -> list[dict[str, Any]]:
    """What each of the ranks says, of which every one loads all files."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = dict(os.environ) if original else child_environment()
    environment |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "SLIPSTREAM_STRATEGY": "buffered", **variables}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM), str(rank), str(RANKS), str(store.port), *map(str, files)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(RANKS)
    ]
    outputs = [rank.communicate() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * RANKS, outputs
    answers = [json.loads(printed.splitlines()[-1]) for printed, _ in outputs]
    for answer in answers:
        assert Path(answer["module"]).is_relative_to(DROP_IN) is not original
    return [answer["said"] for answer in answers]


def strip(said: dict[str, Any]) -> dict[str, Any]:
    """All but how much was read."""
    return {name: value for name, value in said.items() if name != "read"}


@pytest.mark.parametrize("everywhere", ["0", "1"])
def test_ranks_share(files: list[Path], everywhere: str) -> None:
    """With RUNAI_STREAMER_DIST=1 each rank reads its part, once per host or in all, and is given everything."""
    first, second = run(files, RUNAI_STREAMER_DIST="1", RUNAI_STREAMER_DIST_GLOBAL=everywhere)
    total = sum(path.stat().st_size for path in files)
    assert first["shared"]
    assert second["shared"]
    assert strip(first) == strip(second)
    assert len(first["tensors"]) == 10
    assert total <= first["read"] + second["read"] < 1.25 * total
    assert max(first["read"], second["read"]) < 0.75 * total


@pytest.mark.parametrize("word", ["0", "auto"])
def test_ranks_read_for_themselves(files: list[Path], word: str) -> None:
    """With RUNAI_STREAMER_DIST=0, and among ranks that Gloo connects unless it is 1, each rank reads everything."""
    total = sum(path.stat().st_size for path in files)
    for said in run(files, RUNAI_STREAMER_DIST=word):
        assert said["read"] >= total
        assert not said["shared"]


@pytest.mark.skipif(
    not any(distributions(name="runai-model-streamer")),
    reason="the original is not installed: pip install runai-model-streamer",
)
@pytest.mark.parametrize("word", ["0", "1", "auto"])
def test_the_original_says_the_same(files: list[Path], word: str) -> None:
    """Names, values, metadata, ranges and whether they were shared are those of the original among the same ranks."""
    theirs = run(files, original=True, RUNAI_STREAMER_DIST=word)
    ours = run(files, RUNAI_STREAMER_DIST=word)
    assert [*map(strip, ours)] == [*map(strip, theirs)]


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("word", "backend", "device", "shared"),
    [
        ("auto", "nccl", "cuda:0", True),
        ("1", "nccl", "cuda:0", True),
        ("0", "nccl", "cuda:0", False),
        ("1", "nccl", "cpu", False),
        ("1", "gloo", "cpu", True),
        ("1", "gloo", "cuda:0", False),
        ("auto", "gloo", "cpu", False),
    ],
)
def test_who_shares(
    word: str, backend: str, device: str, shared: bool, alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The word, the backend and the device decide as in the original; without other ranks nothing is shared."""
    from runai_model_streamer.settings import is_shared

    monkeypatch.setenv("RUNAI_STREAMER_DIST", word)
    assert not is_shared(True, device)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_backend", lambda: backend)
    assert is_shared(True, device) is shared
    assert not is_shared(False, device)
