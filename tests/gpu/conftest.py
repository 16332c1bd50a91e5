"""The tests that need a GPU. Where there is none they skip, and say why. `make test-gpu` runs them alone.

They need PyTorch with CUDA, safetensors and pytest, and none of the servers that other tests start: so they run on a
machine without a network, by `python -m pytest --confcutdir=tests/gpu tests/gpu`.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import slipstream

pytestmark = pytest.mark.gpu


def why_no_gpu() -> str:
    """Why these tests cannot run; "" where they can."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"PyTorch {torch.__version__} is built without CUDA"
    return "" if torch.cuda.is_available() else f"PyTorch {torch.__version__} finds no GPU"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of this folder, and skips them where there is no GPU."""
    reason = why_no_gpu()
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def device() -> Iterator[str]:
    """The first GPU; what the test left there is given back."""
    yield "cuda:0"
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()


@pytest.fixture
def used_bytes() -> int:
    """Device memory that tensors of this process take now."""
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


def host_bytes(tensor: object) -> bytes:
    """A tensor's bytes, brought back to the host."""
    assert isinstance(tensor, torch.Tensor)
    assert tensor.is_contiguous()
    return bytes(tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes()) if tensor.numel() else b""


def load(path: Path, device: str, **how: object) -> dict[str, torch.Tensor]:
    """All of a checkpoint, on a device."""
    found = slipstream.load(path, device=device, **how)  # type: ignore[arg-type]
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}
