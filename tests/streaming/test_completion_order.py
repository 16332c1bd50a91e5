"""Tensors come the moment they are whole: nothing waits for a later one."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any, cast

import pytest

import slipstream
from slipstream import Options, Progress
from slipstream.types import Strategy
from tests.streaming.random_checkpoints import tensor_bytes, write_flat

TENSOR_BYTES = 40_000
COUNT = 30
HANG_S = 60


@pytest.mark.parametrize("strategy", ["mapped", "direct", "buffered"])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_first_tensor_comes_before_the_rest_is_read(concurrency: int, strategy: str, tmp_path: Path) -> None:
    """With room for three tensors, each is delivered when at most three tensors more than it were read."""
    write_flat(tmp_path / "a.safetensors", {f"t{number}": TENSOR_BYTES for number in range(COUNT)})
    reports: list[Progress] = []
    how = Options(
        memory_limit=3 * TENSOR_BYTES,
        chunk_bytes=4096,
        concurrency=concurrency,
        strategy=cast(Any, strategy),
    )
    with slipstream.stream(tmp_path, options=how, progress=reports.append) as tensors:
        for delivered, (_, tensor) in enumerate(tensors, start=1):
            assert reports[-1].bytes_read <= (delivered + 2) * TENSOR_BYTES
            del tensor
        assert delivered == COUNT


def test_a_held_back_tensor_does_not_hold_back_the_others(tmp_path: Path) -> None:
    """A large tensor that cannot be read for want of memory lets those before it out."""
    write_flat(tmp_path / "a.safetensors", {"small": 10_000, "large": 100_000, "last": 10_000})
    how = Options(memory_limit=100_000, memory_wait_s=HANG_S)
    with slipstream.stream(tmp_path, options=how) as tensors:
        name, tensor = next(tensors)
        assert name == "small"
        assert tensors.stats().bytes == 10_000
        del tensor
        rest = []
        for name, tensor in tensors:
            rest.append(name)
            del tensor
    assert rest == ["large", "last"]


def test_order_is_of_completion_for_one_worker(tmp_path: Path) -> None:
    """One worker completes ranges in the order of the plan, and so they are delivered."""
    write_flat(tmp_path / "a.safetensors", {f"t{number}": TENSOR_BYTES for number in range(COUNT)})
    how = Options(concurrency=1, chunk_bytes=4096)
    with slipstream.stream(tmp_path, options=how) as tensors:
        planned = [tensor.name for op in tensors.plan.ops for tensor in op.tensors]
        assert [name for name, _ in tensors] == planned


def test_reading_goes_on_while_the_caller_works(tmp_path: Path) -> None:
    """Without a limit everything is read although the caller has not asked for a tensor yet."""
    write_flat(tmp_path / "a.safetensors", {f"t{number}": TENSOR_BYTES for number in range(COUNT)})
    with slipstream.stream(tmp_path, options=Options(chunk_bytes=4096, strategy=Strategy.BUFFERED)) as tensors:
        for worker in list_workers():
            worker.join(HANG_S)
            assert not worker.is_alive()
        assert tensors.stats().reads >= COUNT
        assert tensors.stats().tensors == 0
        assert len(list(tensors)) == COUNT


def list_workers() -> list[threading.Thread]:
    """The threads that read now."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("slipstream-")]


def test_tensors_can_be_used_up_by_other_threads(tmp_path: Path) -> None:
    """A limited stream whose tensors other threads look at and drop delivers all of them."""
    written = write_flat(tmp_path / "a.safetensors", {f"t{number}": TENSOR_BYTES for number in range(COUNT)})
    work: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()
    seen: dict[str, bool] = {}

    def consume() -> None:
        while (item := work.get()) is not None:
            seen[item[0]] = tensor_bytes(item[1]) == written[item[0]]
            del item

    consumers = [threading.Thread(target=consume) for _ in range(3)]
    for consumer in consumers:
        consumer.start()
    how = Options(memory_limit=4 * TENSOR_BYTES, memory_wait_s=HANG_S, chunk_bytes=4096)
    try:
        with slipstream.stream(tmp_path, options=how) as tensors:
            for pair in tensors:
                work.put(pair)
                del pair
    finally:
        for _ in consumers:
            work.put(None)
        for consumer in consumers:
            consumer.join(HANG_S)
    assert seen == dict.fromkeys(written, True)
