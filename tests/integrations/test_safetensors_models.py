"""load_model and tied tensors: what safetensors' own tests of models ask of it, asked of slipstream's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from slipstream.safetensors import load_model
from slipstream.safetensors.torch import find_other_names


class Tied(torch.nn.Module):
    """Two layers that are one."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(10, 10)
        self.b = self.a


class Apart(torch.nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(10, 10)
        self.b = torch.nn.Linear(10, 10)


class Copied(torch.nn.Module):
    """Two layers with the same values."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(10, 10)
        self.b = copy.deepcopy(self.a)


class Transposed(torch.nn.Module):
    """A weight that is not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(10, 10)
        self.a.weight = torch.nn.Parameter(torch.rand(10, 10).transpose(0, 1))


Load = Callable[..., tuple[object, list[str]]]
BOTH = pytest.mark.parametrize("load", [load_model, safetensors.torch.load_model], ids=["slipstream", "reference"])


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    found, expected = one.state_dict(), other.state_dict()
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@BOTH
@pytest.mark.parametrize("kind", [Tied, Apart, Copied, Transposed])
def test_a_model_that_was_saved_is_loaded(kind: type[torch.nn.Module], load: Load, tmp_path: Path) -> None:
    """Tied, copied and transposed parameters come back, and nothing is missing or left over."""
    saved, loaded = kind(), kind()
    safetensors.torch.save_model(saved, str(tmp_path / "a.safetensors"))
    missing, unexpected = load(loaded, tmp_path / "a.safetensors")
    assert (set(missing), unexpected) == (set(), [])  # type: ignore[call-overload]
    assert equal(loaded, saved)


@BOTH
def test_the_other_name_of_a_tied_tensor_is_as_good(load: Load, tmp_path: Path) -> None:
    """A file that kept the second name loads into a module whose first name it would be by rule."""
    saved, loaded = Tied(), Tied()
    state = saved.state_dict()
    del state["a.weight"], state["a.bias"]
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    load(loaded, tmp_path / "a.safetensors")
    assert equal(loaded, saved)


@BOTH
def test_a_tied_file_lacks_half_of_what_two_layers_need(load: Load, tmp_path: Path) -> None:
    """Strictly, that is an error that names what is missing; else the names are returned."""
    safetensors.torch.save_model(Tied(), str(tmp_path / "a.safetensors"))
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "b.bias", "b.weight"'):
        load(Apart(), tmp_path / "a.safetensors")
    missing, unexpected = load(Apart(), tmp_path / "a.safetensors", strict=False)
    assert (set(missing), unexpected) == ({"b.bias", "b.weight"}, [])  # type: ignore[call-overload]


@BOTH
def test_two_layers_are_too_much_for_tied_ones(load: Load, tmp_path: Path) -> None:
    """Strictly, that is an error that names what the module has no room for; else the names are returned."""
    safetensors.torch.save_model(Apart(), str(tmp_path / "a.safetensors"))
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "b.bias", "b.weight"'):
        load(Tied(), tmp_path / "a.safetensors")
    missing, unexpected = load(Tied(), tmp_path / "a.safetensors", strict=False)
    assert (set(missing), sorted(unexpected)) == (set(), ["b.bias", "b.weight"])  # type: ignore[call-overload]


@BOTH
def test_both_kinds_of_names_in_one_error(load: Load, tmp_path: Path) -> None:
    """What is missing and what is unexpected are told together."""
    safetensors.torch.save_file({"a.weight": torch.rand(10, 10), "c": torch.rand(2)}, tmp_path / "a.safetensors")
    with pytest.raises(RuntimeError, match=r'(?s)Missing key.*"a.bias".*Unexpected key.*"c"'):
        load(Tied(), tmp_path / "a.safetensors")


def test_which_names_can_be_done_without() -> None:
    """Of tensors that overlap, one that covers the storage is kept: the first, or one that is preferred."""
    whole, apart = torch.zeros(3, 3), torch.zeros(4)
    part = whole[:1]
    assert find_other_names({"a": whole, "b": part}, ()) == ["b"]
    assert find_other_names({"a": whole, "b": part, "c": whole}, ()) == ["b", "c"]
    assert find_other_names({"a": whole, "b": part, "c": whole}, ("c",)) == ["a", "b"]
    assert find_other_names({"a": whole, "b": part}, ("b",)) == ["b"]
    assert find_other_names({"a": whole, "b": apart}, ()) == []
    assert find_other_names({"a": torch.empty(2, device="meta"), "b": torch.empty(0)}, ()) == []


def test_names_that_share_a_storage_and_do_not_overlap() -> None:
    """Halves of one storage are tensors of their own, but neither can be kept for it."""
    both = torch.zeros(4)
    with pytest.raises(RuntimeError, match="none of them covers all of it"):
        find_other_names({"b": both[:2], "c": both[2:]}, ())
