"""`names=` reads the bytes that it asks for, and as good as no others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest

import slipstream
from slipstream import Dtype, Options, TensorNotFoundError, UsageError
from slipstream.testing.checkpoints import write_safetensors
from tests.streaming.random_checkpoints import Names, tensor_bytes, write_flat

_HEADER_READ_BYTES = 96 * 1024  # a header is read with one request of this size
_SLACK_BYTES = 64 * 1024  # what the process itself reads meanwhile, e.g. /proc files


def count_read_bytes() -> int:
    """Bytes that this process has asked of read system calls so far."""
    match = re.search(r"^rchar: (\d+)", Path("/proc/self/io").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])


@pytest.mark.parametrize("strategy", ["direct", "buffered"])
def test_reads_few_bytes_for_few_tensors(strategy: str, tmp_path: Path) -> None:
    """The kernel's own count of bytes read is that of the selected tensors and the header."""
    written = write_flat(tmp_path / "a.safetensors", {f"t{number}": 300_001 for number in range(20)})
    how = Options(strategy=cast(Any, strategy), chunk_bytes=100_000)
    slipstream.load(tmp_path, names="t0", options=how)  # imports happen before anything is counted
    before = count_read_bytes()
    found = slipstream.load(tmp_path, names=["t3", "t11"], options=how)
    count = count_read_bytes() - before
    assert {name: tensor_bytes(tensor) for name, tensor in found.items()} == {n: written[n] for n in ("t3", "t11")}
    assert count <= 2 * 300_001 + _HEADER_READ_BYTES + _SLACK_BYTES


def test_untouched_files_are_not_opened(tmp_path: Path) -> None:
    """Of a file with no selected tensor only the header is read: it may vanish between plan and load."""
    write_flat(tmp_path / "a.safetensors", {"a": 1000})
    write_flat(tmp_path / "b.safetensors", {"b": 1000})
    plan = slipstream.plan(tmp_path, names="b")
    assert [choice is None for choice in plan.choices] == [True, False]
    assert {op.blob for op in plan.ops} == {1}
    with slipstream.stream(tmp_path, names="b") as tensors:
        assert [name for name, _ in tensors] == ["b"]
    assert [Path(file.uri).name for file in tensors.stats().files] == ["b.safetensors"]


NAMES = ["a.0.weight", "a.0.bias", "a.10.weight", "A.0.weight", "b[0].weight", "b0.weight", "*", "ключ.1"]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ("a.0.weight", {"a.0.weight"}),
        ("a.*", {"a.0.weight", "a.0.bias", "a.10.weight"}),
        ("a.?.weight", {"a.0.weight"}),
        ("[aA].0.weight", {"a.0.weight", "A.0.weight"}),
        ("b[0].weight", {"b[0].weight"}),
        ("b[[]0].weight", {"b[0].weight"}),
        ("b[0-9].weight", {"b0.weight"}),
        ("*", {"*"}),
        ("ключ.?", {"ключ.1"}),
        (["a.0.bias", "a.0.*"], {"a.0.weight", "a.0.bias"}),
        (("b0.weight", "b0.weight"), {"b0.weight"}),
        ({"b0.weight"}, {"b0.weight"}),
        (iter(["b0.weight"]), {"b0.weight"}),
        (lambda name: name.endswith("bias"), {"a.0.bias"}),
        (lambda name: None, set()),
        ([], set()),
    ],
)
def test_selections(names: Names, wanted: set[str], tmp_path: Path) -> None:
    """A name is taken literally before it is a glob; globs know upper and lower case; lists may repeat."""
    write_flat(tmp_path / "a.safetensors", dict.fromkeys(NAMES, 3))
    assert set(slipstream.load(tmp_path, names=names)) == wanted
    plan = slipstream.plan(tmp_path, names=wanted)
    assert {tensor.name for op in plan.ops for tensor in op.tensors} == wanted


@pytest.mark.parametrize("names", ["a.0.weigth", ["a.0.weight", "missing.*"], "", "a", "A.0.WEIGHT"])
def test_names_that_match_nothing(names: Names, tmp_path: Path) -> None:
    """A name or glob without a tensor is an error that names it, before anything is read."""
    write_flat(tmp_path / "a.safetensors", dict.fromkeys(NAMES, 3))
    with pytest.raises(TensorNotFoundError) as caught:
        slipstream.stream(tmp_path, names=names)
    assert isinstance(caught.value, LookupError)
    culprit = names if isinstance(names, str) else "missing.*"
    assert repr(culprit) in str(caught.value)


def test_near_names_are_suggested(tmp_path: Path) -> None:
    """A misspelt name is answered with the nearest ones."""
    write_flat(tmp_path / "a.safetensors", dict.fromkeys(NAMES, 3))
    with pytest.raises(TensorNotFoundError, match=re.escape("a.0.weight")):
        slipstream.plan(tmp_path, names="a.0.weigth")


@pytest.mark.parametrize("names", [3, [3], [None], [b"a"], ["a.0.weight", 1.5]])
def test_names_of_other_types(names: Any, tmp_path: Path) -> None:
    """What is neither text, a list of text nor a function is wrong usage."""
    write_flat(tmp_path / "a.safetensors", dict.fromkeys(NAMES, 3))
    with pytest.raises(UsageError):
        slipstream.plan(tmp_path, names=names)


def test_error_in_a_name_function_reaches_the_caller(tmp_path: Path) -> None:
    """What the caller's own function raises is not turned into something else."""
    write_flat(tmp_path / "a.safetensors", {"a": 3})

    def fail(name: str) -> bool:
        raise ZeroDivisionError(name)

    with pytest.raises(ZeroDivisionError):
        slipstream.load(tmp_path, names=fail)


def test_every_other_of_very_many_tensors(tmp_path: Path) -> None:
    """More scattered tensors than Linux allows mappings of its own are loaded and held all the same."""
    count = 140_000
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {f"t{number}": (Dtype.U8, (1,), bytes([number % 251])) for number in range(count)})
    wanted = {f"t{number}": number % 251 for number in range(0, count, 2)}
    found = slipstream.load(path, framework="numpy", names=wanted.__contains__)
    assert {name: int(array[0]) for name, array in found.items()} == wanted
