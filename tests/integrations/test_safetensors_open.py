"""slipstream.safetensors.safe_open and load_file do what safetensors' own do, of local files."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from slipstream import Dtype, Options
from slipstream.safetensors import SafetensorError, load_file, safe_open
from slipstream.safetensors.numpy import load_file as load_numpy
from slipstream.testing.checkpoints import write_safetensors
from slipstream.testing.process_watch import run_in_child
from tests.endings.leaks import see_footprint, wait_nothing_left
from tests.integrations.checkpoints import FRAMEWORKS, evict, same, write_layers, write_varied
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


def test_a_tensor_outlives_the_file_that_it_was_read_from(path: Path, backend: str) -> None:
    """Tensors and slices go on to work when the block is left and the file is gone."""
    expected = safetensors.torch.load_file(path)
    with safe_open(path, "pt", backend=backend) as opened:
        tensor, part = opened.get_tensor("z.matrix"), opened.get_slice("b.cube")
    assert same(part[1:], expected["b.cube"][1:])
    path.unlink()
    assert same(tensor, expected["z.matrix"])


def test_written_tensors_leave_the_file_alone(path: Path, backend: str) -> None:
    """Tensors and arrays may be written to, and the file stays as it was."""
    before = path.read_bytes()
    with safe_open(path, "pt", backend=backend) as opened, safe_open(path, "np", backend=backend) as arrays:
        opened.get_tensor("z.matrix").fill_(1)  # type: ignore[union-attr]
        arrays.get_tensor("z.matrix")[:] = 1
        arrays.get_slice("z.matrix")[1:3][:] = 1
    assert path.read_bytes() == before


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


def test_cached_files_are_mapped_and_not_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page cache has costs no threads: neither tensor after tensor nor all at once."""
    path = tmp_path / "model.safetensors"
    names = write_layers(path, layers=20)
    path.read_bytes()

    def refuse(*arguments: object, **keywords: object) -> None:
        pytest.fail("it was streamed")

    monkeypatch.setattr(slipstream, "stream", refuse)
    monkeypatch.setattr(slipstream, "stream_ranges", refuse)
    expected = safetensors.torch.load_file(path)
    with safe_open(path, "pt") as opened:
        assert all(same(opened.get_tensor(name), expected[name]) for name in opened.keys())  # noqa: SIM118
        assert same(opened.get_slice(names[5])[2:4, ::3], expected[names[5]][2:4, ::3])
        assert list(opened.get_tensors()) == names


def test_cold_files_are_streamed_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page cache lacks is read by slipstream's threads once tensors are asked for in turn, in few streams."""
    path = tmp_path / "model.safetensors"
    names = write_layers(path, layers=40, columns=10_000)
    expected = {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}
    opened_streams: list[slipstream.TensorStream] = []
    stream = slipstream.stream

    def count(*arguments: Any, **keywords: Any) -> slipstream.TensorStream:
        opened_streams.append(stream(*arguments, **keywords))
        return opened_streams[-1]

    monkeypatch.setattr(slipstream, "stream", count)
    evict(path)
    with safe_open(path, "pt") as opened:
        assert all(same(opened.get_tensor(name), expected[name]) for name in opened.keys())  # noqa: SIM118
    assert 1 <= len(opened_streams) <= 2
    assert (
        sum(stream.plan.tensor_count for stream in opened_streams) == len(names) - 1
    )  # the first was a guess's ground


def test_many_threads_share_one_file(tmp_path: Path, backend: str) -> None:
    """Threads that ask for tensors and slices in a common order each get the right ones."""
    path = tmp_path / "model.safetensors"
    names = write_layers(path, layers=30)
    expected = {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}
    evict(path)
    barrier = threading.Barrier(4)
    with safe_open(path, "pt", backend=backend) as opened, ThreadPoolExecutor(4) as pool:

        def check(thread: int) -> bool:
            barrier.wait()
            return all(
                same(opened.get_slice(name)[...], expected[name]) and same(opened.get_tensor(name), expected[name])
                for name in names[thread::4]
            )

        assert all(pool.map(check, range(4)))


@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_a_forked_child_reads_on(tmp_path: Path, backend: str) -> None:
    """A child that is forked while tensors are read ahead reads them itself, and so does its parent."""
    path = tmp_path / "model.safetensors"
    names = write_layers(path, layers=30)
    expected = safetensors.numpy.load_file(path)
    evict(path)
    with safe_open(path, "np", backend=backend) as opened:
        assert all(same(opened.get_tensor(name), expected[name]) for name in names[:10])

        def read_on() -> None:
            assert all(same(opened.get_tensor(name), expected[name]) for name in names[10:50])

        assert run_in_child(read_on) == ""
        read_on()


@pytest.mark.parametrize("ending", ["leaving", "error", "forgotten"])
def test_nothing_is_left_behind(ending: str, tmp_path: Path, backend: str) -> None:
    """Threads, descriptors and mappings go when the block is left, early or in an error, or the object is dropped."""
    path = tmp_path / "model.safetensors"
    names = write_layers(path, layers=40, columns=10_000)
    evict(path)
    before = see_footprint(tmp_path)

    def read_some(opened: safe_open, *others: str) -> None:
        for name in (*names[:30], *others):
            opened.get_tensor(name)

    if ending == "forgotten":
        read_some(safe_open(path, "np", backend=backend))
    elif ending == "leaving":
        with safe_open(path, "np", backend=backend) as opened:
            read_some(opened)
        del opened
    else:
        with pytest.raises(SafetensorError), safe_open(path, "np", backend=backend) as opened:
            read_some(opened, "absent")
        del opened
    wait_nothing_left(before, tmp_path)


def test_a_replaced_file_is_still_the_one_that_was_opened(tmp_path: Path) -> None:
    """A mapped file that another one has taken the place of is read to its end, also where it is cold."""
    path = tmp_path / "model.safetensors"
    names = write_layers(path, layers=20)
    expected = {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}
    with safe_open(path, "pt") as opened:
        write_layers(tmp_path / "new", layers=5)
        evict(path)
        (tmp_path / "new").rename(path)
        assert all(same(opened.get_tensor(name), expected[name]) for name in names)
        assert all(same(tensor, expected[name]) for name, tensor in opened.get_tensors().items())


def test_a_changed_file_is_an_error_where_it_is_not_mapped(tmp_path: Path) -> None:
    """Never a mixture: what is read of another file than the one that was opened raises BlobChangedError."""
    path = tmp_path / "model.safetensors"
    names = write_layers(path, layers=4)
    with safe_open(path, "np", backend="pread") as opened:
        write_layers(tmp_path / "new", layers=3)
        (tmp_path / "new").rename(path)
        for call in (
            lambda: opened.get_tensor(names[0]),
            lambda: opened.get_slice(names[-1])[1:2],
            lambda: opened.get_slice(names[0])[1:2],
            opened.get_tensors,
        ):
            with pytest.raises(slipstream.BlobChangedError, match="open it again"):
                call()


def test_options_are_obeyed(path: Path) -> None:
    """A strategy that is forced is how tensors are read; a limit too small for a tensor refuses that one alone."""
    with safe_open(path, "np", options=Options(strategy="direct")) as opened:
        assert opened.get_tensor("z.matrix").shape == (6, 5)
    with safe_open(path, "np", backend="pread", options=Options(memory_limit=64)) as opened:
        assert opened.get_tensor("c.after_odd").shape == (7,)
        with pytest.raises(slipstream.MemoryLimitError):
            opened.get_tensor("z.matrix")


def test_numpy_arrays_are_writable_and_contiguous(path: Path, backend: str) -> None:
    """As those of the reference are, slices too."""
    with safe_open(path, "np", backend=backend) as opened:
        taken = [opened.get_tensor("z.matrix"), opened.get_slice("z.matrix")[:, 1:3], opened.get_slice("z.matrix")[2]]
    for array in taken:
        assert isinstance(array, numpy.ndarray)
        assert array.flags.writeable
        assert array.flags.c_contiguous
