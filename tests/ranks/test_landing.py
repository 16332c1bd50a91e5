"""Ranks that want what they share elsewhere than in the memory that it is passed round in."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import slipstream
from slipstream import Dtype, Shard
from slipstream.testing.checkpoints import write_safetensors
from tests.ranks.crew import Crew, Failed
from tests.ranks.member import digest
from tests.ranks.models import MIB, Model


@pytest.fixture(scope="module")
def accelerated_pair() -> Iterator[Crew]:
    """Two ranks that do for "cpu" what they would do for a GPU."""
    with Crew(2) as crew:
        crew.ask_all("accelerate")
        yield crew


def digests(model: Model, **how: Any) -> dict[str, str]:
    """What a load of one's own gives."""
    return {name: digest(tensor) for name, tensor in slipstream.load(str(model.folder), **how).items()}


@pytest.mark.parametrize("framework", ["torch", "numpy"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_casts(crew: Crew, model: Model, dtype: str, framework: str) -> None:
    """Every rank is given what it would have cast for itself, and each byte is still read once."""
    results = crew.ask_all("load", uri=str(model.folder), dtype=dtype, framework=framework)
    expected = digests(model, dtype=dtype, framework=framework)
    assert expected != digests(model, framework=framework)
    assert all(dict(result["tensors"]) == expected for result in results)
    assert sum(result["read"] for result in results) == model.nbytes


def test_each_rank_casts_as_it_likes(pair: Crew, model: Model) -> None:
    """What the ranks share are the bytes of the checkpoint, whatever each of them makes of them."""
    pair.tell(0, "load", uri=str(model.folder), dtype="float32")
    pair.tell(1, "load", uri=str(model.folder))
    assert dict(pair.hear(0)["tensors"]) == digests(model, dtype="float32")
    assert dict(pair.hear(1)["tensors"]) == model.digests


def test_casts_under_a_limit(pair: Crew, model: Model) -> None:
    """What was cast counts as well: no more is in memory than the limit, and for a moment what is being cast."""
    limit = 28 * MIB
    results = pair.ask_all("load", uri=str(model.folder), dtype="float32", options={"memory_limit": limit})
    assert all(dict(result["tensors"]) == digests(model, dtype="float32") for result in results)
    assert all(result["peak"] <= limit + 24 * MIB for result in results)


def test_casts_that_are_kept_reach_the_limit(pair: Crew, model: Model) -> None:
    """A caller who keeps what was cast hears of the limit, as one who casts nothing does, and nothing hangs."""
    how = {"memory_limit": 24 * MIB, "memory_wait_s": 0.2}
    pair.ask_all("open", uri=str(model.folder), dtype="float32", options=how)
    failures = pair.ask_all("keep")
    assert all(isinstance(failure, Failed) for failure in failures)
    assert {failure.error for failure in failures} == {"MemoryLimitError"}
    pair.ask_all("drop")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 MiB in tensors of 256 KiB, all at odd offsets."""
    path = tmp_path_factory.mktemp("small") / "model.safetensors"
    tensors: dict[str, tuple[Dtype, tuple[int, ...], bytes]] = {"odd": (Dtype.U8, (1,), b"1")}
    for number in range(96):
        tensors[f"weight.{number}"] = (Dtype.BF16, (256, 512), random.Random(number).randbytes(MIB // 4))
    write_safetensors(path, tensors)
    return path


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_small_casts_under_a_limit(pair: Crew, small: Path, dtype: str) -> None:
    """Of many tensors that become larger all memory comes back, and no more is taken than the limit but for an op."""
    limit = 9 * MIB
    results = pair.ask_all("load", uri=str(small), dtype=dtype, options={"memory_limit": limit, "chunk_bytes": MIB})
    for result in results:
        assert len(result["tensors"]) == 97
        assert result["peak"] <= limit + 2 * MIB


def test_casts_that_outgrow_the_limit(pair: Crew, small: Path) -> None:
    """A caller who keeps what is within the limit in the file, and beyond it once it was cast, hears of that."""
    pair.ask_all("open", uri=str(small), dtype="float32", options={"memory_limit": 36 * MIB, "memory_wait_s": 0.2})
    failures = pair.ask_all("keep")
    assert all(isinstance(failure, Failed) for failure in failures)
    assert {failure.error for failure in failures} == {"MemoryLimitError"}
    pair.ask_all("drop")


def test_a_tensor_that_outgrows_the_limit(pair: Crew, model: Model) -> None:
    """So does one who is to be given a single such tensor, before any is read."""
    failures = pair.ask_all(
        "load", uri=str(model.folder), names="embedding", dtype="float32", options={"memory_limit": 20 * MIB}
    )
    assert {failure.error for failure in failures} == {"MemoryLimitError"}
    assert all(f"embedding takes {24 * MIB:,} bytes" in failure.text for failure in failures)


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_to_a_device(accelerated_pair: Crew, model: Model, dtype: str | None) -> None:
    """What goes to a device is the same there, cast or not."""
    results = accelerated_pair.ask_all("load", uri=str(model.folder), dtype=dtype)
    assert all(dict(result["tensors"]) == digests(model, dtype=dtype) for result in results)
    assert all(result["read"] + result["received"] == model.nbytes for result in results)


@pytest.mark.parametrize("options", [{"staging": True}, {"device_memory_limit": 1 << 30}])
def test_a_ring_is_refused(pair: Crew, model: Model, options: dict[str, Any]) -> None:
    """What cannot be shared is refused on every rank, with what to do instead."""
    for failure in pair.ask_all("load", uri=str(model.folder), options=options):
        assert failure.error == "UsageError"
        assert "exclude one another" in failure.text


RULES: dict[str, Any] = {"embedding": 1, "layer.#.weight": "experts", "layer.*": None, "head.*": 0, "*": None}


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_parts(crew: Crew, model: Model, dtype: str | None) -> None:
    """Each rank is given its rows, columns and experts, as if it had read them for itself."""
    results = crew.ask_all("load_shard", uri=str(model.folder), rules=RULES, dtype=dtype)
    for rank, found in enumerate(results):
        assert found == digests(model, shard=Shard(rank, crew.size, RULES), dtype=dtype)
    assert len({json.dumps(found) for found in results}) == crew.size


def test_parts_are_read_once_in_all(pair: Crew, model: Model) -> None:
    """What is divided by columns is asked of the storage once, and not by every rank."""
    part = {"embedding": 1, "*": None}
    results = pair.ask_all("load", uri=str(model.folder), names="embedding", part=part)
    assert sum(result["read"] for result in results) == 12 * MIB
    assert all([name for name, _ in result["tensors"]] == ["embedding"] for result in results)
    assert results[0]["tensors"] != results[1]["tensors"]


def test_parts_on_a_device(accelerated_pair: Crew, model: Model) -> None:
    """Parts go to a device as whole tensors do."""
    results = accelerated_pair.ask_all("load_shard", uri=str(model.folder), rules=RULES, dtype="float32")
    for rank, found in enumerate(results):
        assert found == digests(model, shard=Shard(rank, 2, RULES), dtype="float32")


def test_parts_into_a_module(pair: Crew, model: Model) -> None:
    """A module with parameters of the parts' shapes is filled; with others it is left alone, on every rank."""
    how = {"uri": str(model.folder), "rules": {"*": 0}, "names": "embedding"}
    results = pair.ask_all("load_shard_into", shapes={"embedding": [3 * 1024, 1024]}, **how)
    for rank, found in enumerate(results):
        assert found == digests(model, shard=Shard(rank, 2, {"*": 0}), names="embedding", dtype="float32")
    failures = pair.ask_all("load_shard_into", shapes={"embedding": [6 * 1024, 1024]}, **how)
    assert {failure.error for failure in failures} == {"ModuleMismatchError"}
    assert all("embedding" in failure.text for failure in failures)


def test_rules_that_cannot_be(pair: Crew, model: Model) -> None:
    """Rules that say nothing about a tensor end the load of every rank, and the next one works."""
    for failure in pair.ask_all("load_shard", uri=str(model.folder), rules={"head.*": 0}):
        assert failure.error == "UsageError"
        assert "say nothing about" in failure.text
    assert all(dict(found["tensors"]) == model.digests for found in pair.ask_all("load", uri=str(model.folder)))


def test_nothing_is_left_of_what_was_cast(pair: Crew, model: Model) -> None:
    """Casting and copying leave no threads or descriptors behind."""
    pair.ask_all("load", uri=str(model.folder), dtype="float32")
    before = pair.ask_all("remember")
    pair.ask_all("load", uri=str(model.folder), dtype="float32")
    for now, then in zip(pair.ask_all("remember"), before, strict=True):
        assert now["threads"] == 0
        assert now["descriptors"] <= then["descriptors"]


def test_a_copy_that_fails(model: Model) -> None:
    """What one rank cannot bring to where it wants it ends the load of all, with its error."""
    with Crew(2) as crew:
        crew.ask(0, "break_copies")
        own, other = crew.ask_all("load", uri=str(model.folder), dtype="float32")
    assert (own.error, own.text) == ("DeviceError", "the device fell off the bus")
    assert other.error == "DeviceError"
    assert "rank 0 failed" in other.text
    assert "the device fell off the bus" in other.text
