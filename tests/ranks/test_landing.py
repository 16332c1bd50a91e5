"""Ranks that want what they share elsewhere than in the memory that it is passed round in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import slipstream
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


def test_shards_are_refused(pair: Crew, model: Model) -> None:
    """Ranks that want a part each are told that there is nothing to share."""
    for failure in pair.ask_all("load_shard", uri=str(model.folder)):
        assert failure.error == "UsageError"
        assert "each rank reads its own part" in failure.text


def test_nothing_is_left_of_what_was_cast(pair: Crew, model: Model) -> None:
    """Casting and copying leave no threads or descriptors behind."""
    pair.ask_all("load", uri=str(model.folder), dtype="float32")
    before = pair.ask_all("remember")
    pair.ask_all("load", uri=str(model.folder), dtype="float32")
    assert pair.ask_all("remember") == before
