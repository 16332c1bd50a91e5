"""JAX arrays: the bytes of the file, placed by device or sharding, and without a copy where XLA allows it.

`test_jax.py` runs these in a process of their own: where JAX has been imported, every fork is warned of.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import slipstream
from slipstream import Dtype, MissingDependencyError, Options, Shard, UsageError
from slipstream.testing.checkpoints import write_safetensors
from slipstream.testing.range_server import RangeServer
from tests.streaming.random_checkpoints import Content, make_content

Spec: Any = PartitionSpec  # without annotations in JAX itself


def as_bytes(array: Any) -> bytes:
    return numpy.asarray(array).tobytes()


@pytest.fixture
def every_dtype(tmp_path: Path) -> tuple[Path, dict[str, tuple[Dtype, bytes]]]:
    """A tensor of every type, of shape (6, 8), an empty one and a scalar."""
    tensors: Content = {dtype.value: (dtype, (6, 8), make_content(dtype, (6, 8), 1)) for dtype in Dtype}
    tensors["empty"] = (Dtype.F32, (0, 3), b"")
    tensors["scalar"] = (Dtype.BF16, (), b"\x80\x3f")
    write_safetensors(tmp_path / "a.safetensors", tensors)
    return tmp_path, {name: (dtype, data) for name, (dtype, _, data) in tensors.items()}


def test_every_dtype(every_dtype: tuple[Path, dict[str, tuple[Dtype, bytes]]]) -> None:
    """Each type comes as the type that NumPy and ml_dtypes have: also of 64 bits, which JAX narrows by default."""
    path, tensors = every_dtype
    arrays: Any = slipstream.load(path, framework="numpy")
    found: Any = slipstream.load(path, framework="jax")
    assert set(found) == set(tensors)
    for name, (_, data) in tensors.items():
        assert isinstance(found[name], jax.Array)
        assert as_bytes(found[name]) == data
        assert found[name].dtype == arrays[name].dtype
        assert found[name].shape == arrays[name].shape
        assert found[name].devices() == {jax.devices("cpu")[0]}


@pytest.mark.parametrize(
    "options", [Options(strategy="direct"), Options(strategy="buffered"), Options(strategy="mapped")]
)
def test_arrays_outlive_the_stream(options: Options, tmp_path: Path) -> None:
    """An array is valid as long as it is held, with its values, also after the file is gone."""
    data = numpy.random.default_rng(0).bytes(1 << 20)
    write_safetensors(tmp_path / "a.safetensors", {"x": ("F32", (512, 512), data)})
    with slipstream.stream(tmp_path, framework="jax", options=options) as stream:
        ((_, array),) = list(stream)
    (tmp_path / "a.safetensors").unlink()
    total = float(jax.numpy.asarray(array, dtype=jax.numpy.float32).size)
    assert total == 512 * 512
    assert as_bytes(array) == data


def test_no_copy_where_memory_is_aligned(tmp_path: Path) -> None:
    """What is read from a store is the array's own memory: it is received to where XLA wants it."""
    data = numpy.random.default_rng(0).bytes(1 << 20)
    (tmp_path / "served").mkdir()
    write_safetensors(
        tmp_path / "served" / "a.safetensors", {"odd": ("U8", (3,), b"abc"), "x": ("F32", (512, 512), data)}
    )
    with RangeServer(tmp_path / "served") as server:
        found = slipstream.load(server.url("a.safetensors"), framework="jax", names="x")
    array: Any = found["x"]
    assert as_bytes(array) == data
    assert array.unsafe_buffer_pointer() % 4096 == 0  # XLA's own memory begins elsewhere


def test_pieces_of_a_shard(tmp_path: Path) -> None:
    """shard= goes together with framework="jax"."""
    values = numpy.arange(64, dtype=numpy.float32).reshape(8, 8)
    write_safetensors(tmp_path / "a.safetensors", {"x": ("F32", (8, 8), values.tobytes())})
    found = slipstream.load(tmp_path, framework="jax", shard=Shard(1, 4, {"*": 1}))
    assert numpy.array_equal(numpy.asarray(found["x"]), values[:, 2:4])


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_devices_by_name(device: str, tmp_path: Path) -> None:
    """A device may be named, or given as JAX's own object."""
    write_safetensors(tmp_path / "a.safetensors", {"x": ("BF16", (4,), bytes(8))})
    expected = {jax.devices("cpu")[0]}
    for given in (device, jax.devices("cpu")[0], lambda info: device):
        found: Any = slipstream.load(tmp_path, framework="jax", device=given)
        assert found["x"].devices() == expected


@pytest.mark.parametrize("device", ["cpu:99", "tpu", "gpu:0", "meta", 3, "cpu:"])
def test_devices_there_are_not(device: Any, tmp_path: Path) -> None:
    """A device that JAX does not have here is wrong usage that names it."""
    write_safetensors(tmp_path / "a.safetensors", {"x": ("BF16", (4,), bytes(8))})
    if device in ("tpu", "gpu:0") and jax.default_backend() != "cpu":
        pytest.skip("this machine has one")
    with pytest.raises(UsageError, match=r"JAX|device"):
        slipstream.load(tmp_path, framework="jax", device=device)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A matrix of 8 by 6, and a vector of 7, which no two devices can share evenly."""
    write_safetensors(
        tmp_path / "a.safetensors",
        {"matrix": ("BF16", (8, 6), os.urandom(96)), "vector": ("I32", (7,), bytes(range(28)))},
    )
    return tmp_path


@pytest.fixture
def mesh() -> Mesh:
    """Four devices, two by two."""
    assert len(jax.devices()) == 4
    return Mesh(numpy.array(jax.devices()).reshape(2, 2), ("data", "model"))


def test_a_sharding_gives_each_device_its_part(two: Path, mesh: Mesh) -> None:
    """With a sharding, every device holds the slice that is its own, and no more."""
    rows = NamedSharding(mesh, Spec("model"))
    whole = numpy.asarray(slipstream.load(two, framework="numpy")["matrix"])
    found: Any = slipstream.load(two, framework="jax", device=rows, names="matrix")["matrix"]
    assert found.sharding == rows
    assert as_bytes(found) == whole.tobytes()
    assert {shard.device for shard in found.addressable_shards} == set(jax.devices())
    for shard in found.addressable_shards:
        assert shard.data.shape == (4, 6)
        assert as_bytes(shard.data) == whole[shard.index].tobytes()


def test_a_function_says_where_each_goes(two: Path, mesh: Mesh) -> None:
    """device= may be a function from a tensor's description to a place."""

    def place(info: slipstream.TensorInfo) -> Any:
        return NamedSharding(mesh, Spec("data", "model")) if len(info.shape) == 2 else "cpu:3"

    found: Any = slipstream.load(two, framework="jax", device=place)
    assert {shard.data.shape for shard in found["matrix"].addressable_shards} == {(4, 3)}
    assert found["vector"].devices() == {jax.devices()[3]}


def test_a_sharding_that_does_not_fit(two: Path, mesh: Mesh) -> None:
    """A tensor that a sharding cannot divide is named in the error, with the way out."""
    with pytest.raises(UsageError, match="function") as caught:
        slipstream.load(two, framework="jax", device=NamedSharding(mesh, Spec("model")))
    assert "'vector'" in str(caught.value)


def test_without_jax(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where JAX is not installed, the error names the pip command."""
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "jax" else find(name, *rest))
    write_safetensors(tmp_path / "a.safetensors", {"x": ("BF16", (4,), bytes(8))})
    with pytest.raises(MissingDependencyError, match=r"slipstream\[jax\]"):
        slipstream.load(tmp_path, framework="jax")


def test_bfloat16_is_ml_dtypes_own(tmp_path: Path) -> None:
    """BF16 arrives as bfloat16, and can be computed with."""
    write_safetensors(tmp_path / "a.safetensors", {"x": ("BF16", (2,), b"\x80\x3f\x00\x40")})
    array = slipstream.load(tmp_path, framework="jax")["x"]
    assert array.dtype == ml_dtypes.bfloat16
    assert (jax.numpy.asarray(array) * 2).tolist() == [2.0, 4.0]


def test_cast_and_divided_on_the_way(tmp_path: Path) -> None:
    """dtype= and shard= through a ring: a rank's columns, cast, as arrays where the caller wants them."""
    values = numpy.random.default_rng(4).standard_normal((100, 64), numpy.float32)
    write_safetensors(tmp_path / "a.safetensors", {"x": ("F32", (100, 64), values.tobytes())})
    device = jax.devices("cpu")[2]
    how = Options(chunk_bytes=4096, ring_bytes=1 << 16)
    found: Any = slipstream.load(
        tmp_path, framework="jax", device=device, dtype="bfloat16", shard=Shard(1, 2, {"x": 1}), options=how
    )
    assert found["x"].devices() == {device}
    assert found["x"].dtype == ml_dtypes.bfloat16
    assert as_bytes(found["x"]) == values[:, 32:].astype(ml_dtypes.bfloat16).tobytes()
