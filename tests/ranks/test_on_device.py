"""Ranks that pass bytes round on their devices: by Gloo here, on a device that is the CPU, else all as by NCCL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Condition
from typing import Any

import pytest
import torch

from slipstream import Dtype, Options, Shard
from slipstream.delivery.accelerator import open_accelerator
from slipstream.planning.partition import Piece
from slipstream.planning.staging import receive_on_device
from slipstream.ranks.on_device import DevicePassage
from slipstream.reading.buffers import Ledger
from slipstream.reading.in_flight import OpInFlight
from slipstream.testing.checkpoints import write_safetensors
from tests.ranks.crew import Crew, Failed
from tests.ranks.models import MIB, Model
from tests.ranks.test_landing import RULES, digests
from tests.ranks.test_rounds import make_plan
from tests.ranks.test_sharing import check

ON_DEVICE = {"share_through": "device"}


@pytest.fixture(scope="module")
def lasting_pair() -> Iterator[Crew]:
    yield from start(2)


@pytest.fixture(scope="module")
def lasting_quartet() -> Iterator[Crew]:
    yield from start(4)


@pytest.fixture
def accelerated_pair(lasting_pair: Crew) -> Iterator[Crew]:
    """Two ranks that do for "cpu" what they would do for a GPU."""
    yield lasting_pair
    lasting_pair.ask_all("mend")


@pytest.fixture(params=[2, 4])
def crew(request: pytest.FixtureRequest) -> Iterator[Crew]:
    """Two of them, or four."""
    found: Crew = request.getfixturevalue({2: "lasting_pair", 4: "lasting_quartet"}[request.param])
    yield found
    found.ask_all("mend")


def start(size: int) -> Iterator[Crew]:
    with Crew(size) as crew:
        crew.ask_all("accelerate")
        yield crew


def through(**options: object) -> dict[str, object]:
    """These options, and that bytes are passed round on devices."""
    return {**ON_DEVICE, **options}


@pytest.mark.parametrize("strategy", ["mapped", "direct", "buffered"])
def test_everything(crew: Crew, model: Model, strategy: str) -> None:
    """From files, read in any way, every rank is given everything, and each byte is read once and copied once."""
    results = crew.ask_all("load", uri=str(model.folder), options=through(strategy=strategy))
    check(results, model)
    for result in results:
        assert 0 < result["copied"] <= -(-result["read"] // MIB) + 40
        assert result["ring"] > 0


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_casts(crew: Crew, model: Model, dtype: str) -> None:
    """Every rank is given what it would have cast for itself."""
    results = crew.ask_all("load", uri=str(model.folder), dtype=dtype, options=ON_DEVICE)
    assert all(dict(result["tensors"]) == digests(model, dtype=dtype) for result in results)
    assert sum(result["read"] for result in results) == model.nbytes


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_parts(model: Model, accelerated_pair: Crew, dtype: str | None, late: bool) -> None:
    """Each rank is given its rows, columns and experts, also where the device copies late and in another order."""
    crew = accelerated_pair
    if late:
        crew.ask_all("copy_late")
    results = crew.ask_all("load_shard", uri=str(model.folder), rules=RULES, dtype=dtype, options=ON_DEVICE)
    crew.ask_all("mend")
    for rank, found in enumerate(results):
        assert found == digests(model, shard=Shard(rank, crew.size, RULES), dtype=dtype)
    assert len({json.dumps(found) for found in results}) == crew.size


def test_each_rank_as_it_likes(accelerated_pair: Crew, model: Model) -> None:
    """What the ranks share are the bytes of the checkpoint, whatever each of them makes of them."""
    accelerated_pair.tell(0, "load", uri=str(model.folder), dtype="float32", options=ON_DEVICE)
    accelerated_pair.tell(1, "load", uri=str(model.folder), options=ON_DEVICE)
    assert dict(accelerated_pair.hear(0)["tensors"]) == digests(model, dtype="float32")
    assert dict(accelerated_pair.hear(1)["tensors"]) == model.digests


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_under_a_limit_of_the_device(crew: Crew, model: Model, dtype: str | None) -> None:
    """A rank that drops tensors has no more of them on its device than the limit, and for a moment what is cast."""
    limit = 28 * MIB
    how = through(device_memory_limit=limit)
    results = crew.ask_all("load", uri=str(model.folder), dtype=dtype, options=how)
    assert all(dict(result["tensors"]) == digests(model, dtype=dtype) for result in results)
    assert all(result["peak"] <= limit + (24 * MIB if dtype else 0) for result in results)


def test_what_is_kept_reaches_the_limit(crew: Crew, model: Model) -> None:
    """A caller who keeps what the limit does not allow hears of it by its name, and nothing hangs."""
    how = through(device_memory_limit=14 * MIB, memory_wait_s=0.2)
    crew.ask_all("open", uri=str(model.folder), options=how)
    failures = crew.ask_all("keep")
    assert {failure.error for failure in failures} == {"MemoryLimitError"}
    assert any(f"device_memory_limit={14 * MIB:,}" in failure.text for failure in failures)
    crew.ask_all("drop")
    check(crew.ask_all("load", uri=str(model.folder), options=ON_DEVICE), model)


def test_nobody_is_far_ahead_of_its_caller(accelerated_pair: Crew, model: Model) -> None:
    """A caller who takes tensor by tensor has no more on its device than what may be ahead of it."""
    accelerated_pair.ask_all("set_most_ahead", nbytes=13 * MIB)
    results = accelerated_pair.ask_all("load", uri=str(model.folder), options=ON_DEVICE)
    accelerated_pair.ask_all("set_most_ahead", nbytes=1 << 30)
    check(results, model)
    taken = 2 * 8 * MIB  # an op of small tensors, as it was received and as it was handed out
    assert all(result["peak"] <= 13 * MIB + taken for result in results)


def test_under_a_limit_of_the_host(crew: Crew, model: Model) -> None:
    """Host memory is that of the slots: as many as the limit has room for, be it one."""
    results = crew.ask_all("load", uri=str(model.folder), options=through(memory_limit=3 * MIB))
    check(results, model)
    assert all(result["ring"] <= 3 * MIB for result in results)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"memory_limit": MIB}, "no room for a slot"),
        ({"device_memory_limit": 11 * MIB}, f"more than device_memory_limit={11 * MIB:,}"),
    ],
)
def test_limits_that_cannot_be_kept(crew: Crew, model: Model, limits: dict[str, int], words: str) -> None:
    """They are an error on every rank before anything is read, and the next load works."""
    failures = crew.ask_all("load", uri=str(model.folder), options=through(**limits))
    assert {failure.error for failure in failures} == {"MemoryLimitError"}
    assert all(words in failure.text for failure in failures)
    check(crew.ask_all("load", uri=str(model.folder), options=ON_DEVICE), model)


def test_to_and_fro(accelerated_pair: Crew, model: Model) -> None:
    """The same ranks pass bytes round on devices, on the host, and on devices again."""
    for options in (ON_DEVICE, {}, ON_DEVICE):
        check(accelerated_pair.ask_all("load", uri=str(model.folder), options=options), model)


def test_ranges(accelerated_pair: Crew, model: Model) -> None:
    """Plain ranges that overlap, repeat and are empty come whole."""
    path = str(model.folder / "model-1.safetensors")
    wanted = [[path, 0, 9 * MIB], [path, 5, 5], [path, 100, 5_000_000], [path, 100, 5_000_000]]
    results = accelerated_pair.ask_all("load_ranges", wanted=wanted, options=ON_DEVICE)
    alone = accelerated_pair.ask(0, "load_ranges_alone", wanted=wanted)
    assert all(result["ranges"] == alone for result in results)


def test_one_leaves(crew: Crew, model: Model) -> None:
    """A rank that closes its stream early ends it for the others, and all can load again."""
    crew.ask_all("open", uri=str(model.folder), options=through(device_memory_limit=13 * MIB))
    crew.ask_all("take", count=1)
    leaving = crew.size - 1
    crew.tell(leaving, "close")
    for rank in range(leaving):
        crew.tell(rank, "rest")
    assert crew.hear(leaving) is None
    for told in [crew.hear(rank) for rank in range(leaving)]:
        assert isinstance(told, Failed)
        assert (told.error, told.rank) == ("RankError", leaving)
    check(crew.ask_all("load", uri=str(model.folder), options=ON_DEVICE), model)


def test_a_device_without_memory(crew: Crew, model: Model) -> None:
    """A rank whose device is full ends the load of all with that, what was begun is ended, and all can load again."""
    crew.ask(0, "fill_device", spares=2)
    failures = crew.ask_all("load", uri=str(model.folder), options=ON_DEVICE)
    crew.ask(0, "mend")
    assert {failure.error for failure in failures} == {"DeviceError"}
    assert failures[0].text.startswith("cpu has no ")
    assert all(failure.text.startswith("rank 0 failed") for failure in failures[1:])
    check(crew.ask_all("load", uri=str(model.folder), options=ON_DEVICE), model)


def test_one_is_killed(model: Model) -> None:
    """A rank that dies is named to the others, and the group says that it is of no use any more."""
    with Crew(3) as crew:
        crew.ask_all("accelerate")
        crew.ask_all("open", uri=str(model.folder), options=through(device_memory_limit=13 * MIB))
        crew.kill(2)
        for rank in range(2):
            crew.tell(rank, "rest")
        for told in [crew.hear(rank) for rank in range(2)]:
            assert (told.error, told.rank) == ("RankError", 2)
        again = crew.ask(0, "load", uri=str(model.folder), options=ON_DEVICE)
        assert again.error == "RankError"
        assert "cannot share a load any more" in again.text


def test_one_device_for_two(model: Model) -> None:
    """Ranks that have one device between them are told which they are, and what to do."""
    with Crew(2) as crew:
        crew.ask_all("accelerate")
        crew.ask_all("set_identity", name="GPU-1")
        for failure in crew.ask_all("load", uri=str(model.folder), options=ON_DEVICE):
            assert failure.error == "UsageError"
            assert "ranks 0 and 1 have the same GPU" in failure.text
            assert "torch.cuda.set_device(LOCAL_RANK)" in failure.text


def test_another_device(crew: Crew, model: Model) -> None:
    """A rank may load to another device than the last time, whatever the others do."""
    check(crew.ask_all("load", uri=str(model.folder), options=ON_DEVICE), model)
    crew.ask(0, "set_identity", name="GPU-2")
    check(crew.ask_all("load", uri=str(model.folder), options=ON_DEVICE), model)
    crew.ask(0, "mend")
    check(crew.ask_all("load", uri=str(model.folder), options=ON_DEVICE), model)


def test_devices_that_cannot_be_connected(model: Model) -> None:
    """A rank that fails while they are connected ends it for the others too, who would wait for it for ever."""
    with Crew(3) as crew:
        crew.ask_all("accelerate")
        crew.ask(2, "break_connecting", reason="no NVLink\n at nccl.cc")
        failures = crew.ask_all("load", uri=str(model.folder), options=ON_DEVICE)
    assert {failure.error for failure in failures} == {"RankError"}
    assert "cannot be connected with one another (no NVLink): NCCL_DEBUG=INFO tells more" in failures[2].text
    assert all(failure.text.startswith("rank 2 failed") for failure in failures[:2])


def test_it_ends_for_all_together(model: Model, tmp_path: Path) -> None:
    """No rank is through before every rank is: what one has sent may not have come to the other yet."""
    with Crew(2) as crew:
        crew.ask_all("accelerate")
        check(crew.ask_all("load", uri=str(model.folder), options=ON_DEVICE), model)
        crew.ask(1, "hold_goodbye", until=str(tmp_path / "now"))
        for rank in range(2):
            crew.tell(rank, "load", uri=str(model.folder), options=ON_DEVICE)
        assert crew.is_silent(0, 4.0)
        (tmp_path / "now").touch()
        check([crew.hear(0), crew.hear(1)], model)


def test_one_that_waits_for_all_can_be_closed(model: Model, tmp_path: Path) -> None:
    """A stream that was given everything, and waits for the others, ends when it is closed in another thread."""
    with Crew(2) as crew:
        crew.ask_all("accelerate")
        crew.ask_all("open", uri=str(model.folder), options=ON_DEVICE)
        crew.ask(1, "hold_goodbye", until=str(tmp_path / "now"))
        crew.tell(1, "rest")
        crew.tell(0, "rest_until_closed", seconds=1.0)
        assert crew.hear(0).error == "StreamClosedError"
        (tmp_path / "now").touch()
        assert dict(crew.hear(1)["tensors"]) == model.digests


def test_one_is_killed_while_it_waits_for_all(model: Model) -> None:
    """A rank that has everything is needed by one that has not: its death is noticed all the same."""
    with Crew(2) as crew:
        crew.ask_all("accelerate")
        crew.ask_all("set_silence", seconds=2.0)
        crew.ask_all("open", uri=str(model.folder), options=ON_DEVICE)
        crew.ask(1, "receive_nothing")
        crew.tell(0, "rest")
        crew.tell(1, "rest")
        assert crew.is_silent(0, 3.0)
        crew.kill(0)
        told = crew.hear(1)
        assert (told.error, told.rank) == ("RankError", 0)


def test_empty_tensors_at_the_end(accelerated_pair: Crew, tmp_path: Path) -> None:
    """What has no bytes comes too, behind a tensor that is larger than what may be ahead of the caller."""
    tensors = {"a": (Dtype.U8, (40 * MIB,), bytes(40 * MIB)), "b": (Dtype.F32, (0, 3), b""), "c": (Dtype.U8, (0,), b"")}
    write_safetensors(tmp_path / "a.safetensors", tensors)
    write_safetensors(tmp_path / "b.safetensors", {"d": (Dtype.F16, (0,), b"")})
    accelerated_pair.ask_all("set_most_ahead", nbytes=MIB)
    results = accelerated_pair.ask_all("load", uri=str(tmp_path), options=ON_DEVICE)
    accelerated_pair.ask_all("set_most_ahead", nbytes=1 << 30)
    assert all({name for name, _ in result["tensors"]} == {"a", "b", "c", "d"} for result in results)


def test_a_slot_that_may_be_in_use_goes_to_nobody() -> None:
    """Only what was copied from, and passed round, is read into again."""
    plan = receive_on_device(make_plan([[5000, 5000]], None), Options(), MIB, keeps=True)
    accelerator = open_accelerator(torch.device("cpu"))
    accelerator.memory.drop()
    ledger = Ledger(Condition(), None)
    passage = DevicePassage(plan, ledger, accelerator=accelerator)
    (op, *_), target = plan.ops, OpInFlight(plan.ops[0])
    pieces = [Piece(number, 0, op.start, op.end, 0) for number in range(3)]
    map_op: Any = None
    for piece in pieces:
        passage.place(target, piece, map_op)
    passage.end(pieces[0], well=True)  # of no use to anybody, and perhaps still being read
    passage.find(target, pieces[1])
    passage.end(pieces[1], well=False)  # it may still be sent
    assert accelerator.memory.kept_bytes == 0
    passage.find(target, pieces[2])
    passage.end(pieces[2], well=True)
    assert accelerator.memory.kept_bytes > 0
    accelerator.memory.drop()


@pytest.mark.parametrize("how", [{"framework": "torch"}, {"framework": "numpy"}])
def test_without_a_device(pair: Crew, model: Model, how: dict[str, Any]) -> None:
    """Tensors that are wanted on the host cannot be passed round elsewhere, and every rank is told so."""
    for failure in pair.ask_all("load", uri=str(model.folder), options=ON_DEVICE, **how):
        assert failure.error == "UsageError"
        assert 'give device="cuda"' in failure.text
    check(pair.ask_all("load", uri=str(model.folder)), model)


def test_one_is_asked_for_something_else(accelerated_pair: Crew, model: Model) -> None:
    """Ranks that would wait for one another in different groups are told so."""
    accelerated_pair.tell(0, "load", uri=str(model.folder), options=ON_DEVICE)
    accelerated_pair.tell(1, "load", uri=str(model.folder))
    for failure in (accelerated_pair.hear(0), accelerated_pair.hear(1)):
        assert failure.error == "UsageError"
        assert "share_through" in failure.text


def test_nothing_is_left(crew: Crew, model: Model) -> None:
    """Loads one after another leave neither threads nor descriptors, and no memory but the slots that are kept."""
    crew.ask_all("load", uri=str(model.folder), options=ON_DEVICE)
    before = crew.ask_all("remember")
    kept = crew.ask_all("count_kept_slots")
    for _ in range(3):
        crew.ask_all("load", uri=str(model.folder), options=ON_DEVICE)
    for now, then in zip(crew.ask_all("remember"), before, strict=True):
        assert now["threads"] == 0
        assert now["descriptors"] <= then["descriptors"]
    assert crew.ask_all("count_kept_slots") == kept
