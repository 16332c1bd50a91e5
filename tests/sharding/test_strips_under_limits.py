"""Strips under a memory limit, with failing storage, and when the caller leaves: bounded, told, and nothing left."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import slipstream
from slipstream import MemoryLimitError, Options, ReadError, Shard
from slipstream.reading.scratch import ScratchPool
from slipstream.testing.checkpoints import write_safetensors
from slipstream.testing.faulty_fs import FaultyFs
from slipstream.testing.range_faults import Hold
from slipstream.testing.range_schedule import Faults, When
from slipstream.testing.range_server import RangeServer
from slipstream.transport.transfer import TransferStopped
from tests.endings.leaks import see_footprint, wait_nothing_left
from tests.sharding.llama_like import forget
from tests.streaming.random_checkpoints import make_bytes, tensor_bytes

HALF = Shard(1, 2, {"*": 1})
ROWS, ROW_BYTES = 64, 20_000
COUNT = 12


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """Twelve tensors of 1.28 MB, and the right half of each."""
    path = tmp_path / "a.safetensors"
    return path, write_columns(path)


def write_columns(path: Path) -> dict[str, bytes]:
    contents = {f"t{number}": make_bytes(ROWS * ROW_BYTES, number) for number in range(COUNT)}
    write_safetensors(path, {name: ("U8", (ROWS, ROW_BYTES), data) for name, data in contents.items()})
    return {
        name: b"".join(data[row * ROW_BYTES + ROW_BYTES // 2 : (row + 1) * ROW_BYTES] for row in range(ROWS))
        for name, data in contents.items()
    }


@pytest.mark.parametrize("gap_bytes", [0, 1 << 20])
@pytest.mark.parametrize("strategy", ["mapped", "direct", "buffered"])
def test_a_limit_holds_for_what_passes_through_too(
    strategy: Any, gap_bytes: int, checkpoint: tuple[Path, dict[str, bytes]]
) -> None:
    """Tensors in flight and what is read along with them stay within the limit, and everything comes."""
    path, expected = checkpoint
    limit = 3 << 20
    how = Options(memory_limit=limit, strategy=strategy, gap_bytes=gap_bytes, concurrency=8)
    found: dict[str, bytes] = {}
    with slipstream.stream(path, shard=HALF, framework="numpy", options=how) as stream:
        for name, tensor in stream:
            found[name] = tensor_bytes(tensor)
            del tensor
        assert 0 < stream.stats().peak_buffer_bytes <= limit
    assert found == expected


def test_the_limit_says_what_it_is_for(checkpoint: tuple[Path, dict[str, bytes]]) -> None:
    """A tensor that fits into the limit, but not beside what is read along, is refused with both figures."""
    path, _ = checkpoint
    with pytest.raises(MemoryLimitError, match="read along with columns") as caught:
        slipstream.plan(path, shard=HALF, options=Options(memory_limit=700_000))
    assert "640,000" in str(caught.value)
    assert "700,000" in str(caught.value)


def _hold(stream: slipstream.TensorStream, held: dict[str, Any]) -> None:
    for name, tensor in stream:
        held[name] = tensor


def test_holding_everything_is_still_an_error(checkpoint: tuple[Path, dict[str, bytes]]) -> None:
    """A caller who holds all pieces under a limit gets the usual error, and what he holds is right."""
    path, expected = checkpoint
    how = Options(memory_limit=3 << 20, memory_wait_s=0.05)
    held: dict[str, Any] = {}
    with slipstream.stream(path, shard=HALF, framework="numpy", options=how) as stream, pytest.raises(MemoryLimitError):
        _hold(stream, held)
    assert 1 <= len(held) < COUNT
    assert all(tensor_bytes(tensor) == expected[name] for name, tensor in held.items())


def _leave_at_once(stream: slipstream.TensorStream) -> None:
    stream.close()


def _leave_after_one(stream: slipstream.TensorStream) -> None:
    next(stream)
    stream.close()


def _drop(stream: slipstream.TensorStream) -> None:
    next(stream)


def _exhaust(stream: slipstream.TensorStream) -> None:
    for _ in stream:
        pass


@pytest.mark.parametrize("leave", [_leave_at_once, _leave_after_one, _drop, _exhaust])
@pytest.mark.parametrize("gap_bytes", [0, 1 << 20, "auto"])
def test_nothing_is_left(
    gap_bytes: Any, leave: Callable[[slipstream.TensorStream], None], checkpoint: tuple[Path, dict[str, bytes]]
) -> None:
    """However a caller leaves, threads, descriptors and all memory that strips passed through are gone."""
    path, _ = checkpoint
    shard = Shard(1, 2, {"*": 1}, ranks_per_host=2)  # which is minded where the gap is chosen by it
    slipstream.load(path, shard=HALF, framework="numpy", names="t0")  # what is imported for strips stays
    forget(path)
    before, contexts = see_footprint(path.parent), _count_contexts()
    how = Options(gap_bytes=gap_bytes, concurrency=4)
    leave(slipstream.stream(path, shard=shard, framework="numpy", options=how))
    wait_nothing_left(before, path.parent)
    assert _count_contexts() == contexts


def _count_contexts() -> int:
    """Of asynchronous reads: each has a mapping of its own."""
    return Path("/proc/self/maps").read_text().count("/[aio]")


@pytest.mark.parametrize("strategy", ["direct", "buffered"])
@pytest.mark.parametrize("gap_bytes", [0, 1 << 20])
def test_failing_storage(strategy: Any, gap_bytes: int, faulty_fs: tuple[FaultyFs, Path]) -> None:
    """An I/O error inside strips is a ReadError with where it was, and leaves nothing, however strips are read."""
    mounted, behind = faulty_fs
    write_columns(behind / "strips.safetensors")
    path = mounted.mount_point / "strips.safetensors"
    bad = slipstream.inspect(path).by_name["t5"].start + 300_000
    slipstream.load(path, shard=HALF, framework="numpy", names="t0")
    before = see_footprint(mounted.mount_point)
    mounted.fail_from(bad)
    with pytest.raises(ReadError, match="EIO") as caught:
        slipstream.load(
            path,
            shard=HALF,
            framework="numpy",
            options=Options(gap_bytes=gap_bytes, strategy=strategy, chunk_bytes=1 << 20),
        )
    wait_nothing_left(before, mounted.mount_point)
    error = caught.value
    assert error.uri == str(path)
    assert error.offset is not None
    assert error.length is not None
    assert error.offset + error.length > bad - 4096  # a page with a bad byte is bad as a whole


def test_leaving_while_a_server_holds_back(range_root: Path, range_server: RangeServer, tmp_path: Path) -> None:
    """Closing a stream whose strips a server holds back ends at once, also for reads that wait for memory."""
    write_columns(range_root / "held.safetensors")
    before = see_footprint(tmp_path)
    range_server.set_faults(Faults(Hold(when=When(after=1))))
    how = Options(chunk_bytes=256 << 10, memory_limit=4 << 20, concurrency=16, first_byte_timeout_s=60.0)
    stream = slipstream.stream(range_server.url("held.safetensors"), shard=HALF, framework="numpy", options=how)
    range_server.wait_held(2)
    stream.close()
    range_server.release()
    wait_nothing_left(before, tmp_path)


@pytest.mark.parametrize("ranks_per_host", [1, 2])
def test_a_truncated_file(ranks_per_host: int, checkpoint: tuple[Path, dict[str, bytes]]) -> None:
    """A file that is cut off during the load is an error that says so, not a signal and not zeros."""
    path, _ = checkpoint
    shard = Shard(1, 2, {"*": 1}, ranks_per_host=ranks_per_host)
    how = Options(concurrency=1, memory_limit=2 << 20)
    with slipstream.stream(path, shard=shard, framework="numpy", options=how) as stream:
        next(stream)
        with open(path, "r+b") as file:
            file.truncate(ROWS * ROW_BYTES * 4)
        with pytest.raises(ReadError, match=r"truncated|changed"):
            for _ in stream:
                pass


def test_a_pool_bounds_and_recycles() -> None:
    """No more pieces are made than fit, a piece comes back for the next, and closing stops whoever waits."""
    pool = ScratchPool(5000, 40_000)
    assert pool.length == 4 * 4096
    stopped = threading.Event()

    def wait_for_a_third() -> None:
        with pytest.raises(TransferStopped), pool.lend():
            pass
        stopped.set()

    with pool.lend() as first, pool.lend() as second:
        assert first.address != second.address
        waiting = threading.Thread(target=wait_for_a_third)
        waiting.start()
        assert pool.peak_bytes == 2 * pool.length
        pool.close()
        assert stopped.wait(20)
        waiting.join()
        first.view[:5] = b"still"  # what is lent stays until it is given back
        assert bytes(first.view[:5]) == b"still"
    with pytest.raises(TransferStopped), pool.lend():
        pass


def test_a_pool_has_at_least_one_piece() -> None:
    """A pool smaller than a piece still lends one, again and again the same."""
    pool = ScratchPool(100_000, 1)
    with pool.lend() as piece:
        address = piece.address
    with pool.lend() as piece:
        assert piece.address == address
    pool.close()
