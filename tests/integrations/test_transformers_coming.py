"""Weights on their way to transformers: in its order, not too far ahead of it, and ended with it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.core_model_loading import dot_natural_key

import slipstream
from slipstream import Dtype, MemoryLimitError, Options, ReadError, StreamClosedError, TensorInfo, UsageError
from slipstream.testing.checkpoints import write_safetensors
from slipstream.testing.range_faults import Hold, Status
from slipstream.testing.range_server import Faults, RangeServer, When
from slipstream.transformers.coming import ComingWeights
from slipstream.transformers.coming_tensor import ComingTensor
from slipstream.transformers.windows import cut_windows, sort_as_asked

LAYERS = 24
LAYER_BYTES = 20_000
FIRST_LOOK_BYTES = 96 << 10  # of a blob, when it is planned and when a stream of it is begun
CALM = Options(hedge=False, chunk_bytes=4096)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of layers, stored in the order of their names as text, behind padding that the first looks end in."""
    folder = tmp_path_factory.mktemp("layers")
    tensors = {"aaa.padding": (Dtype.U8, (FIRST_LOOK_BYTES,), bytes(FIRST_LOOK_BYTES))}
    for name in sorted(f"layers.{layer}.weight" for layer in range(LAYERS)):
        layer = int(name.split(".")[1])
        values = numpy.arange(LAYER_BYTES // 4, dtype="<f4") + layer
        tensors[name] = (Dtype.F32, (LAYER_BYTES // 4,), values.tobytes())
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[RangeServer]:
    with RangeServer(folder) as server:
        yield server


def begin(server: RangeServer, options: Options = CALM, window_bytes: int = 3 * LAYER_BYTES) -> ComingWeights:
    """Weights of which the padding is the first window, and each three layers are another."""
    url = server.url("model.safetensors")
    return ComingWeights(url, slipstream.plan(url, options=options), options, None, window_bytes=window_bytes)


def layer_of(tensor: torch.Tensor) -> int:
    """Which layer it is, by its values."""
    first = int(tensor[0])
    assert torch.equal(tensor, torch.arange(LAYER_BYTES // 4) + float(first))
    return first


def layers_read(server: RangeServer, folder: Path) -> list[int]:
    """Of which layers something was asked of the server, in the order of the requests."""
    tensors = slipstream.inspect(folder).tensors
    found = []
    for request in server.requests:
        assert request.range is not None
        start, end = request.range
        found += [
            int(info.name.split(".")[1])
            for info in tensors
            if info.name.startswith("layers") and info.start < end and start < info.end and start > 0
        ]
    return found


def test_all_in_any_threads(server: RangeServer) -> None:
    """Every tensor arrives, asked for in the order of transformers by threads like its own."""
    with begin(server) as coming, ThreadPoolExecutor(4) as threads:
        weights = coming.state_dict()
        names = [f"layers.{layer}.weight" for layer in range(LAYERS)]
        found = list(threads.map(lambda name: layer_of(weights[name][...]), names))
    assert found == list(range(LAYERS))


def test_any_order(server: RangeServer) -> None:
    """Also asked for backwards, by one thread."""
    with begin(server) as coming:
        weights = coming.state_dict()
        for layer in reversed(range(LAYERS)):
            assert layer_of(weights[f"layers.{layer}.weight"][...]) == layer


def test_two_windows_ahead(server: RangeServer, folder: Path) -> None:
    """Nothing is read that comes more than a window after the one that is asked for, in the order of numbers."""
    with begin(server) as coming:
        weights = coming.state_dict()
        weights["aaa.padding"][...]
        for layer in range(3):
            weights[f"layers.{layer}.weight"][...]
        assert set(layers_read(server, folder)) <= set(range(6))
        weights["layers.3.weight"][...]
        assert set(layers_read(server, folder)) <= set(range(9))


@pytest.mark.parametrize("options", [{"concurrency": 2}, {"bandwidth_limit": 1 << 30}], ids=str)
def test_what_is_set_for_a_load_holds_for_it(options: dict[str, int], server: RangeServer, folder: Path) -> None:
    """Where the number of reads or the bandwidth is set, one window is over before the next begins."""
    with begin(server, Options(hedge=False, chunk_bytes=4096, **options)) as coming:  # type: ignore[arg-type]
        weights = coming.state_dict()
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda layer: weights[f"layers.{layer}.weight"][...], range(LAYERS)))
    windows = [layer // 3 for layer in layers_read(server, folder)]
    assert windows == sorted(windows)
    assert set(windows) == set(range(LAYERS // 3))


def test_a_tensor_is_not_kept(server: RangeServer) -> None:
    """Nobody but the caller holds what was handed out."""
    with begin(server) as coming:
        tensor = coming.state_dict()["layers.5.weight"][...]
        watched = weakref.ref(tensor)
        del tensor
        assert watched() is None


def test_asked_again(server: RangeServer) -> None:
    """Whoever asks a second time gets the tensor again, which is read again."""
    with begin(server) as coming:
        weights = coming.state_dict()
        first, again = weights["layers.5.weight"][...], weights["layers.5.weight"][...]
    assert torch.equal(first, again)
    assert first.data_ptr() != again.data_ptr()


def test_close_wakes_who_waits(server: RangeServer) -> None:
    """Threads that wait for tensors that do not come are told when all is closed."""
    with begin(server) as coming, ThreadPoolExecutor(4) as threads:
        weights = coming.state_dict()
        weights["aaa.padding"][...]
        server.set_faults(Faults(Hold()))
        waiting = [threads.submit(weights[f"layers.{layer}.weight"].__getitem__, ...) for layer in range(6, 12)]
        server.wait_held(1)
        closing = threading.Thread(target=coming.close)
        closing.start()
        server.reset()
        closing.join()
        for future in waiting:
            with pytest.raises(StreamClosedError, match="load it again"):
                raise future.exception() or AssertionError("it came")


def test_failure_reaches_all(server: RangeServer) -> None:
    """When the store fails, every thread hears of it, and so does whoever asks later."""
    options = Options(hedge=False, attempts=1, retries=0)
    with begin(server, options) as coming, ThreadPoolExecutor(4) as threads:
        weights = coming.state_dict()
        weights["aaa.padding"][...]
        server.set_faults(Faults(Status(500, when=When())))
        waiting = [threads.submit(weights[f"layers.{layer}.weight"].__getitem__, ...) for layer in range(6, 12)]
        assert all(isinstance(future.exception(), ReadError) for future in waiting)
        with pytest.raises(ReadError, match="500"):
            weights["layers.20.weight"][...]


def test_limit_below_a_tensor(server: RangeServer) -> None:
    """A tensor that is larger than the limit is refused at once, by name."""
    with pytest.raises(MemoryLimitError, match=r"aaa\.padding takes 98,304 bytes"):
        begin(server, Options(memory_limit=90_000))


def test_limit_is_kept(server: RangeServer, folder: Path) -> None:
    """Under a limit the windows are so small that two of them fit, and a next one that does not is not begun."""
    with begin(server, Options(hedge=False, memory_limit=100_000)) as coming:
        weights = coming.state_dict()
        weights["aaa.padding"][...]
        assert layers_read(server, folder) == []
        weights["layers.0.weight"][...]
        assert set(layers_read(server, folder)) <= set(range(4))


def test_mapped_files_are_read_at_once(folder: Path) -> None:
    """Files that are mapped are one window, whatever the limit: their pages are the page cache's."""
    options = Options(memory_limit=1000, strategy="mapped")
    with ComingWeights(folder, slipstream.plan(folder), options, None, window_bytes=1) as coming:
        for layer in range(LAYERS):
            assert layer_of(coming.state_dict()[f"layers.{layer}.weight"][...]) == layer


def test_nothing_in_it(tmp_path: Path) -> None:
    """A checkpoint without tensors is no error."""
    write_safetensors(tmp_path / "model.safetensors", {})
    with ComingWeights(tmp_path, slipstream.plan(tmp_path), None, None) as coming:
        assert coming.state_dict() == {}


@pytest.mark.parametrize("dtype", [dtype for dtype in Dtype if not dtype.startswith("F6")])
def test_a_tensor_that_has_not_come_tells_its_type(dtype: Dtype) -> None:
    """Shape, type and kind are those that the tensor will have, and nothing is read to know them."""
    info = TensorInfo("a", dtype, (4, 2), 0, 0, 4 * 2 * dtype.bits // 8)
    tensor = ComingTensor(info, _never)
    assert tensor.get_shape() == [4, 2]
    assert tensor.shape == (4, 2)
    assert tensor.get_dtype() == dtype
    assert tensor.is_floating_point() == tensor.dtype.is_floating_point == dtype.startswith(("F", "BF"))
    assert tensor.dtype.itemsize * 8 == max(8, dtype.bits)


def test_a_type_that_pytorch_lacks() -> None:
    """One that PyTorch has no type for is an error once it is asked for."""
    tensor = ComingTensor(TensorInfo("a", Dtype.F6_E2M3, (4,), 0, 0, 3), _never)
    assert tensor.get_dtype() == "F6_E2M3"
    with pytest.raises(UsageError, match="F6_E2M3"):
        tensor.dtype  # noqa: B018


def _never(info: TensorInfo) -> torch.Tensor:
    raise AssertionError("nothing was to be read")


names = st.lists(
    st.lists(st.sampled_from(["layers", "0", "2", "10", "007", "shard_2", "shard_10", "a1b", ""]), min_size=1).map(
        ".".join
    ),
    unique=True,
)


@given(names)
def test_order(found: list[str]) -> None:
    """The order is the one in which transformers asks."""
    tensors = [TensorInfo(name, Dtype.U8, (1,), 0, number, number + 1) for number, name in enumerate(found)]
    expected = sorted(found, key=dot_natural_key)
    assert [info.name for info in sort_as_asked(tensors)] == expected


@given(st.lists(st.integers(0, 100)), st.integers(1, 200))
def test_windows(sizes: Sequence[int], window_bytes: int) -> None:
    """Windows have every tensor once, in order, and are as large as they may be."""
    tensors = [TensorInfo(str(number), Dtype.U8, (size,), 0, 0, size) for number, size in enumerate(sizes)]
    windows = cut_windows(tensors, window_bytes)
    assert [info for window in windows for info in window] == tensors
    for window in windows:
        assert len(window) == 1 or sum(info.nbytes for info in window) <= window_bytes
    for window, following in pairwise(windows):
        assert sum(info.nbytes for info in window) + following[0].nbytes > window_bytes
