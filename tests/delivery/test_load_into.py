"""Loading into a PyTorch module: names and shapes first, then values, into the module's own memory."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import slipstream
from slipstream import Dtype, ModuleMismatchError, Options
from slipstream.testing.checkpoints import write_safetensors
from slipstream.types import FILE_STRATEGIES, Strategy
from tests.streaming.random_checkpoints import make_bytes, write_flat


def make_module(seed: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Parameters, buffers and an integer scalar."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3, bias=False))
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) * 100)
    return module.to(dtype).to(device)


def save(module: nn.Module, path: Path, drop: tuple[str, ...] = (), **extra: torch.Tensor) -> Path:
    """Writes a module's state by safetensors itself."""
    tensors = {name: tensor.clone() for name, tensor in module.state_dict().items() if name not in drop}
    save_file({**tensors, **extra}, path)
    return path


def copy_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all values, to compare with."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same_state(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Whether two states agree in names, types and values."""
    return list(left) == list(right) and all(
        left[name].dtype is right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


@pytest.mark.parametrize("strict", [True, False])
def test_all_values_are_loaded(strict: bool, tmp_path: Path) -> None:
    """Parameters, buffers and scalars get the checkpoint's values, in the same objects and the same memory."""
    source, module = make_module(1), make_module(2)
    before = {name: (tensor, tensor.data_ptr()) for name, tensor in module.state_dict(keep_vars=True).items()}
    stats = slipstream.load_into(module, save(source, tmp_path / "a.safetensors"), strict=strict)
    assert same_state(copy_state(module), copy_state(source))
    after = module.state_dict(keep_vars=True)
    assert all(after[name] is tensor and tensor.data_ptr() == address for name, (tensor, address) in before.items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())
    assert stats.tensors == len(before)


def test_values_are_cast_to_the_types_of_the_module(tmp_path: Path) -> None:
    """As with load_state_dict, the module keeps its own types."""
    source = make_module(1, dtype=torch.float64)
    path = save(source, tmp_path / "a.safetensors")
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        module, expected = make_module(2, dtype=dtype), make_module(3, dtype=dtype)
        slipstream.load_into(module, path)
        expected.load_state_dict(source.state_dict())
        assert same_state(copy_state(module), copy_state(expected))


@pytest.mark.parametrize("strict", [True, False])
def test_shapes_that_differ(strict: bool, tmp_path: Path) -> None:
    """A shape that differs is an error with both shapes, strict or not, and the module is as before."""
    source, module = make_module(1), make_module(2)
    path = save(source, tmp_path / "a.safetensors", drop=("2.weight",), **{"2.weight": torch.zeros(5, 3)})
    before = copy_state(module)
    with pytest.raises(ModuleMismatchError) as caught:
        slipstream.load_into(module, path, strict=strict)
    for word in ("2.weight", "[5, 3]", "[3, 5]"):
        assert word in str(caught.value)
    assert same_state(copy_state(module), before)


@pytest.mark.parametrize(
    ("drop", "extra", "words"),
    [
        (("2.weight",), {}, ["2.weight"]),
        ((), {"head.weight": torch.zeros(2)}, ["head.weight"]),
        (("0.bias",), {"head.weight": torch.zeros(2)}, ["0.bias", "head.weight"]),
        (("1.running_mean",), {}, ["1.running_mean"]),
        ((), {f"extra.{number}": torch.zeros(1) for number in range(40)}, ["more"]),
    ],
)
def test_names_that_differ(
    drop: tuple[str, ...], extra: dict[str, torch.Tensor], words: list[str], tmp_path: Path
) -> None:
    """Strict, names of one side only are an error that lists them and changes nothing; else they are passed over."""
    source, module = make_module(1), make_module(2)
    path = save(source, tmp_path / "a.safetensors", drop=drop, **extra)
    before = copy_state(module)
    with pytest.raises(ModuleMismatchError) as caught:
        slipstream.load_into(module, path)
    for word in [*words, "strict=False"]:
        assert word in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert same_state(copy_state(module), before)
    slipstream.load_into(module, path, strict=False)
    expected = {name: before[name] if name in drop else tensor for name, tensor in copy_state(source).items()}
    assert same_state(copy_state(module), expected)


def test_selected_names(tmp_path: Path) -> None:
    """names= loads a part, which strict takes for a mismatch and strict=False does not."""
    source, module = make_module(1), make_module(2)
    path = save(source, tmp_path / "a.safetensors")
    before = copy_state(module)
    with pytest.raises(ModuleMismatchError):
        slipstream.load_into(module, path, names="0.*")
    stats = slipstream.load_into(module, path, names="0.*", strict=False)
    assert stats.tensors == 2
    expected = {name: tensor if name.startswith("0.") else before[name] for name, tensor in copy_state(source).items()}
    assert same_state(copy_state(module), expected)


def test_meta_modules_take_the_loaded_tensors(tmp_path: Path) -> None:
    """Parameters and buffers on the meta device become the loaded tensors, in the checkpoint's type."""
    source = make_module(1, dtype=torch.float16)
    module = make_module(2, device="meta")
    module[0].weight.requires_grad_(False)
    slipstream.load_into(module, save(source, tmp_path / "a.safetensors"))
    assert same_state(copy_state(module), copy_state(source))
    assert not any(tensor.is_meta for tensor in module.state_dict().values())
    assert all(isinstance(parameter, nn.Parameter) for parameter in module.parameters())
    assert [parameter.requires_grad for parameter in module.parameters()] == [False, True, True, True, True]
    module.half().eval()(torch.rand(2, 6, dtype=torch.float16)).sum()


def test_meta_modules_train_and_save(tmp_path: Path) -> None:
    """A module that was filled from the meta device can be trained and saved, and the file stays as it was."""
    path = save(make_module(1), tmp_path / "a.safetensors")
    content = path.read_bytes()
    module = make_module(2, device="meta")
    slipstream.load_into(module, path)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    cast(Any, module(torch.rand(4, 6)).sum()).backward()
    optimizer.step()
    save_file(copy_state(module), tmp_path / "b.safetensors")
    assert path.read_bytes() == content


def test_partly_meta_modules(tmp_path: Path) -> None:
    """Parts on the meta device are replaced, the others filled in place."""
    source, module = make_module(1), make_module(2)
    kept = module[2].weight
    module[0].to("meta")
    slipstream.load_into(module, save(source, tmp_path / "a.safetensors"))
    assert same_state(copy_state(module), copy_state(source))
    assert module[2].weight is kept


class Tied(nn.Module):
    """An output layer that shares the embedding's weight, and a buffer that is not saved."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4, device=device)
        self.head = nn.Linear(4, 7, bias=False, device=device)
        self.head.weight = self.embedding.weight
        self.register_buffer("cache", torch.zeros(3), persistent=False)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("names", [["embedding.weight"], ["head.weight"], ["embedding.weight", "head.weight"]])
def test_tied_weights(names: list[str], device: str, tmp_path: Path) -> None:
    """Tied weights are loaded by one of their names, or by both, and stay tied; unsaved buffers are not asked for."""
    values = torch.rand(7, 4)
    save_file({name: values.clone() for name in names}, tmp_path / "a.safetensors")
    module = Tied(device)
    slipstream.load_into(module, tmp_path)
    assert torch.equal(module.embedding.weight, values)
    assert module.head.weight is module.embedding.weight


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tied_weights_that_are_missing(device: str, tmp_path: Path) -> None:
    """A checkpoint with neither of the two names lacks them."""
    save_file({}, tmp_path / "a.safetensors")
    with pytest.raises(ModuleMismatchError, match=re.escape("embedding.weight")):
        slipstream.load_into(Tied(device), tmp_path)


class Watching(nn.Module):
    """A module that, when it is asked for its state, looks whether reading has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.reading = False

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As nn.Module."""
        self.reading |= any(thread.name.startswith("slipstream-") for thread in threading.enumerate())
        return super().state_dict(*args, **kwargs)


def test_nothing_is_read_before_the_names_agree(tmp_path: Path) -> None:
    """Names and shapes are compared before reading begins."""
    write_flat(tmp_path / "a.safetensors", {"other": 10_000, "another": 10_000})
    module = Watching()
    how = Options(memory_limit=10_000)  # so that a thread that has begun to read does not end before it is seen
    with pytest.raises(ModuleMismatchError):
        slipstream.load_into(module, tmp_path, options=how)
    assert not module.reading


@pytest.mark.parametrize("strategy", FILE_STRATEGIES)
def test_limit_of_the_largest_tensor(strategy: Strategy, tmp_path: Path) -> None:
    """A module is filled under a limit of no more than its largest tensor: each is dropped once it is copied."""
    torch.manual_seed(1)
    source = nn.Sequential(*[nn.Linear(50, 50) for _ in range(10)])
    module = nn.Sequential(*[nn.Linear(50, 50) for _ in range(10)])
    how = Options(memory_limit=50 * 50 * 4, memory_wait_s=0.2, strategy=strategy)
    stats = slipstream.load_into(module, save(source, tmp_path / "a.safetensors"), options=how)
    assert same_state(copy_state(module), copy_state(source))
    assert stats.peak_buffer_bytes <= 50 * 50 * 4


class Packed(nn.Module):
    """One buffer of a packed type, in the shape in which PyTorch holds it."""

    def __init__(self, dtype: torch.dtype, shape: tuple[int, ...], device: str) -> None:
        super().__init__()
        size = torch.Size(shape).numel()
        self.register_buffer("weight", torch.zeros(size, dtype=torch.uint8, device=device).view(dtype).view(shape))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("dtype", "shape", "torch_dtype", "torch_shape"),
    [
        (Dtype.F4, (4, 6), torch.float4_e2m1fn_x2, (4, 3)),
        (Dtype.F6_E2M3, (4, 2), torch.uint8, (6,)),
    ],
)
def test_packed_types(
    dtype: Dtype,
    shape: tuple[int, ...],
    torch_dtype: torch.dtype,
    torch_shape: tuple[int, ...],
    device: str,
    tmp_path: Path,
) -> None:
    """A packed tensor fits a slot of the type and shape in which it is delivered."""
    content = make_bytes(torch.Size(torch_shape).numel(), seed=4)
    write_safetensors(tmp_path / "a.safetensors", {"weight": (dtype, shape, content)})
    module = Packed(torch_dtype, torch_shape, device)
    slipstream.load_into(module, tmp_path)
    assert bytes(cast(Any, module.weight).view(torch.uint8).numpy().tobytes()) == content


def test_packed_types_that_do_not_fit(tmp_path: Path) -> None:
    """A slot of the packed tensor's logical shape does not fit it: a mismatch, before anything is changed."""
    write_safetensors(tmp_path / "a.safetensors", {"weight": (Dtype.F4, (4, 6), make_bytes(12, seed=4))})
    module = Packed(torch.uint8, (4, 6), "cpu")
    with pytest.raises(ModuleMismatchError):
        slipstream.load_into(module, tmp_path)


@pytest.mark.parametrize(
    ("module", "uri"),
    [(lambda: nn.Linear(2, 2), "no/such/path"), (lambda: nn.Linear(2, 2), "s3://bucket/a")],
)
def test_errors_of_the_stream_come_through(module: Callable[[], nn.Module], uri: str) -> None:
    """What cannot be found is the same error as elsewhere."""
    with pytest.raises(slipstream.SlipstreamError):
        slipstream.load_into(module(), uri)
