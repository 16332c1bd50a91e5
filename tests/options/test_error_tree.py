"""The errors: one root, the built-in kinds that callers know, and attributes that survive pickling."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import slipstream
from slipstream import SlipstreamError

BUILT_INS: dict[str, tuple[type[Exception], ...]] = {
    "UsageError": (ValueError,),
    "MissingDependencyError": (ImportError,),
    "BlobNotFoundError": (FileNotFoundError,),
    "AccessDeniedError": (PermissionError,),
    "FormatError": (ValueError,),
    "ShardIndexError": (ValueError, slipstream.FormatError),
    "TensorNotFoundError": (LookupError,),
    "ReadError": (OSError,),
    "BlobChangedError": (OSError, slipstream.ReadError),
    "WriteError": (OSError,),
    "MemoryLimitError": (MemoryError,),
    "DeviceError": (RuntimeError,),
    "StreamClosedError": (RuntimeError,),
    "RankError": (RuntimeError,),
    "ModuleMismatchError": (ValueError,),
}
PUBLIC: dict[str, type[SlipstreamError]] = {
    name: value
    for name, value in vars(slipstream).items()
    if isinstance(value, type) and issubclass(value, SlipstreamError) and value is not SlipstreamError
}


def test_the_tree_is_whole() -> None:
    """Every public error is of the root, and of the built-in kind that callers may catch already."""
    assert set(PUBLIC) == set(BUILT_INS)
    for name, kinds in BUILT_INS.items():
        assert issubclass(PUBLIC[name], (SlipstreamError, *kinds))
        assert all(issubclass(PUBLIC[name], kind) for kind in kinds)


@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize("kind", PUBLIC.values(), ids=PUBLIC)
def test_copies_are_whole(kind: type[SlipstreamError], again: Callable[[Any], Any]) -> None:
    """An error that is pickled or copied keeps its kind, message, place, attributes and notes."""
    arguments: dict[str, Any] = {"tensor": "a.b"} if issubclass(kind, slipstream.FormatError) else {"attempts": 3}
    error = kind("it broke: look there", uri="/model/a", offset=17, length=4096, **arguments)
    error.add_note("another read failed too")
    copied = again(error)
    assert type(copied) is kind
    assert str(copied) == str(error) == "it broke: look there"
    assert (copied.message, copied.uri, copied.offset, copied.length) == (error.message, "/model/a", 17, 4096)
    assert copied.attempts == error.attempts
    assert getattr(copied, "tensor", None) == arguments.get("tensor")
    assert copied.__notes__ == ["another read failed too"]
    assert copied.args == error.args


@pytest.mark.parametrize("kind", PUBLIC.values(), ids=PUBLIC)
def test_places_may_be_unknown(kind: type[SlipstreamError]) -> None:
    """An error of a message alone has no place, and its text is the message, also in a traceback's repr."""
    error = kind("it broke")
    assert (str(error), error.uri, error.offset, error.length, error.attempts) == ("it broke", None, None, None, 1)
    assert "it broke" in repr(error)


def test_errors_cross_processes(tmp_path: Path) -> None:
    """An error raised in a worker process reaches its parent whole."""
    (tmp_path / "a.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0garbage!")
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        future = pool.submit(slipstream.inspect, str(tmp_path / "a.safetensors"))
        with pytest.raises(slipstream.FormatError) as caught:
            future.result()
    assert caught.value.uri == str(tmp_path / "a.safetensors")
    assert caught.value.offset is not None


def test_values_cross_processes(tmp_path: Path) -> None:
    """Checkpoints, plans and stats can be pickled."""
    from tests.streaming.random_checkpoints import write_flat

    write_flat(tmp_path / "a.safetensors", {"x": 10})
    for value in (slipstream.inspect(tmp_path), slipstream.plan(tmp_path)):
        assert pickle.loads(pickle.dumps(value)) == value
    with slipstream.stream(tmp_path) as tensors:
        list(tensors)
    assert pickle.loads(pickle.dumps(tensors.stats())) == tensors.stats()
