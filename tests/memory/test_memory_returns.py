"""Memory goes back to the system when the last view of a tensor dies, and no sooner or later."""

from __future__ import annotations

import gc
import re
from pathlib import Path
from typing import Any

import pytest

import slipstream
from slipstream import Options
from slipstream.types import FILE_STRATEGIES, Strategy
from tests.streaming.random_checkpoints import write_flat

MIB = 1 << 20


def count_anonymous_bytes() -> int:
    """Memory of this process that no file backs."""
    match = re.search(r"^Anonymous:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) << 10


def mapped_bytes(path: Path) -> int:
    """How much of this process's address space is mapped from the file."""
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path)):
            start, end = line.split(" ", 1)[0].split("-")
            total += int(end, 16) - int(start, 16)
    return total


@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_mappings_live_as_long_as_their_tensors(framework: Any, tmp_path: Path) -> None:
    """Each tensor of its own mapping takes the mapping with it when its last view dies."""
    path = (tmp_path / "a.safetensors").resolve()
    write_flat(path, {f"t{number}": 100_000 for number in range(10)})
    assert mapped_bytes(path) == 0
    tensors = slipstream.load(path, framework=framework, options=Options(strategy=Strategy.MAPPED, chunk_bytes=4096))
    held = mapped_bytes(path)
    assert held >= 1_000_000
    views: dict[str, Any] = {name: tensor[-1:] for name, tensor in tensors.items()}
    tensors.clear()
    assert mapped_bytes(path) == held
    for number in range(10):
        del views[f"t{number}"]
        assert mapped_bytes(path) <= held - (number + 1) * 100_000
    assert mapped_bytes(path) == 0


@pytest.mark.parametrize("strategy", FILE_STRATEGIES)
def test_nothing_stays_after_an_abandoned_stream(strategy: Strategy, tmp_path: Path) -> None:
    """A stream that is left half-way gives back all that it had read and not delivered."""
    path = (tmp_path / "a.safetensors").resolve()
    write_flat(path, {f"t{number}": MIB for number in range(24)})
    how = Options(strategy=strategy, chunk_bytes=MIB)
    slipstream.load(path, names="t0", options=how)  # what the process needs anyway
    gc.collect()
    before = count_anonymous_bytes()
    with slipstream.stream(path, options=how) as tensors:
        next(tensors)
    gc.collect()
    assert mapped_bytes(path) == 0
    assert count_anonymous_bytes() < before + 4 * MIB


@pytest.mark.parametrize("framework", ["torch", "numpy"])
@pytest.mark.parametrize("strategy", [Strategy.DIRECT, Strategy.BUFFERED])
def test_read_memory_returns(strategy: Strategy, framework: Any, tmp_path: Path) -> None:
    """A load takes about its own size of memory, and gives it back when its tensors are dropped."""
    path = tmp_path / "a.safetensors"
    write_flat(path, {f"t{number}": MIB for number in range(24)})
    how = Options(strategy=strategy)
    slipstream.load(path, names="t0", framework=framework, options=how)
    gc.collect()
    before = count_anonymous_bytes()
    tensors = slipstream.load(path, framework=framework, options=how)
    assert before + 23 * MIB < count_anonymous_bytes() < before + 36 * MIB
    tensors.clear()
    gc.collect()
    assert count_anonymous_bytes() < before + 4 * MIB


@pytest.mark.parametrize("odd_bytes", [0, 1])
@pytest.mark.parametrize("strategy", FILE_STRATEGIES)
def test_real_memory_keeps_the_limit(strategy: Strategy, odd_bytes: int, tmp_path: Path) -> None:
    """Under a limit, a caller that drops each tensor never has much more real memory in use than the limit."""
    path = (tmp_path / "a.safetensors").resolve()
    write_flat(path, {"odd": odd_bytes, **{f"t{number}": MIB // 2 for number in range(64)}})
    how = Options(strategy=strategy, memory_limit=4 * MIB, chunk_bytes=MIB)
    slipstream.load(path, names="t0", options=how)
    gc.collect()
    before = count_anonymous_bytes()
    most = 0
    with slipstream.stream(path, options=how) as tensors:
        for _, tensor in tensors:
            most = max(most, count_anonymous_bytes() - before + mapped_bytes(path))
            del tensor
    assert most < 4 * MIB + 4 * MIB
    assert tensors.stats().peak_buffer_bytes <= 4 * MIB


def test_held_small_tensors_keep_no_mapping(tmp_path: Path) -> None:
    """Under a limit, small tensors that are held do not keep the file's pages around them mapped."""
    path = (tmp_path / "a.safetensors").resolve()
    sizes = {f"t{number}": 90 if number % 2 else 9000 for number in range(400)}
    write_flat(path, sizes)
    held = []
    limit = 256 * 1024
    with slipstream.stream(path, options=Options(strategy=Strategy.MAPPED, memory_limit=limit)) as tensors:
        for name, tensor in tensors:
            if sizes[name] == 90:
                held.append(tensor)
            del tensor
    assert len(held) == 200
    assert mapped_bytes(path) <= limit
