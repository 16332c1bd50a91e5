"""A tensor that was handed out stays valid for as long as it, or a view of it, is held: whatever comes after."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy
import pytest
import torch
import torch.utils.dlpack
from hypothesis import given, settings
from hypothesis import strategies as st

import slipstream
from slipstream import Dtype, Options
from slipstream.testing.checkpoints import write_safetensors
from slipstream.types import FILE_STRATEGIES, Strategy
from tests.streaming.random_checkpoints import make_bytes, tensor_bytes, write_flat

STRATEGIES = FILE_STRATEGIES


@st.composite
def limited_patterns(draw: st.DrawFn) -> tuple[dict[str, int], Options, int]:
    """Sizes of tensors, options with a limit that the largest fits in, and a seed for whom to hold."""
    sizes = draw(st.lists(st.one_of(st.integers(0, 300), st.integers(1000, 40_000)), min_size=1, max_size=40))
    least = max(64, *sizes)
    how = Options(
        memory_limit=draw(st.integers(least, 4 * least)),
        chunk_bytes=draw(st.sampled_from([4096, 10_000, 1 << 20])),
        concurrency=draw(st.integers(1, 8)),
        strategy=draw(st.sampled_from(STRATEGIES)),
    )
    return {f"t{number}": size for number, size in enumerate(sizes)}, how, draw(st.integers(0, 1000))


@given(pattern=limited_patterns(), framework=st.sampled_from(["torch", "numpy"]))
@settings(max_examples=40, deadline=None)
def test_held_subsets_stay_valid_within_the_limit(pattern: tuple[dict[str, int], Options, int], framework: Any) -> None:
    """Whatever a caller holds and drops within the limit, what it holds is right at the end, and the limit was kept."""
    sizes, how, seed = pattern
    limit = cast(int, how.memory_limit)
    room_to_move = max(max(sizes.values()), limit // 4)  # the next range is at most the largest tensor, or an eighth
    chance = random.Random(seed)
    held: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        written = write_flat(Path(folder) / "a.safetensors", sizes, seed)
        seen = []
        with slipstream.stream(folder, framework=framework, options=how) as tensors:
            for name, tensor in tensors:
                seen.append(name)
                if chance.random() < 0.3 and held:
                    held.pop(chance.choice(list(held)))
                if sum(sizes[other] for other in held) + sizes[name] + room_to_move <= limit:
                    held[name] = tensor
                del tensor
        assert sorted(seen) == sorted(sizes)
        assert tensors.stats().peak_buffer_bytes <= limit
        slipstream.load(folder, options=Options(strategy=how.strategy))
    assert {name: tensor_bytes(tensor) for name, tensor in held.items()} == {name: written[name] for name in held}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_tensors_outlive_stream_file_and_later_loads(strategy: Strategy, tmp_path: Path) -> None:
    """Held tensors keep their bytes after the stream is closed, others were loaded, and the file was replaced."""
    path = tmp_path / "a.safetensors"
    sizes = {f"t{number}": 30_001 for number in range(40)}
    written = write_flat(path, sizes)
    held: dict[str, Any] = {}
    with slipstream.stream(path, options=Options(strategy=strategy, chunk_bytes=65_536)) as tensors:
        for number, (name, tensor) in enumerate(tensors):
            if number % 3 == 0:
                held[name] = tensor
            if number == 30:
                break
    del tensors, tensor
    gc.collect()
    other = tmp_path / "other.safetensors"
    write_flat(other, sizes, seed=1000)
    os.replace(other, path)
    for _ in range(3):
        slipstream.load(path, options=Options(strategy=strategy))
    path.unlink()
    gc.collect()
    assert {name: tensor_bytes(tensor) for name, tensor in held.items()} == {name: written[name] for name in held}


def _torch_slice(tensor: Any) -> Any:
    return tensor[1:]


def _torch_view(tensor: Any) -> Any:
    return tensor.view(torch.int16)[1:].t() if tensor.dim() > 1 else tensor.view(torch.int16)


def _torch_numpy(tensor: Any) -> Any:
    return tensor.numpy()


def _torch_memoryview(tensor: Any) -> Any:
    return memoryview(tensor.numpy())


def _torch_storage(tensor: Any) -> Any:
    return tensor.untyped_storage()


def _numpy_slice(array: Any) -> Any:
    return array[1:]


def _numpy_view(array: Any) -> Any:
    return array.view(numpy.uint16)[::2]


def _numpy_memoryview(array: Any) -> Any:
    return memoryview(array)


def _numpy_dlpack(array: Any) -> Any:
    return torch.utils.dlpack.from_dlpack(array)


VIEWS: list[tuple[Any, Callable[[Any], Any]]] = [
    ("torch", _torch_slice),
    ("torch", _torch_view),
    ("torch", _torch_numpy),
    ("torch", _torch_memoryview),
    ("torch", _torch_storage),
    ("numpy", _numpy_slice),
    ("numpy", _numpy_view),
    ("numpy", _numpy_memoryview),
    ("numpy", _numpy_dlpack),
]
each_view = pytest.mark.parametrize(("framework", "make_view"), VIEWS, ids=lambda value: getattr(value, "__name__", ""))


def content_of(view: Any) -> bytes:
    """The bytes that a view of any kind shows."""
    if isinstance(view, torch.UntypedStorage):
        return bytes(cast(Any, torch.tensor([], dtype=torch.uint8).set_(view)).numpy())
    return bytes(view) if isinstance(view, memoryview) else numpy.asarray(view).tobytes()


@each_view
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_view_keeps_the_bytes(
    strategy: Strategy, framework: Any, make_view: Callable[[Any], Any], tmp_path: Path
) -> None:
    """A view of any kind shows the same bytes after its tensor is gone and other loads took memory."""
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"a": (Dtype.I32, (5000,), make_bytes(20_000, seed=1))})
    how = Options(strategy=strategy)
    with slipstream.stream(path, framework=framework, options=how) as tensors:
        (_, tensor) = next(tensors)
    expected = content_of(make_view(tensor))
    view = make_view(tensor)
    del tensor, tensors
    gc.collect()
    later = [slipstream.load(path, framework=framework, options=how) for _ in range(5)]
    for loaded in later:
        cast(Any, loaded["a"])[:] = 0
    assert content_of(view) == expected
    assert any(expected)


@each_view
@pytest.mark.parametrize("strategy", [Strategy.MAPPED, Strategy.BUFFERED])
def test_a_view_keeps_the_lease(
    strategy: Strategy, framework: Any, make_view: Callable[[Any], Any], tmp_path: Path
) -> None:
    """The limit counts a tensor until its last view is gone, and lets the next be read from then on."""
    path = tmp_path / "a.safetensors"
    names = ["a", "b", "c"]
    write_safetensors(path, {name: (Dtype.I32, (5000,), make_bytes(20_000, seed=1)) for name in names})
    how = Options(strategy=strategy, memory_limit=20_000, memory_wait_s=0.05)
    with slipstream.stream(path, framework=framework, options=how) as tensors:
        for _ in names:
            name, tensor = next(tensors)
            view = make_view(tensor)
            del tensor
            del view
        assert name == "c"
    with slipstream.stream(path, framework=framework, options=how) as tensors:
        view = make_view(next(tensors)[1])
        with pytest.raises(slipstream.MemoryLimitError):
            next(tensors)
    assert any(content_of(view))


def test_tensors_alive_at_interpreter_exit(tmp_path: Path) -> None:
    """A process that still holds tensors and an open stream ends quietly."""
    write_flat(tmp_path / "a.safetensors", {f"t{number}": 10_000 for number in range(50)})
    script = (
        "import sys, slipstream\n"
        "held = slipstream.load(sys.argv[1])\n"
        "arrays = slipstream.load(sys.argv[1], framework='numpy')\n"
        "tensors = slipstream.stream(sys.argv[1], options=slipstream.Options(memory_limit=20_000))\n"
        "first = next(tensors)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
