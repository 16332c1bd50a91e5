"""`memory_limit` bounds what is in flight and what the caller holds, and what cannot go on says so."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import slipstream
from slipstream import Dtype, MemoryLimitError, Options, Progress, StreamClosedError
from slipstream.testing.checkpoints import write_safetensors
from slipstream.types import FILE_STRATEGIES, Strategy
from tests.streaming.random_checkpoints import make_bytes, tensor_bytes, write_flat

STRATEGIES = FILE_STRATEGIES
TENSOR_BYTES = 20_000
COUNT = 20
HANG_S = 60.0


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Twenty tensors of one size."""
    write_flat(tmp_path / "a.safetensors", {f"t{number}": TENSOR_BYTES for number in range(COUNT)})
    return tmp_path / "a.safetensors"


@pytest.fixture
def _without_collector() -> Iterator[None]:
    """The garbage collector does not run by itself."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def hold_everything(tensors: slipstream.TensorStream, held: list[Any]) -> None:
    """What a caller does who does not know of limits."""
    for _, tensor in tensors:
        held.append(tensor)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_holding_everything_is_an_error_that_names_the_way_out(strategy: Strategy, checkpoint: Path) -> None:
    """A caller who holds all of the limit gets an error that says where, and what to do, with all it holds valid."""
    limit = 5 * TENSOR_BYTES
    how = Options(memory_limit=limit, memory_wait_s=0.05, strategy=strategy)
    held: list[Any] = []
    with slipstream.stream(checkpoint, options=how) as tensors:
        with pytest.raises(MemoryLimitError) as caught:
            hold_everything(tensors, held)
        with pytest.raises(StreamClosedError):
            next(tensors)
    error = caught.value
    assert isinstance(error, MemoryError)
    for word in ("memory_limit", "Drop", "raise the limit", "names=", f"{limit:,}"):
        assert word in str(error)
    assert error.uri == str(checkpoint)
    assert error.length == TENSOR_BYTES
    content = checkpoint.read_bytes()
    assert error.offset is not None
    assert error.offset == len(content) - (COUNT - 5) * TENSOR_BYTES
    assert len(held) == 5
    assert sorted(tensor_bytes(tensor) for tensor in held) == sorted(
        content[-(COUNT - number) * TENSOR_BYTES :][:TENSOR_BYTES] for number in range(5)
    )
    assert tensors.stats().peak_buffer_bytes <= limit


def test_holding_everything_under_a_progress_bar(checkpoint: Path) -> None:
    """The same error comes to a caller who watches the progress: reports do not start the wait anew."""

    def watch(progress: Progress) -> None:
        assert progress.seconds < HANG_S / 6, "the stream waits for ever"

    how = Options(memory_limit=5 * TENSOR_BYTES, memory_wait_s=0.3)
    held: list[Any] = []
    with slipstream.stream(checkpoint, options=how, progress=watch) as tensors, pytest.raises(MemoryLimitError):
        hold_everything(tensors, held)
    assert len(held) == 5


@pytest.mark.parametrize("watches", [False, True])
def test_another_thread_may_drop_within_the_wait(watches: bool, checkpoint: Path) -> None:
    """A stream that waits for memory goes on when another thread drops tensors."""
    asked, held = threading.Event(), list[Any]()

    def drop_when_asked() -> None:
        asked.wait(HANG_S)
        held.clear()

    def watch(progress: Progress) -> None:
        if progress.tensors_delivered == 5 and len(reports) > 10:
            asked.set()
        reports.append(progress)

    reports: list[Progress] = []
    dropper = threading.Thread(target=drop_when_asked)
    dropper.start()
    how = Options(memory_limit=5 * TENSOR_BYTES, memory_wait_s=HANG_S)
    with slipstream.stream(checkpoint, options=how, progress=watch if watches else False) as tensors:
        for _ in range(5):
            held.append(next(tensors)[1])
        if not watches:
            asked.set()
        next(tensors)
        dropper.join(HANG_S)
        rest = 0
        for _, tensor in tensors:
            del tensor
            rest += 1
        assert rest == COUNT - 6


@pytest.mark.usefixtures("_without_collector")
@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_tensors_in_reference_cycles_are_found(framework: Any, checkpoint: Path) -> None:
    """Tensors that only a reference cycle holds are dead: the stream finds them before it gives up."""
    how = Options(memory_limit=2 * TENSOR_BYTES, memory_wait_s=0.05)
    count = 0
    with slipstream.stream(checkpoint, framework=framework, options=how) as tensors:
        for name, tensor in tensors:
            cycle: list[Any] = [name, tensor]
            cycle.append(cycle)
            count += 1
            del tensor, cycle
    assert count == COUNT


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("odd_bytes", [0, 1, 3, 4])
def test_the_largest_tensor_is_limit_enough(odd_bytes: int, strategy: Strategy, tmp_path: Path) -> None:
    """A limit of exactly the largest tensor loads everything, wherever it lies, for a caller that drops each tensor."""
    contents = {
        "odd": (Dtype.U8, (odd_bytes,), b"x" * odd_bytes),
        "small": (Dtype.F32, (6,), make_bytes(24, seed=1)),
        "none": (Dtype.F32, (0, 3), b""),
        "large": (Dtype.F64, (5000,), make_bytes(40_000, seed=2)),
        "none too": (Dtype.F32, (3, 0), b""),
        "large too": (Dtype.F64, (5000,), make_bytes(40_000, seed=3)),
        "end": (Dtype.U8, (1,), b"e"),
    }
    write_safetensors(tmp_path / "a.safetensors", contents)
    how = Options(memory_limit=40_000, memory_wait_s=HANG_S, strategy=strategy, chunk_bytes=4096)
    seen = {}
    with slipstream.stream(tmp_path, options=how) as tensors:
        for name, tensor in tensors:
            seen[name] = tensor_bytes(tensor)
            del tensor
    assert seen == {name: content for name, (_, _, content) in contents.items()}
    assert tensors.stats().peak_buffer_bytes <= 40_000


@pytest.mark.parametrize("count", [2, 50])
@pytest.mark.parametrize("share", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_limits_around_the_total_with_copies(share: float, count: int, tmp_path: Path) -> None:
    """Small tensors that must be copied to align them stream under any limit that a few of them fit in."""
    contents = {f"t{number}": (Dtype.F32, (25,), make_bytes(100, seed=number)) for number in range(count)}
    write_safetensors(tmp_path / "a.safetensors", {"odd": (Dtype.U8, (1,), b"x"), **contents})
    how = Options(memory_limit=max(400, int(count * 100 * share)), memory_wait_s=0.2)
    seen = {}
    with slipstream.stream(tmp_path, options=how) as tensors:
        for name, tensor in tensors:
            seen[name] = tensor_bytes(tensor)
            del tensor
    assert seen == {"odd": b"x", **{name: content for name, (_, _, content) in contents.items()}}
    assert tensors.stats().peak_buffer_bytes <= max(400, int(count * 100 * share))


@pytest.mark.parametrize("largest", [1, 2, 7, 8, 9, 17])
def test_tiny_limits(largest: int, tmp_path: Path) -> None:
    """A limit of exactly the largest tensor is enough however small it is, beside empty neighbours too."""
    written = write_flat(tmp_path / "a.safetensors", {"none": 0, "a": largest, "b": 1, "c": largest, "nil": 0})
    how = Options(memory_limit=largest, memory_wait_s=1)
    seen = {}
    with slipstream.stream(tmp_path, options=how) as tensors:
        for name, tensor in tensors:
            seen[name] = tensor_bytes(tensor)
            del tensor
    assert seen == written


@pytest.mark.parametrize("ask", [slipstream.plan, slipstream.stream, slipstream.load])
def test_a_tensor_larger_than_the_limit(ask: Any, tmp_path: Path) -> None:
    """A tensor that can never fit is refused before any read, by name and place; without it the rest loads."""
    path = tmp_path / "a.safetensors"
    written = write_flat(path, {"a": 100, "large": 1001, "b": 100})
    with pytest.raises(MemoryLimitError) as caught:
        ask(path, options=Options(memory_limit=1000))
    for word in ("large", "1,001", "1,000", "names="):
        assert word in str(caught.value)
    start = path.stat().st_size - 1101
    assert (caught.value.uri, caught.value.offset, caught.value.length) == (str(path), start, 1001)
    ask(path, names=["a", "b"], options=Options(memory_limit=1000))
    assert set(written) == {"a", "large", "b"}


def test_load_refuses_a_limit_below_the_total(checkpoint: Path) -> None:
    """load() keeps everything, so it refuses at once a limit that everything does not fit in."""
    with pytest.raises(MemoryLimitError, match="stream"):
        slipstream.load(checkpoint, options=Options(memory_limit=COUNT * TENSOR_BYTES - 1, memory_wait_s=HANG_S))


@pytest.mark.parametrize("sizes", [[TENSOR_BYTES] * COUNT, [100] * 500, [100, 50_000, 0, 1] * 5, [1] * 100])
def test_the_total_is_limit_enough_for_load(sizes: list[int], tmp_path: Path) -> None:
    """A limit of exactly the total is enough to hold everything."""
    written = write_flat(tmp_path / "a.safetensors", {f"t{number}": size for number, size in enumerate(sizes)})
    how = Options(memory_limit=sum(sizes), memory_wait_s=0.2)
    found = slipstream.load(tmp_path, options=how)
    assert {name: tensor_bytes(tensor) for name, tensor in found.items()} == written


@pytest.mark.parametrize("framework", ["torch", "numpy"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_misaligned_tensors_count(strategy: Strategy, framework: Any, tmp_path: Path) -> None:
    """Tensors that the file has at odd offsets are held under the limit like any others."""
    contents = {f"t{number}": (Dtype.F32, (5000,), make_bytes(20_000, seed=number)) for number in range(COUNT)}
    write_safetensors(tmp_path / "a.safetensors", {"odd": (Dtype.U8, (1,), b"x"), **contents})
    limit = 100_000
    held: list[Any] = []
    how = Options(memory_limit=limit, memory_wait_s=0.05, strategy=strategy)
    with (
        slipstream.stream(tmp_path, framework=framework, options=how) as tensors,
        pytest.raises(MemoryLimitError),
    ):
        hold_everything(tensors, held)
    assert sum(tensor.nbytes for tensor in held) <= limit


@pytest.mark.parametrize("framework", ["torch", "numpy"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_held_small_tensors_do_not_pin_their_neighbours(strategy: Strategy, framework: Any, tmp_path: Path) -> None:
    """A caller who holds only the small tensors, spread over the whole file, never comes to the limit."""
    sizes = {f"t{number}": 90 if number % 2 else 9000 for number in range(400)}
    written = write_flat(tmp_path / "a.safetensors", sizes)
    how = Options(memory_limit=256 * 1024, memory_wait_s=0.2, strategy=strategy)
    held: dict[str, Any] = {}
    with slipstream.stream(tmp_path, framework=framework, options=how) as tensors:
        for name, tensor in tensors:
            if sizes[name] == 90:
                held[name] = tensor
            del tensor
    assert {name: tensor_bytes(tensor) for name, tensor in held.items()} == {
        name: content for name, content in written.items() if sizes[name] == 90
    }
    assert tensors.stats().peak_buffer_bytes <= 256 * 1024


@pytest.mark.parametrize("framework", ["torch", "numpy"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_held_need_not_count(strategy: Strategy, framework: Any, tmp_path: Path) -> None:
    """With count_held=False a caller keeps everything under a limit for one tensor, and no more than that is ahead."""
    sizes = {f"t{number}": 90 if number % 3 else 9001 for number in range(400)}
    written = write_flat(tmp_path / "a.safetensors", sizes)
    how = Options(memory_limit=9001, memory_wait_s=0, strategy=strategy, count_held=False)
    with slipstream.stream(tmp_path, framework=framework, options=how) as tensors:
        held = dict(tensors)
    assert {name: tensor_bytes(tensor) for name, tensor in held.items()} == written
    assert tensors.stats().peak_buffer_bytes <= 9001
    assert slipstream.load(tmp_path, framework=framework, options=how).keys() == written.keys()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_reads_wait_for_a_caller_who_does_not_ask(strategy: Strategy, checkpoint: Path) -> None:
    """With count_held=False no more than the limit is read ahead: what is handed over makes room, nothing else."""
    how = Options(memory_limit=3 * TENSOR_BYTES, strategy=strategy, count_held=False)
    held: list[Any] = []
    with slipstream.stream(checkpoint, options=how) as tensors:
        for number in range(COUNT):
            held.append(next(tensors))
            assert tensors.stats().reads <= number + 1 + 3
    assert tensors.stats().peak_buffer_bytes == 3 * TENSOR_BYTES


def test_wait_of_zero(checkpoint: Path) -> None:
    """memory_wait_s=0 is an error at once for a caller who holds everything."""
    how = Options(memory_limit=TENSOR_BYTES, memory_wait_s=0)
    held: list[Any] = []
    with slipstream.stream(checkpoint, options=how) as tensors, pytest.raises(MemoryLimitError):
        hold_everything(tensors, held)
    assert len(held) == 1


def test_the_environment_sets_the_limit(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's limit holds for a load without options, and yields to an argument."""
    monkeypatch.setenv("SLIPSTREAM_MEMORY_LIMIT", "1KB")
    with pytest.raises(MemoryLimitError, match="1,000"):
        slipstream.load(checkpoint)
    assert slipstream.plan(checkpoint, options=Options(memory_limit=None)).memory_limit is None
    assert len(slipstream.load(checkpoint, options=Options(memory_limit=10**9))) == COUNT
