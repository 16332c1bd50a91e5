"""Ranks that pass bytes round from GPU to GPU: by NCCL, where there are several GPUs; and what one is enough for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore  # type: ignore[attr-defined]

from slipstream.delivery.accelerator import open_accelerator
from slipstream.ranks.device_group import connect_devices
from tests.ranks.crew import Crew
from tests.ranks.models import MIB, Model, write_model

LONGEST_S = 60.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A checkpoint with tensors of all kinds."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pair() -> Iterator[Crew]:
    """Two ranks."""
    with Crew(2) as crew:
        yield crew


@pytest.fixture
def each_its_own(pair: Crew) -> Crew:
    """The same, where there are two GPUs."""
    if torch.cuda.device_count() < 2:
        pytest.skip(f"PyTorch finds {torch.cuda.device_count()} GPU, and NCCL wants one for each rank")
    return pair


def load(crew: Crew, folder: Path, **arguments: object) -> list[dict[str, object]]:
    for rank in range(crew.size):
        options = {"share_through": "device"}
        crew.tell(rank, "load", uri=str(folder), device=f"cuda:{rank}", **{"options": options, **arguments})
    return [crew.hear(rank) for rank in range(crew.size)]


@pytest.mark.parametrize("limit_mib", [None, 13])
def test_everything(each_its_own: Crew, model: Model, limit_mib: int | None) -> None:
    """Every rank is given everything on its own GPU, and each byte is read once."""
    limit = None if limit_mib is None else limit_mib * MIB
    options = {"share_through": "device", "device_memory_limit": limit}
    results = load(each_its_own, model.folder, options=options)
    for result in results:
        assert dict(result["tensors"]) == model.digests  # type: ignore[call-overload]
    assert sum(int(result["read"]) for result in results) == model.nbytes  # type: ignore[call-overload]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_casts(each_its_own: Crew, model: Model, dtype: str) -> None:
    """Casts on the GPUs are those of a load of one's own."""
    alone = each_its_own.ask(0, "load_alone", uri=str(model.folder), device="cuda:0", dtype=dtype)
    for result in load(each_its_own, model.folder, dtype=dtype):
        assert dict(result["tensors"]) == alone  # type: ignore[call-overload]


def test_one_is_killed(model: Model, each_its_own: Crew) -> None:
    """A rank that dies ends the load of the other, be it by an error or by PyTorch's watchdog."""
    with Crew(2) as crew:
        options = {"share_through": "device", "device_memory_limit": 13 * MIB}
        for rank in range(2):
            crew.tell(rank, "open", uri=str(model.folder), device=f"cuda:{rank}", options=options)
        assert [crew.hear(rank) for rank in range(2)] == [None, None]
        crew.kill(1)
        crew.tell(0, "rest")
        told = crew.hear(0)
        assert (told.error, told.rank) == ("RankError", 1)


def test_one_gpu_for_two(pair: Crew, model: Model) -> None:
    """Ranks that have one GPU between them are told so, whatever it is called in each."""
    options = {"share_through": "device"}
    for failure in pair.ask_all("load", uri=str(model.folder), device="cuda:0", options=options):
        assert failure.error == "UsageError"
        assert "ranks 0 and 1 have the same GPU" in failure.text


def test_two_on_one_gpu_through_the_host(pair: Crew, model: Model) -> None:
    """Through the host they may."""
    for result in pair.ask_all("load", uri=str(model.folder), device="cuda:0"):
        assert dict(result["tensors"]) == model.digests


def test_a_group_of_one(device: str) -> None:
    """NCCL is connected, a broadcast begins behind a copy, is looked at until it has ended, and can be given up."""
    if not dist.is_nccl_available():
        pytest.skip(f"PyTorch {torch.__version__} was built without NCCL")
    accelerator = open_accelerator(torch.device(device))
    group = connect_devices(HashStore(), 0, [0], accelerator, lambda: None)
    source = torch.arange(64 << 20, dtype=torch.uint8).pin_memory()
    with accelerator.copying():
        memory = accelerator.allocate(len(source))
        memory.copy_(source, non_blocking=True)
    passing = group.broadcast(memory, 0)
    deadline = time.monotonic() + LONGEST_S
    while not passing.wait():
        assert time.monotonic() < deadline
    assert torch.equal(memory.cpu(), source)
    group.give_up()
