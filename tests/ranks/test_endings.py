"""How a shared load ends when it ends early for one rank: in the same way for all, soon, and with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from slipstream.testing.faulty_fs import FaultyFs
from slipstream.testing.range_faults import Hold, Rate, Status
from slipstream.testing.range_schedule import Faults, When
from slipstream.testing.range_server import RangeServer
from tests.ranks.crew import Crew, Failed
from tests.ranks.models import MIB, Model
from tests.ranks.test_sharing import check

ONE_SHARD = "model-1.safetensors"


@pytest.fixture
def server(model: Model, tmp_path: Path) -> Iterator[RangeServer]:
    """A shard of the model under a name for each rank, behind a server that fails on command."""
    for rank in range(4):
        (tmp_path / rank_file(rank)).symlink_to(model.folder / ONE_SHARD)
    with RangeServer(tmp_path) as server:
        yield server


def rank_file(rank: int) -> str:
    return f"for-rank-{rank}.safetensors"


def behind_header(rank: int) -> When:
    """The requests of a rank but its first, which brings the header."""
    return When(path=rank_file(rank), after=1)


def begin_held(crew: Crew, server: RangeServer, *, iterate: bool = True) -> None:
    """Lets all ranks open a stream and wait for bytes that the server holds back."""
    server.set_faults(Faults(*(Hold(after_bytes=1000, when=behind_header(rank)) for rank in range(crew.size))))
    options = {"hedge": False, "first_byte_timeout_s": 100, "stall_timeout_s": 100}
    for rank in range(crew.size):
        crew.tell(rank, "open", uri=server.url(rank_file(rank)), options=options)
    for rank in range(crew.size):
        assert crew.hear(rank) is None
    server.wait_held(crew.size)
    for rank in range(crew.size if iterate else 0):
        crew.tell(rank, "rest")


def let_go(server: RangeServer) -> None:
    """Lets all bytes come."""
    server.set_faults(Faults())
    server.release()


def check_usable(crew: Crew, model: Model) -> None:
    """The same ranks load again in the same group, and well."""
    check(crew.ask_all("load", uri=str(model.folder)), model)


def test_one_fails(crew: Crew, model: Model, server: RangeServer) -> None:
    """What one rank's reading fails with is raised on every rank, with that rank's name; then they can load again."""
    failing = crew.size - 1
    server.set_faults(Faults(Status(403, when=behind_header(failing))))
    for rank in range(crew.size):
        crew.tell(rank, "load", uri=server.url(rank_file(rank)))
    found = [crew.hear(rank) for rank in range(crew.size)]
    assert [each.error for each in found] == ["AccessDeniedError"] * crew.size
    assert rank_file(failing) in found[failing].text
    for told in found[:failing]:
        assert told.text == f"rank {failing} failed, and with it the load of all ranks: {found[failing].text}"
    check_usable(crew, model)


def test_one_finds_nothing(crew: Crew, model: Model, tmp_path: Path) -> None:
    """A rank whose host lacks the checkpoint says so, and every rank is told which one it was."""
    crew.tell(0, "load", uri=str(tmp_path / "missing"))
    for rank in range(1, crew.size):
        crew.tell(rank, "load", uri=str(model.folder))
    found = [crew.hear(rank) for rank in range(crew.size)]
    assert {each.error for each in found} == {"BlobNotFoundError"}
    assert all(each.text.startswith("rank 0 failed, and with it the load of all ranks: ") for each in found[1:])
    for rank in range(crew.size):
        crew.tell(rank, "load", uri=str(model.folder if rank == 0 else tmp_path / "missing"))
    found = [crew.hear(rank) for rank in range(crew.size)]
    assert {each.error for each in found} == {"BlobNotFoundError"}
    check_usable(crew, model)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"options": {"memory_limit": 20 * MIB}}, "UsageError", "memory_limit=20971520"),
        ({"options": {"chunk_bytes": MIB}}, "UsageError", "chunk_bytes=1048576"),
        ({"names": ["layer.*"]}, "UsageError", "other tensors than rank 0"),
        ({"device": "nowhere"}, "UsageError", "device is 'nowhere'"),
        ({"framework": "caffe"}, "UsageError", "framework is 'caffe'"),
        ({"names": ["no.such"]}, "TensorNotFoundError", "no.such"),
        ({"storage_options": {"endpoint": "nonsense"}, "uri": "s3://bucket/a.safetensors"}, "UsageError", "endpoint"),
    ],
)
def test_one_is_asked_for_something_else(
    pair: Crew, model: Model, arguments: dict[str, object], error: str, words: str
) -> None:
    """Arguments that differ, or that one rank cannot work with, are an error on every rank before anything is read."""
    pair.tell(0, "load", uri=str(model.folder))
    pair.tell(1, "load", **{"uri": str(model.folder), **arguments})
    found = [pair.hear(0), pair.hear(1)]
    assert [each.error for each in found] == [error, error]
    assert all(words in each.text for each in found)
    assert all("rank 1" in each.text for each in found[:1])
    check_usable(pair, model)


def test_another_checkpoint(pair: Crew, model: Model, tmp_path: Path) -> None:
    """Ranks that are given different checkpoints are told so."""
    content = bytearray((model.folder / ONE_SHARD).read_bytes())
    content[8:].replace(b"layer.0", b"other.0")
    (tmp_path / "a.safetensors").write_bytes(content.replace(b'"layer.0.bias"', b'"other.0.bias"', 1))
    pair.tell(0, "load", uri=str(model.folder / ONE_SHARD))
    pair.tell(1, "load", uri=str(tmp_path / "a.safetensors"))
    found = [pair.hear(0), pair.hear(1)]
    assert [each.error for each in found] == ["UsageError"] * 2
    assert all("another checkpoint than rank 0" in each.text for each in found)
    check_usable(pair, model)


def test_a_tensor_larger_than_the_limit(crew: Crew, model: Model) -> None:
    """A tensor that no rank may hold is an error of the same class on every rank, and says what to do."""
    found = crew.ask_all("load", uri=str(model.folder), options={"memory_limit": 11 * MIB})
    assert [each.error for each in found] == ["MemoryLimitError"] * crew.size
    assert all("embedding" in each.text for each in found)
    check_usable(crew, model)


def test_other_ranges(pair: Crew, model: Model) -> None:
    """Ranks that are asked for different plain ranges are told so, and none is given those of another."""
    for rank in range(2):
        pair.tell(rank, "load_ranges", wanted=[(str(model.folder / ONE_SHARD), 0, 10 + rank)])
    found = [pair.hear(0), pair.hear(1)]
    assert [each.error for each in found] == ["UsageError"] * 2
    assert all("another checkpoint than rank 0" in each.text for each in found)
    check_usable(pair, model)


def test_one_leaves(crew: Crew, model: Model) -> None:
    """A rank that closes its stream early ends it for the others once they were given what it was; nobody hangs."""
    options = {"memory_limit": 13 * MIB}
    crew.ask_all("open", uri=str(model.folder), options=options)
    first = crew.ask_all("take", count=1)
    leaving = crew.size - 1
    crew.tell(leaving, "close")
    for rank in range(leaving):
        crew.tell(rank, "rest")
    assert crew.hear(leaving) is None
    for told in [crew.hear(rank) for rank in range(leaving)]:
        assert isinstance(told, Failed)
        assert (told.error, told.rank) == ("RankError", leaving)
        assert f"rank {leaving} closed its stream after 1 of {len(model.digests)} tensors" in told.text
    assert len({tuple(names) for names in first}) == 1
    check_usable(crew, model)


def test_all_leave_at_the_same_tensor(crew: Crew, model: Model) -> None:
    """Ranks may all stop after the same tensor, one long before another: each is given that much, without an error."""
    crew.ask_all("open", uri=str(model.folder))
    taken = []
    for rank in range(crew.size):
        taken.append(crew.ask(rank, "take", count=5))
        assert crew.ask(rank, "close") is None
    assert all(names == taken[0] and len(names) == 5 for names in taken)
    check_usable(crew, model)


def test_all_leave_under_a_limit(crew: Crew, model: Model) -> None:
    """So may those whose memory is so small that none can be far ahead."""
    crew.ask_all("open", uri=str(model.folder), options={"memory_limit": 13 * MIB})
    for rank in range(crew.size):
        crew.tell(rank, "take_and_close", count=5)
    taken = [crew.hear(rank) for rank in range(crew.size)]
    assert all(names == taken[0] and len(names) == 5 for names in taken)
    check_usable(crew, model)


def test_one_holds_all_memory(pair: Crew, model: Model) -> None:
    """A caller who keeps more than the limit is told so, and the other ranks that it was he."""
    options = {"memory_limit": 13 * MIB, "memory_wait_s": 0.1}
    pair.ask_all("open", uri=str(model.folder), options=options)
    pair.tell(0, "keep")
    pair.tell(1, "rest")
    found = [pair.hear(0), pair.hear(1)]
    assert [each.error for each in found] == ["MemoryLimitError"] * 2
    assert found[1].text.startswith("rank 0 failed, and with it the load of all ranks: the tensors still held take")
    pair.ask(0, "drop")
    check_usable(pair, model)


def test_a_slow_rank_only_slows(crew: Crew, model: Model, server: RangeServer) -> None:
    """While one rank stands still, or its caller pauses, the others wait, and then everything arrives."""
    begin_held(crew, server)
    crew.stop(0)
    let_go(server)
    crew.go_on(0)
    results = [crew.hear(rank) for rank in range(crew.size)]
    names = set(model.shards[ONE_SHARD])
    for result in results:
        assert dict(result["tensors"]) == {name: model.digests[name] for name in names}


def test_a_slow_caller_only_slows(pair: Crew, model: Model) -> None:
    """A rank whose caller takes its time, under a limit, makes the other wait and nothing else."""
    pair.ask_all("open", uri=str(model.folder), options={"memory_limit": 13 * MIB})
    pair.tell(1, "rest")
    for _ in range(5):
        pair.ask(0, "take", count=1)
    rest = pair.ask(0, "rest")
    other = pair.hear(1)
    assert len(rest["tensors"]) + 5 == len(other["tensors"]) == len(model.digests)
    assert other["tensors"][5:] == rest["tensors"]


def test_a_slow_store_for_one(pair: Crew, model: Model, server: RangeServer) -> None:
    """A rank whose storage is slower than the others' slows the load, which is whole all the same."""
    server.set_faults(Faults(Rate(8e6, when=behind_header(1))))
    for rank in range(2):
        pair.tell(rank, "load", uri=server.url(rank_file(rank)))
    results = [pair.hear(0), pair.hear(1)]
    assert results[0]["tensors"] == results[1]["tensors"]
    assert dict(results[0]["tensors"]) == {name: model.digests[name] for name in model.shards[ONE_SHARD]}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed(model: Model, server: RangeServer, size: int, victim: int) -> None:
    """A rank that is killed ends the load of the others within seconds, by an error that says which it was."""
    with Crew(size) as crew:
        begin_held(crew, server)
        crew.kill(victim)
        let_go(server)
        for rank in set(range(size)) - {victim}:
            told = crew.hear(rank)
            assert isinstance(told, Failed)
            assert (told.error, told.rank) == ("RankError", victim)
            assert f"process {crew.pids[victim]}" in told.text
            again = crew.ask(rank, "load", uri=str(model.folder))
            assert isinstance(again, Failed)
            assert "cannot share a load any more" in again.text
        for rank in set(range(size)) - {victim}:
            assert crew.finish(rank) == (0, "")


def test_one_is_killed_before_the_first_byte(model: Model, faulty_fs: tuple[FaultyFs, Path]) -> None:
    """So it is while the first rank still looks at the checkpoint."""
    faults, source = faulty_fs
    (source / "a.safetensors").write_bytes((model.folder / ONE_SHARD).read_bytes())
    faults.hold_from(0)
    with Crew(2) as crew:
        crew.ask_all("set_silence", seconds=3.0)
        for rank in range(2):
            crew.tell(rank, "load", uri=str(faults.mount_point / "a.safetensors"))
        faults.wait_held(1)
        crew.kill(1)
        faults.release()
        told = crew.hear(0)
        assert isinstance(told, Failed)
        assert (told.error, told.rank) == ("RankError", 1)


def test_one_ends_in_the_midst(model: Model, server: RangeServer) -> None:
    """A rank whose program ends while its stream is open ends without a word, and the others are told."""
    with Crew(2) as crew:
        begin_held(crew, server, iterate=False)
        assert crew.finish(0) == (0, "")
        server.release()
        told = crew.ask(1, "rest")
        assert isinstance(told, Failed)
        assert (told.error, told.rank) == ("RankError", 0)
        assert crew.finish(1) == (0, "")


def test_one_is_done_first(model: Model) -> None:
    """A rank that has everything may end its process at once: what others have yet to receive, they receive."""
    with Crew(4) as crew:
        crew.ask_all("open", uri=str(model.folder))
        for rank in (3, 2, 1, 0):
            crew.tell(rank, "rest")
        first = crew.hear(3)
        assert crew.finish(3) == (0, "")
        check([crew.hear(0), crew.hear(1), crew.hear(2), first], model)


def test_ctrl_c(model: Model, server: RangeServer) -> None:
    """Ctrl-C in one rank interrupts its wait, and the others are told that it has left."""
    with Crew(2) as crew:
        begin_held(crew, server, iterate=False)
        crew.tell(1, "rest")
        crew.tell(0, "rest_until_ctrl_c")
        assert crew.hear(0) == Failed("KeyboardInterrupt", "KeyboardInterrupt()")
        told = crew.hear(1)
        assert (told.error, told.rank) == ("RankError", 0)
        let_go(server)
        check_usable(crew, model)


def test_one_does_not_come(model: Model) -> None:
    """A rank that never begins the load is missed in the end, by name."""
    with Crew(2) as crew:
        crew.ask(0, "set_patience", seconds=1.0)
        told = crew.ask(0, "load", uri=str(model.folder))
        assert told.error == "RankError"
        assert told.text.startswith("rank 1 did not begin this load within")


def test_two_at_once(pair: Crew, model: Model) -> None:
    """A second load of a group that is in the midst of one is refused on every rank; the first goes on."""
    pair.ask_all("open", uri=str(model.folder), options={"memory_limit": 13 * MIB})
    found = pair.ask_all("load_beside", uri=str(model.folder))
    assert all(each.error == "UsageError" and "is under way" in each.text for each in found)
    check(pair.ask_all("rest"), model)
    check_usable(pair, model)


def test_without_a_group(model: Model) -> None:
    """Without torch.distributed the error says what to call."""
    import slipstream

    with pytest.raises(slipstream.UsageError, match="init_process_group"):
        slipstream.stream(model.folder, distributed=True)
    with pytest.raises(slipstream.UsageError, match="init_process_group"):
        slipstream.load(model.folder, distributed=object())  # type: ignore[arg-type]
