"""slipstream.safetensors.safe_open and load_file do what safetensors' own do, of local files."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

import slipstream
import slipstream.safetensors
from slipstream import Dtype
from slipstream.safetensors import SafetensorError, load_file, safe_open
from slipstream.safetensors.numpy import load_file as load_numpy
from slipstream.testing.checkpoints import write_safetensors
from tests.integrations.checkpoints import FRAMEWORKS, same, write_varied
from tests.streaming.random_checkpoints import make_content


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "model.safetensors"
    write_varied(made, {"format": "pt"})
    return made


@pytest.fixture(params=["mmap", "pread"])
def backend(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.mark.parametrize("framework", ["pt", "torch", "pytorch", "np", "numpy"])
def test_every_tensor_is_the_one_that_the_reference_reads(path: Path, framework: str, backend: str) -> None:
    """Names, metadata, types, shapes and values are the reference's, under each name of a framework."""
    with safetensors.safe_open(path, framework) as reference, safe_open(path, framework, backend=backend) as found:
        assert found.keys() == reference.keys()
        assert found.offset_keys() == reference.offset_keys()
        assert found.metadata() == reference.metadata() == {"format": "pt"}
        for name in reference.keys():  # noqa: SIM118  # it is no mapping
            assert same(found.get_tensor(name), reference.get_tensor(name)), name
            assert found.get_slice(name).get_shape() == reference.get_slice(name).get_shape()
            assert found.get_slice(name).get_dtype() == reference.get_slice(name).get_dtype()


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("dtype", Dtype)
def test_every_dtype(dtype: Dtype, framework: str, backend: str, tmp_path: Path) -> None:
    """What the reference reads is read alike; what only slipstream.load reads comes as it does from there."""
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": (dtype, (3, 4), make_content(dtype, (3, 4), seed=1))})
    with safe_open(path, framework, backend=backend) as opened:
        found = opened.get_tensor("a")
        whole = opened.get_slice("a")[:]
    loaded = slipstream.load(path, framework="torch" if framework == "pt" else "numpy")["a"]
    assert same(found, loaded)
    assert same(whole, loaded)
    try:
        with safetensors.safe_open(path, framework) as reference:
            expected = reference.get_tensor("a")
    except (SafetensorError, AttributeError, TypeError):
        assert dtype.startswith(("F4", "F6", "F8"))
        return
    assert same(found, expected)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_get_tensors_gives_all_in_the_order_of_the_file(path: Path, framework: str, backend: str) -> None:
    """get_tensors is a dict in the order in which the tensors are stored, as the reference's is."""
    with safetensors.safe_open(path, framework) as reference, safe_open(path, framework, backend=backend) as found:
        expected, tensors = reference.get_tensors(), found.get_tensors()
    assert list(tensors) == list(expected)
    assert all(same(tensors[name], expected[name]) for name in expected)


def test_load_file_equals_the_reference(path: Path, backend: str) -> None:
    """load_file of both modules gives the same tensors in the same order."""
    expected = safetensors.torch.load_file(path)
    found = load_file(path, "cpu", backend=backend)
    assert list(found) == list(expected)
    assert all(same(found[name], expected[name]) for name in expected)
    arrays = load_numpy(path, backend=backend)
    assert list(arrays) == list(expected)
    assert all(arrays[name].shape == tuple(expected[name].shape) for name in expected)


@pytest.mark.parametrize("device", ["cpu", None, torch.device("cpu")])
def test_devices_that_are_host_memory(path: Path, device: Any) -> None:
    """Text, None and a torch.device are taken."""
    with safe_open(path, "pt", device) as opened:
        assert opened.get_tensor("z.matrix").device == torch.device("cpu")


@pytest.mark.parametrize("device", ["cuda:0", 0, torch.device("cuda", 0)])
def test_an_accelerator(path: Path, device: Any) -> None:
    """Tensors, slices and whole files come on the device that is asked for; without one there, PyTorch says so."""
    calls: list[Callable[[], Any]] = [
        lambda: load_file(path, device)["z.matrix"],
        lambda: safe_open(path, "pt", device).get_tensor("z.matrix"),
        lambda: safe_open(path, "pt", device).get_slice("z.matrix")[1:],
    ]
    for call in calls:
        if torch.cuda.is_available():
            assert call().device == torch.device("cuda:0")
        else:
            with pytest.raises((RuntimeError, AssertionError)):
                call()


def test_misaligned_tensors_are_aligned_in_memory(path: Path, backend: str) -> None:
    """What the file has at an odd offset stands in memory where its type wants it."""
    with safe_open(path, "pt", backend=backend) as opened, safe_open(path, "np", backend=backend) as arrays:
        for taken in (opened.get_tensor("c.after_odd"), opened.get_slice("c.after_odd")[2:5]):
            assert isinstance(taken, torch.Tensor)
            assert taken.data_ptr() % 8 == 0
        assert arrays.get_tensor("c.after_odd").flags.aligned  # type: ignore[union-attr]


def test_metadata_is_none_without_any(tmp_path: Path) -> None:
    """As the reference says it."""
    write_varied(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "np") as opened:
        assert opened.metadata() is None


def test_the_header_entry_of_a_tensor(tmp_path: Path) -> None:
    """get_tensor_meta gives type, shape and offsets as they stand in the header of the tensor's own file."""
    for number in range(2):
        tensors = {f"{number}.a": (Dtype.U8, (3,), b"abc"), f"{number}.b": (Dtype.I16, (2, 1), b"abcd")}
        write_safetensors(tmp_path / f"{number}.safetensors", tensors)
    with safe_open(tmp_path, "np") as opened:
        assert opened.get_tensor_meta("1.b") == ("I16", [2, 1], (3, 7))
        with pytest.raises(SafetensorError):
            opened.get_tensor_meta("absent")
    with safetensors.safe_open(tmp_path / "1.safetensors", "np") as reference, safe_open(tmp_path, "np") as opened:
        if hasattr(reference, "get_tensor_meta"):  # from 0.9 on
            expected, found = reference.get_tensor_meta("1.b"), opened.get_tensor_meta("1.b")
            assert found == (expected.dtype, expected.shape, expected.data_offsets)


def test_a_directory_is_one_checkpoint(tmp_path: Path) -> None:
    """The tensors of all shards are there, by name; metadata too."""
    write_safetensors(tmp_path / "1.safetensors", {"a": (Dtype.U8, (2,), b"\1\2")}, {"format": "pt", "part": "1"})
    write_safetensors(tmp_path / "2.safetensors", {"b": (Dtype.U8, (1,), b"\3")}, {"format": "pt", "part": "2"})
    with safe_open(tmp_path, "np") as opened:
        assert opened.keys() == ["a", "b"]
        assert opened.metadata() == {"format": "pt", "part": "1"}
        assert opened.get_tensor("b").tolist() == [3]
        assert {name: array.tolist() for name, array in opened.get_tensors().items()} == {"a": [1, 2], "b": [3]}


Call = Callable[[Path], object]

CALLS: dict[str, tuple[Call, type[Exception]]] = {
    "a file that is not there": (lambda path: safe_open(path.with_name("absent"), "pt"), FileNotFoundError),
    "no framework of that name": (lambda path: safe_open(path, "theano"), SafetensorError),
    "no device of that name": (lambda path: safe_open(path, "pt", "gpu"), SafetensorError),
    "no device at all": (lambda path: safe_open(path, "pt", object()), SafetensorError),  # type: ignore[arg-type]
    "a device for NumPy": (lambda path: safe_open(path, "np", "cuda:0"), SafetensorError),
    "no tensor of that name": (lambda path: safe_open(path, "pt").get_tensor("absent"), SafetensorError),
    "no slice of that name": (lambda path: safe_open(path, "pt").get_slice("absent"), SafetensorError),
    "a name that is no text": (lambda path: safe_open(path, "pt").get_tensor(3), TypeError),  # type: ignore[arg-type]
    "a path that is none": (lambda path: safe_open(3, "pt"), TypeError),  # type: ignore[arg-type]
    "a framework that is no text": (lambda path: safe_open(path, 3), TypeError),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", CALLS)
def test_errors_are_those_of_the_reference(what: str, path: Path) -> None:
    """What cannot be opened or found raises what callers of the reference catch."""
    call, expected = CALLS[what]
    with pytest.raises(expected):
        call(path)


@pytest.mark.parametrize("what", CALLS)
def test_the_reference_raises_the_same(what: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table above is the reference's own behaviour."""
    call, expected = CALLS[what]
    monkeypatch.setitem(globals(), "safe_open", safetensors.safe_open)
    with pytest.raises(expected):
        call(path)


@pytest.mark.parametrize(
    "content", [b"", b"short", b"\x10\0\0\0\0\0\0\0{", b"\xff" * 64, b"\2\0\0\0\0\0\0\0{}extra", b"\2\0\0\0\0\0\0\0[]"]
)
def test_what_is_no_checkpoint_is_a_safetensor_error(content: bytes, tmp_path: Path) -> None:
    """A bad header raises SafetensorError where the reference does; it says where, and is slipstream's error too."""
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(Exception) as reference:  # noqa: PT011  # an empty file cannot be mapped, which is another error
        safetensors.safe_open(path, "pt")
    with pytest.raises(SafetensorError) as found:
        safe_open(path, "pt")
    assert isinstance(reference.value, safetensors.SafetensorError | OSError | ValueError)
    assert isinstance(found.value, slipstream.FormatError)
    assert found.value.uri == str(path)
    assert str(path) in str(found.value)


def test_errors_can_be_pickled(path: Path) -> None:
    """They reach another process with their attributes."""
    with pytest.raises(SafetensorError) as raised, safe_open(path, "pt") as opened:
        opened.get_tensor("absent")
    again = pickle.loads(pickle.dumps(raised.value))
    assert type(again) is type(raised.value)
    assert str(again) == str(raised.value)


def test_a_closed_file_says_so(path: Path) -> None:
    """Every method raises SafetensorError once the block is left, as the reference's do; it may be left twice."""
    with safe_open(path, "pt") as opened:
        pass
    opened.__exit__(None, None, None)
    for call in (
        opened.keys,
        opened.offset_keys,
        opened.metadata,
        opened.get_tensors,
        lambda: opened.get_tensor("z.matrix"),
        lambda: opened.get_slice("z.matrix"),
    ):
        with pytest.raises(SafetensorError, match="closed"):
            call()
    assert "closed" in repr(opened)


def test_other_frameworks_are_refused_with_the_way_out(path: Path) -> None:
    """JAX and TensorFlow are the reference's: the error says how to get there."""
    with pytest.raises(SafetensorError, match='framework="np"'):
        safe_open(path, "flax")


def test_an_unknown_backend_is_refused(path: Path) -> None:
    """Only the two of the reference are there."""
    with pytest.raises(SafetensorError, match="pread"):
        safe_open(path, "pt", backend="floppy")


def test_what_writes_is_the_references_own(tmp_path: Path) -> None:
    """The modules hand on what does not read files, and nothing else."""
    import slipstream.safetensors.numpy
    import slipstream.safetensors.torch

    assert slipstream.safetensors.torch.save_file is safetensors.torch.save_file
    assert slipstream.safetensors.torch.load is safetensors.torch.load
    assert slipstream.safetensors.numpy.save is safetensors.numpy.save
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = slipstream.safetensors.torch.absent


def test_importing_slipstream_does_not_import_it() -> None:
    """Nor does importing slipstream.safetensors import PyTorch."""
    program = "import sys, slipstream; assert 'slipstream.safetensors' not in sys.modules\n"
    program += "import slipstream.safetensors; assert 'torch' not in sys.modules"
    import os
    import subprocess

    paths = os.pathsep.join(path for path in sys.path if path)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env={**os.environ, "PYTHONPATH": paths})


def test_numpy_arrays_are_writable_and_contiguous(path: Path, backend: str) -> None:
    """As those of the reference are, slices too."""
    with safe_open(path, "np", backend=backend) as opened:
        taken = [opened.get_tensor("z.matrix"), opened.get_slice("z.matrix")[:, 1:3], opened.get_slice("z.matrix")[2]]
    for array in taken:
        assert isinstance(array, numpy.ndarray)
        assert array.flags.writeable
        assert array.flags.c_contiguous
