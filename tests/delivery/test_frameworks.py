"""Which framework and device tensors are delivered for, and what is answered to those there are not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import slipstream
from slipstream import UsageError
from slipstream.types import Strategy
from tests.streaming.random_checkpoints import write_flat


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """One small file."""
    write_flat(tmp_path / "a.safetensors", {"x": 10_000})
    return tmp_path / "a.safetensors"


def test_frameworks(checkpoint: Path) -> None:
    """Torch is delivered where it is installed, NumPy where it is asked for."""
    assert isinstance(slipstream.load(checkpoint)["x"], torch.Tensor)
    assert isinstance(slipstream.load(checkpoint, framework="torch")["x"], torch.Tensor)
    assert isinstance(slipstream.load(checkpoint, framework="numpy")["x"], numpy.ndarray)


@pytest.mark.parametrize("framework", ["Jax", "Torch", "pt", "", "tensorflow"])
def test_unknown_frameworks(framework: Any, checkpoint: Path) -> None:
    """A framework that is not served is named in the error, with those that are."""
    with pytest.raises(UsageError) as caught:
        slipstream.stream(checkpoint, framework=framework)
    for word in (repr(framework), "torch", "numpy"):
        assert word in str(caught.value)


_WITHOUT_TORCH = """
import sys
from importlib.machinery import PathFinder

class WithoutTorch(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] == "torch" else super().find_spec(name, path, target)

sys.meta_path[:] = [WithoutTorch if finder is PathFinder else finder for finder in sys.meta_path]
import slipstream
print(type(slipstream.load(sys.argv[1])["x"]).__module__)
try:
    slipstream.load(sys.argv[1], framework="torch")
except slipstream.MissingDependencyError as error:
    assert isinstance(error, ImportError)
    print(error)
"""

_WITHOUT_IMPORTS = """
import sys
import slipstream
slipstream.inspect(sys.argv[1])
slipstream.plan(sys.argv[1])
loaded = {name.split(".")[0] for name in sys.modules}
assert "torch" not in loaded, "inspect and plan need no torch"
slipstream.load(sys.argv[1], framework="numpy")
loaded = {name.split(".")[0] for name in sys.modules}
assert "torch" not in loaded, "numpy arrays need no torch"
"""


def run_python(script: str, argument: Path) -> str:
    """Runs a script in an interpreter of its own; returns what it printed."""
    ended = subprocess.run(
        [sys.executable, "-c", script, str(argument)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_without_torch(checkpoint: Path) -> None:
    """Where torch is not installed arrays are delivered, and asking for it names the pip command."""
    kind, error = run_python(_WITHOUT_TORCH, checkpoint).splitlines()
    assert kind == "numpy"
    assert "pip install" in error
    assert "slipstream[torch]" in error


def test_torch_is_not_imported_for_others(checkpoint: Path) -> None:
    """inspect, plan and a load of arrays leave torch unimported, though it is installed."""
    run_python(_WITHOUT_IMPORTS, checkpoint)


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu")])
def test_devices_of_the_host(device: Any, checkpoint: Path) -> None:
    """The CPU may be named as PyTorch names it."""
    assert list(slipstream.load(checkpoint, device=device)) == ["x"]


@pytest.mark.parametrize("device", ["cuda:99", "hip:99", "mps", "xpu:99", torch.device("cuda", 99)])
def test_devices_that_are_not_there(device: Any, checkpoint: Path) -> None:
    """A device that is not there can be planned for; delivering to it is refused with what to do instead."""
    (choice,) = slipstream.plan(checkpoint, device=device).choices
    assert choice is not None
    assert "device" in choice.reason or choice.strategy is Strategy.DIRECT
    for ask in (slipstream.stream, slipstream.load):
        with pytest.raises(UsageError, match=r"there is no|delivers to") as caught:
            ask(checkpoint, device=device)
        assert "cpu" in str(caught.value) or "finds" in str(caught.value)
    with pytest.raises(UsageError, match=r"there is no|delivers to"):
        slipstream.load_into(torch.nn.ParameterDict({"x": torch.zeros(10_000)}), checkpoint, device=device)


@pytest.mark.parametrize("device", ["cuda:0", "xpu"])
def test_arrays_are_of_the_host(device: str, checkpoint: Path) -> None:
    """NumPy's arrays on a device are refused before anything is read, with what to ask for instead."""
    with pytest.raises(UsageError, match='framework="torch"'):
        slipstream.stream(checkpoint, device=device, framework="numpy")


@pytest.mark.parametrize("device", ["gpu", "", "CPU", "cuda:", "cuda:x", "meta", 0, None, "cpu\n", "cuda:-1"])
def test_what_is_no_device(device: Any, checkpoint: Path) -> None:
    """What is not the name of a device is wrong usage, also for a plan."""
    for ask in (slipstream.plan, slipstream.load):
        with pytest.raises(UsageError, match="device"):
            ask(checkpoint, device=device)


@pytest.mark.parametrize("progress", [3, "yes", None, []])
def test_what_is_no_progress(progress: Any, checkpoint: Path) -> None:
    """progress= takes a truth value or a function; anything else is wrong usage before anything is read."""
    with pytest.raises(UsageError, match="progress"):
        slipstream.stream(checkpoint, progress=progress)


def test_numpy_has_fewer_dimensions_than_the_format(tmp_path: Path) -> None:
    """A tensor of more dimensions than NumPy has is named in the error, with the way round it."""
    from slipstream.testing.checkpoints import write_safetensors

    write_safetensors(tmp_path / "a.safetensors", {"deep": ("U8", [1] * 70, b"1"), "flat": ("U8", [1], b"2")})
    with pytest.raises(UsageError) as caught:
        slipstream.load(tmp_path, framework="numpy")
    for word in ("deep", "NumPy", "names="):
        assert word in str(caught.value)
    assert list(slipstream.load(tmp_path, framework="numpy", names="flat")) == ["flat"]
    assert slipstream.load(tmp_path, framework="torch", names="deep")["deep"].ndim == 70
