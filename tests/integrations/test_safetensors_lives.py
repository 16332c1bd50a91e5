"""A local file over its life: mapped or streamed, shared by threads and forks, replaced, and let go of."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
import safetensors.torch

import slipstream
from slipstream import Options
from slipstream.safetensors import SafetensorError, safe_open
from slipstream.testing.faulty_fs import FaultyFs
from slipstream.testing.process_watch import run_in_child
from tests.endings.leaks import open_lines, see_footprint, wait_nothing_left
from tests.integrations.checkpoints import evict, same, write_layers, write_varied


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "model.safetensors"
    write_varied(made)
    return made


@pytest.fixture(params=["mmap", "pread"])
def backend(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


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


def test_files_on_fuse_are_read_and_not_mapped(faulty_fs: tuple[FaultyFs, Path]) -> None:
    """Where each page fault would be a round trip, tensors and slices are read into memory of their own."""
    mount, behind = faulty_fs
    names = write_layers(behind / "model.safetensors", layers=10)
    expected = safetensors.torch.load_file(behind / "model.safetensors")
    with safe_open(mount.mount_point / "model.safetensors", "pt") as opened:
        found = {name: opened.get_tensor(name) for name in names}
        part = opened.get_slice(names[3])[2:4]
        assert not [line for line in open_lines("/proc/self/maps") if str(mount.mount_point) in line]
    assert all(same(found[name], expected[name]) for name in names)
    assert same(part, expected[names[3]][2:4])
