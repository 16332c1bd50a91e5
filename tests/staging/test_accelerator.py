"""What is done for a GPU, on the CPU: how tensors share copies and memory, and when they give it back."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import slipstream
from slipstream import DeviceError, Dtype, MemoryLimitError, MissingDependencyError, Options, UsageError
from slipstream.delivery import opening
from slipstream.delivery.accelerator import Accelerator, Copied, open_accelerator
from slipstream.planning import staging as staging_plans
from slipstream.reading.gds import GdsReader
from slipstream.reading.schedule import Schedule
from slipstream.testing.checkpoints import write_safetensors
from slipstream.testing.process_watch import wait_for
from slipstream.types import Blob, Strategy
from tests.streaming.random_checkpoints import make_bytes, tensor_bytes, write_flat

CPU = torch.device("cpu")
HANG_S = 60.0

pytestmark = pytest.mark.usefixtures("accelerated")


def test_small_tensors_share_one_copy(tmp_path: Path) -> None:
    """Thousands of tiny tensors at odd offsets take a few copies, and each stands at a multiple of 256 bytes."""
    contents = {f"t{number}": make_bytes(1 + number % 700, seed=number) for number in range(3000)}
    write_safetensors(tmp_path / "a.safetensors", {name: ("U8", (len(data),), data) for name, data in contents.items()})
    with slipstream.stream(tmp_path) as tensors:
        found = cast(dict[str, torch.Tensor], dict(tensors))
        stats = tensors.stats()
    assert stats.copies <= 3
    assert {name: tensor_bytes(tensor) for name, tensor in found.items()} == contents
    bases = {tensor.untyped_storage().data_ptr() for tensor in found.values()}
    assert len(bases) == stats.copies
    assert all((tensor.data_ptr() - tensor.untyped_storage().data_ptr()) % 256 == 0 for tensor in found.values())


def test_large_tensors_have_storages_of_their_own(tmp_path: Path) -> None:
    """A tensor of a chunk or more has a storage of exactly its own bytes, which torch.save writes and no neighbours."""
    written = write_flat(tmp_path / "a.safetensors", {f"t{number}": 100_001 for number in range(5)})
    found = cast(dict[str, torch.Tensor], slipstream.load(tmp_path, options=Options(chunk_bytes=65_536)))
    for name, tensor in found.items():
        assert tensor.untyped_storage().nbytes() == 100_001
        assert tensor_bytes(tensor) == written[name]


def test_memory_goes_back_with_the_last_view(tmp_path: Path) -> None:
    """The device's limit counts a tensor until no view of it is left, and lets the next be read from then on."""
    write_safetensors(tmp_path / "a.safetensors", {n: (Dtype.I32, (5000,), make_bytes(20_000, seed=1)) for n in "abc"})
    how = Options(device_memory_limit=20_000, memory_wait_s=0.05, chunk_bytes=8192)
    with slipstream.stream(tmp_path, options=how) as tensors:
        for _ in range(3):
            name, tensor = cast(tuple[str, torch.Tensor], next(tensors))
            view = tensor.view(torch.int16)[1:].view(torch.uint8)
            del tensor
            del view
        assert name == "c"
    with slipstream.stream(tmp_path, options=how) as tensors:
        _, tensor = cast(tuple[str, torch.Tensor], next(tensors))
        view = tensor[10:]
        del tensor
        gc.collect()
        with pytest.raises(MemoryLimitError, match="device_memory_limit"):
            next(tensors)
    assert view.numel() == 4990


def test_small_tensors_go_back_one_by_one_under_a_limit(tmp_path: Path) -> None:
    """Under a limit whoever keeps one small tensor does not keep its neighbours: each has memory of its own."""
    written = write_flat(tmp_path / "a.safetensors", {f"t{number}": 1000 for number in range(100)})
    kept: dict[str, torch.Tensor] = {}
    how = Options(device_memory_limit=40_000, memory_wait_s=0.2)
    with slipstream.stream(tmp_path, options=how) as tensors:
        for number, (name, tensor) in enumerate(tensors):
            if number % 4 == 0:
                kept[name] = cast(torch.Tensor, tensor)
            del tensor
        assert tensors.stats().peak_buffer_bytes <= 40_000
    assert {name: tensor_bytes(tensor) for name, tensor in kept.items()} == {name: written[name] for name in kept}
    assert all(tensor.untyped_storage().nbytes() == 1000 for tensor in kept.values())


def test_reading_does_not_run_away_from_a_slow_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow caller has no more on the device than what it holds and what may be ahead of it; load() has all."""
    most = 300_000
    monkeypatch.setattr(staging_plans, "_MOST_AHEAD_BYTES", most)
    write_flat(tmp_path / "a.safetensors", {f"t{number}": 100_000 for number in range(30)})
    how = Options(chunk_bytes=65_536)
    with slipstream.stream(tmp_path, options=how) as tensors:
        schedule = cast(Schedule, tensors._engine.schedule)
        for _, tensor in tensors:
            del tensor
            wait_for(lambda: schedule.finished or schedule._undelivered < 3 or len(schedule._whole) >= 2, "no progress")
            assert schedule.ledger.leased_bytes <= most + 100_000
        assert tensors.stats().peak_buffer_bytes <= most + 100_000
    assert len(slipstream.load(tmp_path, options=how)) == 30


def test_a_tensor_larger_than_what_may_be_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One tensor that is larger than the bound is read all the same, alone."""
    monkeypatch.setattr(staging_plans, "_MOST_AHEAD_BYTES", 1000)
    written = write_flat(tmp_path / "a.safetensors", {"a": 50_000, "b": 50_000, "c": 10})
    found = {}
    with slipstream.stream(tmp_path, options=Options(chunk_bytes=8192)) as tensors:
        for name, tensor in tensors:
            found[name] = tensor_bytes(tensor)
    assert found == written


def test_slots_are_there_for_the_next_load(tmp_path: Path) -> None:
    """A second load makes no slots; they are locked once in a process."""
    write_flat(tmp_path / "a.safetensors", {f"t{number}": 100_000 for number in range(20)})
    how = Options(chunk_bytes=65_536)
    slipstream.load(tmp_path, options=how)
    memory = open_accelerator(CPU).memory
    kept = memory.kept_bytes
    assert kept > 0
    with slipstream.stream(tmp_path, options=how) as tensors:
        dict(tensors)
        assert 0 < tensors.stats().ring_bytes <= kept
    assert memory.kept_bytes == kept


def test_two_loads_at_once(tmp_path: Path) -> None:
    """Loads of one process to one device share its stream and its memory, and are both right."""
    written = write_flat(tmp_path / "a.safetensors", {f"t{number}": 100_001 for number in range(20)})
    how = Options(chunk_bytes=65_536, ring_bytes=1 << 20)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(slipstream.load(tmp_path, options=how))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert [{name: tensor_bytes(tensor) for name, tensor in each.items()} for each in found] == [written] * 3


def test_warm_up_is_counted_apart(tmp_path: Path) -> None:
    """The figures say how long the device took to be ready, and how long slots took to be made."""
    write_flat(tmp_path / "a.safetensors", {"a": 100_000})
    with slipstream.stream(tmp_path) as tensors:
        dict(tensors)
        stats = tensors.stats()
    assert 0 < stats.warm_up_seconds < stats.seconds + HANG_S
    assert stats.ring_seconds >= 0


class _Broken:
    """An event of a device that has failed."""

    def query(self) -> bool:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nand a long explanation")

    synchronize = query


def test_a_device_that_fails_is_named() -> None:
    """What PyTorch raises for a device comes out as a DeviceError that names it, in one line."""
    copied = Copied(_Broken(), torch.device("cuda:3"))
    for ask in (copied.done, copied.wait):
        with pytest.raises(DeviceError, match=r"cuda:3 failed .*illegal memory access was encountered$"):
            ask()


def test_a_device_without_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is full is an error that says how much was wanted and what to do, and ends the load."""
    write_flat(tmp_path / "a.safetensors", {"a": 100_000, "b": 300_000})
    original = torch.empty

    def refuse(*size: Any, **how: Any) -> torch.Tensor:
        if size == (300_000,):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(*size, **how)

    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(DeviceError, match=r"no 300,000 bytes left.*device_memory_limit"):
        slipstream.load(tmp_path, options=Options(chunk_bytes=65_536))


def test_errors_of_a_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that cannot be opened is an error of the call, before anything is read."""
    write_flat(tmp_path / "a.safetensors", {"a": 100_000})

    def fail(name: str) -> torch.device:
        raise RuntimeError("CUDA driver initialization failed")

    monkeypatch.setattr(opening, "require_device", fail)
    with pytest.raises(DeviceError, match="driver initialization failed"):
        slipstream.stream(tmp_path)


def test_gds_wants_its_package_and_a_cuda_device(tmp_path: Path) -> None:
    """strategy="gds" is refused before anything is read where it cannot be, with the pip command that helps."""
    write_flat(tmp_path / "a.safetensors", {"a": 100})
    with pytest.raises(UsageError, match="CUDA"):
        slipstream.load(tmp_path, device="xpu:0", options=Options(strategy="gds"))
    with pytest.raises(MissingDependencyError, match="pip install"):
        slipstream.load(tmp_path, device="cuda:0", options=Options(strategy="gds"))


def test_gds_falls_back_to_the_ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where GPUDirect Storage does not work, the load goes through the ring, and says so."""
    monkeypatch.setattr(opening, "_require_gds", lambda device: None)
    written = write_flat(tmp_path / "a.safetensors", {"a": 3_000_000, "b": 10})
    with slipstream.stream(tmp_path, options=Options(strategy="gds")) as tensors:
        found = {name: tensor_bytes(tensor) for name, tensor in tensors}
        stats = tensors.stats()
    assert found == written
    assert [file.strategy for file in stats.files] == [Strategy.GDS]
    assert ["GPUDirect Storage was refused" in line for line in stats.fallbacks] == [True]


class _ReadsByHost:
    """A file that reads where cuFile would: into the buffer, at its offset, and not all at once."""

    def __init__(self, path: Path) -> None:
        self._content = path.read_bytes()
        self.closed = False

    def raw_read(self, buffer: torch.Tensor, size: int, file_offset: int, dev_offset: int) -> int:
        data = self._content[file_offset : file_offset + min(size, 1_000_000)]
        buffer[dev_offset : dev_offset + len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return len(data)

    def close(self) -> None:
        self.closed = True


def test_what_is_placed_past_the_ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large tensors go past the ring in as many reads as it takes; small and cast ones go through it."""
    path = tmp_path / "a.safetensors"
    large = make_bytes(6_000_000, seed=1)
    write_safetensors(
        path, {"large": ("U8", (6_000_000,), large), "small": ("U8", (10,), b"0123456789"), "f": ("F32", (1,), b"1234")}
    )
    files: list[_ReadsByHost] = []

    def open_reader(blob: Blob, note: Any, *, exact: bool) -> GdsReader:
        reader = GdsReader(blob, note, exact=exact)
        files.append(_ReadsByHost(path))
        reader._file = files[-1]
        return reader

    monkeypatch.setattr(opening, "_require_gds", lambda device: None)
    monkeypatch.setattr("slipstream.reading.gds.open_for_gds", lambda descriptor: None)
    monkeypatch.setattr("slipstream.reading.readers.open_gds_reader", open_reader)
    with slipstream.stream(tmp_path, options=Options(strategy="gds", chunk_bytes=4 << 20)) as tensors:
        found = {name: tensor_bytes(tensor) for name, tensor in tensors}
        stats = tensors.stats()
    assert (found["large"], found["small"]) == (large, b"0123456789")
    assert stats.copies == 1
    assert [file.closed for file in files] == [True]
    assert stats.fallbacks == ()


def test_an_accelerator_says_which() -> None:
    """Its repr names the device."""
    assert repr(Accelerator(CPU)) == "<Accelerator cpu>"
