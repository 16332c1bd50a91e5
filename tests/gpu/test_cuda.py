"""Loads to a GPU: every byte, in the order of the caller's stream, in memory that goes back with its last view."""

from __future__ import annotations

import gc
import json
import math
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import slipstream
from slipstream import Dtype, Options
from slipstream.delivery.accelerator import open_accelerator
from slipstream.testing.checkpoints import tensor_nbytes, write_safetensors
from tests.gpu.conftest import host_bytes, load

SHAPES = [(4, 3), (), (0,), (3, 0, 2), (1,), (4, 2), (1500, 8), (5, 4), (1000, 1031)]
BY_SAFETENSORS = [dtype for dtype in Dtype if not dtype.startswith("F6_")]
HANG_S = 100.0


def make_content(dtype: Dtype, shape: tuple[int, ...], seed: int) -> bytes:
    content = random.Random(seed).randbytes(tensor_nbytes(dtype, shape))
    return bytes(byte & 1 for byte in content) if dtype is Dtype.BOOL else content


def write_shapes(path: Path, dtype: Dtype, *, odd: bool) -> dict[str, bytes]:
    """Scalars, empty, small and large tensors of one type; misaligned, where `odd`."""
    shapes = [shape for shape in SHAPES if math.prod(shape) * dtype.bits % 8 == 0]
    tensors: dict[str, tuple[Dtype, tuple[int, ...], bytes]] = {"odd": (Dtype.U8, (1,), b"o")} if odd else {}
    tensors |= {f"{shape}": (dtype, shape, make_content(dtype, shape, seed)) for seed, shape in enumerate(shapes)}
    write_safetensors(path, tensors)
    return {name: content for name, (_, _, content) in tensors.items()}


def write_flat(path: Path, sizes: dict[str, int]) -> dict[str, bytes]:
    contents = {name: random.Random(size).randbytes(size) for name, size in sizes.items()}
    write_safetensors(path, {name: (Dtype.U8, (len(data),), data) for name, data in contents.items()})
    return contents


@pytest.mark.parametrize("odd", [False, True], ids=["aligned", "misaligned"])
@pytest.mark.parametrize("strategy", ["auto", "direct", "buffered"])
@pytest.mark.parametrize("dtype", Dtype)
def test_every_dtype(dtype: Dtype, strategy: Any, odd: bool, device: str, tmp_path: Path) -> None:
    """Each type comes with every byte as scalar, empty, small, large and misaligned tensor, at 256 bytes."""
    contents = write_shapes(tmp_path / "a.safetensors", dtype, odd=odd)
    found = load(tmp_path, device, options=Options(strategy=strategy, chunk_bytes=1 << 18))
    assert {name: host_bytes(tensor) for name, tensor in found.items()} == contents
    for tensor in found.values():
        assert str(tensor.device) == device
        assert not tensor.numel() or tensor.data_ptr() % 256 == 0


@pytest.mark.parametrize("dtype", BY_SAFETENSORS)
def test_equal_to_safetensors(dtype: Dtype, device: str, tmp_path: Path) -> None:
    """Type, shape and bytes are those that safetensors itself delivers to the GPU."""
    safetensors = pytest.importorskip("safetensors")
    write_shapes(tmp_path / "a.safetensors", dtype, odd=False)
    ours = load(tmp_path, device)
    with safetensors.safe_open(tmp_path / "a.safetensors", framework="pt", device=device) as opened:
        for name, tensor in ours.items():
            try:
                theirs = opened.get_tensor(name)
            except Exception as error:
                pytest.skip(f"safetensors cannot deliver {dtype} to {device}: {error}")
            assert (tensor.dtype, tensor.shape) == (theirs.dtype, theirs.shape)
            assert host_bytes(tensor) == host_bytes(theirs.contiguous())


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("wanted", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", [Dtype.F64, Dtype.F32, Dtype.F16, Dtype.BF16])
def test_casts(dtype: Dtype, wanted: torch.dtype, odd: bool, device: str, tmp_path: Path) -> None:
    """A cast on the way has the values of a cast on that device afterwards."""
    write_shapes(tmp_path / "a.safetensors", dtype, odd=odd)
    plain = load(tmp_path, device)
    for name, tensor in load(tmp_path, device, dtype=wanted, options=Options(chunk_bytes=1 << 16)).items():
        expected = plain[name] if plain[name].dtype is torch.uint8 else plain[name].to(wanted)
        assert tensor.dtype is expected.dtype
        left, right = (torch.nan_to_num(each.double(), nan=0.5) for each in (tensor, expected))
        assert torch.equal(left, right)


def test_many_small_tensors(device: str, tmp_path: Path) -> None:
    """Twenty thousand tiny tensors at odd offsets take a few copies, and each is right and aligned."""
    sizes = {f"t{number:05}": 1 + number % 600 for number in range(20_000)}
    contents = write_flat(tmp_path / "a.safetensors", sizes)
    with slipstream.stream(tmp_path, device=device) as tensors:
        found = dict(tensors)
        stats = tensors.stats()
    assert stats.copies < 10
    joined = torch.cat([tensor for _, tensor in sorted(found.items())])  # type: ignore[misc]
    assert host_bytes(joined) == b"".join(data for _, data in sorted(contents.items()))
    assert all(tensor.data_ptr() % 256 == 0 for tensor in found.values())  # type: ignore[union-attr]


def test_work_on_a_tensor_comes_after_its_copy(device: str, tmp_path: Path) -> None:
    """A kernel that the caller starts at once, in a stream of its own, sees every byte: no call waited for the copy."""
    sizes = {f"t{number}": 4_000_000 for number in range(100)}
    contents = write_flat(tmp_path / "a.safetensors", sizes)
    sums: dict[str, torch.Tensor] = {}
    stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream), slipstream.stream(tmp_path, device=device) as tensors:
        for name, tensor in tensors:
            assert isinstance(tensor, torch.Tensor)
            sums[name] = tensor.to(torch.int64).sum()
            del tensor  # whose memory the next copy may have, once the kernel is through with it
    stream.synchronize()
    assert {name: int(total) for name, total in sums.items()} == {name: sum(data) for name, data in contents.items()}


def test_memory_is_reused_only_after_the_callers_kernels(device: str, tmp_path: Path) -> None:
    """A caller whose stream is far behind drops tensors: no later copy overwrites what its kernels still read."""
    sizes = {f"t{number}": 8_000_000 for number in range(60)}
    contents = write_flat(tmp_path / "a.safetensors", sizes)
    sums: dict[str, torch.Tensor] = {}
    busy = torch.randn(4096, 4096, device=device)
    with slipstream.stream(tmp_path, device=device) as tensors:
        for name, tensor in tensors:
            assert isinstance(tensor, torch.Tensor)
            for _ in range(5):
                busy = torch.tanh(busy @ busy)
            sums[name] = tensor.to(torch.int64).sum()
            del tensor
    torch.cuda.synchronize()
    assert {name: int(total) for name, total in sums.items()} == {name: sum(data) for name, data in contents.items()}


def test_memory_goes_back(device: str, used_bytes: int, tmp_path: Path) -> None:
    """A tensor's memory is free when its last view is gone, and a load leaves nothing on the device."""
    write_flat(tmp_path / "a.safetensors", {"a": 40_000_000, "b": 40_000_000})
    found = load(tmp_path, device)
    view = found["a"][100:200]
    del found
    gc.collect()
    torch.cuda.synchronize()
    assert 40_000_000 <= torch.cuda.memory_allocated() - used_bytes < 80_000_000
    del view
    gc.collect()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == used_bytes


def test_device_memory_limit(device: str, tmp_path: Path) -> None:
    """A checkpoint passes through a tenth of its size on the device, and one who holds it all gets an error."""
    contents = write_flat(tmp_path / "a.safetensors", {f"t{number}": 3_000_001 for number in range(100)})
    how = Options(device_memory_limit=30_000_000, memory_wait_s=0.5)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found: dict[str, bytes] = {}
    with slipstream.stream(tmp_path, device=device, options=how) as tensors:
        for name, tensor in tensors:
            found[name] = host_bytes(tensor)
            del tensor
    assert found == contents
    assert torch.cuda.max_memory_allocated() - before < 60_000_000  # memory is given out in pieces of 2 MiB and more
    with pytest.raises(slipstream.MemoryLimitError, match="device_memory_limit"):
        dict(slipstream.stream(tmp_path, device=device, options=how))


def test_host_memory_is_the_ring_alone(device: str, tmp_path: Path) -> None:
    """memory_limit bounds the ring; what is loaded is many times as large."""
    contents = write_flat(tmp_path / "a.safetensors", {f"t{number}": 5_000_001 for number in range(40)})
    with slipstream.stream(tmp_path, device=device, options=Options(memory_limit=8 << 20)) as tensors:
        found = {name: host_bytes(tensor) for name, tensor in tensors}
        assert tensors.stats().ring_bytes <= 8 << 20
    assert found == contents


def test_pages_are_locked_once(device: str, tmp_path: Path) -> None:
    """The ring is page-locked without a refusal, and a second load of the process uses the same slots again."""
    write_flat(tmp_path / "a.safetensors", {f"t{number}": 10_000_000 for number in range(20)})
    memory = open_accelerator(torch.device(device)).memory
    kept = []
    for _ in range(2):
        with slipstream.stream(tmp_path, device=device) as tensors:
            for _, tensor in tensors:
                del tensor
            stats = tensors.stats()
        assert stats.fallbacks == ()
        assert memory.refusal == ""
        kept.append(memory.kept_bytes)
    assert kept[0] == kept[1] > 0
    assert stats.ring_bytes <= kept[0]


def test_into_a_module(device: str, tmp_path: Path) -> None:
    """A module on the GPU is filled in place, cast to its types; one on the meta device becomes one on the GPU."""
    torch.manual_seed(1)
    source = torch.nn.Sequential(*[torch.nn.Linear(300, 300) for _ in range(5)])
    state = {name: value.detach() for name, value in source.state_dict().items()}
    write_safetensors(
        tmp_path / "a.safetensors",
        {name: (Dtype.F32, tuple(value.shape), value.numpy().tobytes()) for name, value in state.items()},
    )
    for start in ("cuda:0", "meta", "cpu"):
        module = torch.nn.Sequential(*[torch.nn.Linear(300, 300) for _ in range(5)]).to(start)
        if start == "cuda:0":
            module.to(torch.bfloat16)
        slipstream.load_into(module, tmp_path, device=device)
        for name, value in module.state_dict().items():
            assert value.device.type == ("cpu" if start == "cpu" else "cuda")
            assert torch.equal(value.cpu(), state[name].to(value.dtype))


def test_several_loads_at_once(device: str, tmp_path: Path) -> None:
    """Threads that load at once share the device's stream and memory, and each gets every byte."""
    contents = write_flat(tmp_path / "a.safetensors", {f"t{number}": 3_000_001 for number in range(30)})
    found: list[dict[str, bytes]] = []

    def work() -> None:
        found.append({name: host_bytes(tensor) for name, tensor in load(tmp_path, device).items()})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert found == [contents] * 4


def test_left_early(device: str, used_bytes: int, tmp_path: Path) -> None:
    """A load that is left after one tensor leaves that tensor, whole, and nothing else on the device."""
    contents = write_flat(tmp_path / "a.safetensors", {f"t{number}": 20_000_000 for number in range(20)})
    with slipstream.stream(tmp_path, device=device) as tensors:
        name, tensor = next(tensors)
    load(tmp_path, device)
    assert host_bytes(tensor) == contents[name]
    gc.collect()
    torch.cuda.synchronize()
    assert 20_000_000 <= torch.cuda.memory_allocated() - used_bytes < 40_000_000


def test_a_full_device(device: str, tmp_path: Path) -> None:
    """A device without room is an error that says how much was wanted and what is free, and ends the load."""
    write_flat(tmp_path / "a.safetensors", {f"t{number}": 50_000_000 for number in range(20)})
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    torch.cuda.set_per_process_memory_fraction(max((total - free + 200_000_000) / total, 0.01))
    try:
        with pytest.raises(slipstream.DeviceError, match="bytes left"):
            load(tmp_path, device)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_device_number_too_high(tmp_path: Path) -> None:
    """A GPU that is not there is wrong usage, and the error says how many there are."""
    write_flat(tmp_path / "a.safetensors", {"a": 10})
    with pytest.raises(slipstream.UsageError, match=f"finds {torch.cuda.device_count()} of these"):
        slipstream.load(tmp_path, device=f"cuda:{torch.cuda.device_count()}")


def test_the_command_line(tmp_path: Path) -> None:
    """`slipstream load --device cuda:0 --json` prints the figures, with the warm-up counted apart."""
    write_flat(tmp_path / "a.safetensors", {f"t{number}": 1_000_000 for number in range(20)})
    command = [sys.executable, "-m", "slipstream", "load", str(tmp_path), "--device", "cuda:0", "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, env=environment, check=True)
    stats = json.loads(done.stdout)
    assert (stats["bytes"], stats["tensors"]) == (20_000_000, 20)
    assert stats["warm_up_seconds"] > 0
    assert stats["ring_bytes"] > 0
    assert stats["fallbacks"] == []


def test_gds(device: str, tmp_path: Path) -> None:
    """By GPUDirect Storage every byte is right, or it says why it went through the ring, and every byte is right."""
    pytest.importorskip("kvikio")
    contents = write_flat(tmp_path / "a.safetensors", {"a": 30_000_001, "b": 10, "c": 50_000_000})
    with slipstream.stream(tmp_path, device=device, options=Options(strategy="gds")) as tensors:
        found = {name: host_bytes(tensor) for name, tensor in tensors}
        stats = tensors.stats()
    assert found == contents
    assert stats.copies <= 2 or any("GPUDirect" in line for line in stats.fallbacks)


@pytest.mark.timeout(400)
def test_memcheck_finds_nothing(tmp_path: Path) -> None:
    """compute-sanitizer's memcheck sees no bad access in a load with casts and small tensors."""
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if sanitizer is None:
        pytest.skip("there is no compute-sanitizer")
    write_safetensors(
        tmp_path / "a.safetensors",
        {
            "odd": ("U8", (3,), b"odd"),
            **{f"t{number}": ("F32", (number, 7), bytes(28 * number)) for number in range(200)},
            "large": ("F32", (1_000_001,), bytes(4_000_004)),
        },
    )
    program = (
        "import sys, torch, slipstream\n"
        "for dtype in (None, torch.bfloat16, torch.float64):\n"
        "    found = slipstream.load(sys.argv[1], device='cuda:0', dtype=dtype)\n"
        "    total = sum(float(tensor.float().sum()) for tensor in found.values())\n"
        "torch.cuda.synchronize()\n"
        "print('loaded')\n"
    )
    command = [sanitizer, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, "-c", program, str(tmp_path)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",  # so that an allocation ends where a tensor does
    }
    done = subprocess.run(command, capture_output=True, text=True, timeout=350, env=environment, check=False)
    if "Device not supported" in done.stdout:
        pytest.skip("compute-sanitizer does not support this device")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "ERROR SUMMARY: 0 errors" in done.stdout
    assert "loaded" in done.stdout
