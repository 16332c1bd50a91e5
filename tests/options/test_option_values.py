"""Options: checked when made, frozen, and read from the environment where no argument is given."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import threading
from pathlib import Path
from typing import Any, cast

import pytest

import slipstream
from slipstream import Options, UsageError
from slipstream.options import make_options
from slipstream.types import Strategy
from tests.streaming.random_checkpoints import write_flat


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of slipstream's is set when a test begins."""
    for name in list(os.environ):
        if name.startswith("SLIPSTREAM_"):
            monkeypatch.delenv(name)


def test_defaults() -> None:
    """Without arguments and environment: the documented defaults."""
    options = Options()
    assert (options.concurrency, options.memory_limit, options.strategy) == ("auto", None, "auto")
    assert options.chunk_bytes >= 4096
    assert options.memory_wait_s > 0


@pytest.mark.parametrize(
    "settings",
    [
        {"concurrency": 0},
        {"concurrency": -1},
        {"concurrency": 1025},
        {"concurrency": 2.0},
        {"concurrency": True},
        {"concurrency": "4"},
        {"concurrency": "many"},
        {"concurrency": None},
        {"chunk_bytes": 4095},
        {"chunk_bytes": 0},
        {"chunk_bytes": -4096},
        {"chunk_bytes": 8192.0},
        {"chunk_bytes": "8MiB"},
        {"chunk_bytes": None},
        {"memory_limit": 0},
        {"memory_limit": -1},
        {"memory_limit": 1e9},
        {"memory_limit": "1GB"},
        {"memory_limit": True},
        {"count_held": 0},
        {"count_held": "no"},
        {"count_held": None},
        {"memory_wait_s": -1},
        {"memory_wait_s": -0.001},
        {"memory_wait_s": float("nan")},
        {"memory_wait_s": float("inf")},
        {"memory_wait_s": "2"},
        {"memory_wait_s": None},
        {"memory_wait_s": threading.TIMEOUT_MAX * 2},
        {"memory_wait_s": 1e300},
        {"memory_wait_s": 10**400},
        {"strategy": "fast"},
        {"strategy": "MAPPED"},
        {"strategy": ""},
        {"strategy": None},
        {"strategy": 3},
    ],
    ids=lambda settings: str(settings)[:40],
)
def test_impossible_values(settings: dict[str, Any]) -> None:
    """A value that cannot work is refused when the options are made, and the error names the setting."""
    with pytest.raises(UsageError, match=next(iter(settings))):
        Options(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"concurrency": 1},
        {"concurrency": 1024},
        {"chunk_bytes": 4096},
        {"chunk_bytes": 1 << 40},
        {"memory_limit": 1},
        {"memory_limit": 1 << 60},
        {"count_held": False},
        {"memory_wait_s": 0},
        {"memory_wait_s": 86_400},
        {"strategy": Strategy.DIRECT},
        {"strategy": "direct"},
    ],
    ids=lambda settings: str(settings)[:40],
)
def test_values_at_the_edge(settings: dict[str, Any], tmp_path: Path) -> None:
    """Each value that is accepted also loads."""
    write_flat(tmp_path / "a.safetensors", {"x": 1, "y": 0})
    options = Options(**settings)
    ((name, value),) = settings.items()
    assert getattr(options, name) == value
    with slipstream.stream(tmp_path, options=options, names="x") as tensors:
        assert [name for name, _ in tensors] == ["x"]


def test_unknown_settings_and_positions() -> None:
    """A setting that there is not, or one without its name, is refused by Python itself."""
    wrong = cast(Any, Options)
    with pytest.raises(TypeError, match="threads"):
        wrong(threads=4)
    with pytest.raises(TypeError):
        wrong(4)


def test_frozen_equal_and_copied() -> None:
    """Options cannot be changed; equal ones are equal; they survive pickle and copy."""
    options = Options(concurrency=3, strategy=Strategy.MAPPED)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cast(Any, options).concurrency = 4
    assert options == Options(concurrency=3, strategy=cast(Any, "mapped"))
    assert hash(options) == hash(Options(concurrency=3, strategy=Strategy.MAPPED))
    assert pickle.loads(pickle.dumps(options)) == options
    assert copy.deepcopy(options) == options
    assert dataclasses.replace(options, concurrency=5).concurrency == 5
    assert "concurrency=3" in repr(options)


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("SLIPSTREAM_CONCURRENCY", "7", "concurrency", 7),
        ("SLIPSTREAM_CONCURRENCY", " 7 ", "concurrency", 7),
        ("SLIPSTREAM_CONCURRENCY", "auto", "concurrency", "auto"),
        ("SLIPSTREAM_CHUNK_BYTES", "16MiB", "chunk_bytes", 16 << 20),
        ("SLIPSTREAM_MEMORY_LIMIT", "1.5GB", "memory_limit", 1_500_000_000),
        ("SLIPSTREAM_MEMORY_LIMIT", "none", "memory_limit", None),
        ("SLIPSTREAM_MEMORY_LIMIT", "", "memory_limit", None),
        ("SLIPSTREAM_COUNT_HELD", "no", "count_held", False),
        ("SLIPSTREAM_MEMORY_WAIT_S", "0.5", "memory_wait_s", 0.5),
        ("SLIPSTREAM_STRATEGY", "buffered", "strategy", Strategy.BUFFERED),
        ("SLIPSTREAM_STRATEGY", "auto", "strategy", "auto"),
    ],
)
def test_environment(variable: str, text: str, name: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable sets what no argument does, at the time the options are made; an argument comes before it."""
    default = getattr(Options(), name)
    monkeypatch.setenv(variable, text)
    assert getattr(Options(), name) == value
    assert type(getattr(Options(), name)) is type(value)
    given: dict[str, Any] = {"concurrency": 2, "chunk_bytes": 5000, "memory_limit": 9, "memory_wait_s": 9.0}
    given["count_held"] = True
    given["strategy"] = Strategy.DIRECT
    assert getattr(Options(**{name: given[name]}), name) == given[name]
    monkeypatch.delenv(variable)
    assert getattr(Options(), name) == default


def test_an_argument_of_none_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """memory_limit=None given as an argument means no limit, whatever the environment says."""
    monkeypatch.setenv("SLIPSTREAM_MEMORY_LIMIT", "1MB")
    assert Options(memory_limit=None).memory_limit is None


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("SLIPSTREAM_CONCURRENCY", "many"),
        ("SLIPSTREAM_CONCURRENCY", "0"),
        ("SLIPSTREAM_CONCURRENCY", "-4"),
        ("SLIPSTREAM_CONCURRENCY", ""),
        ("SLIPSTREAM_CONCURRENCY", "4.5"),
        pytest.param("SLIPSTREAM_CONCURRENCY", "9" * 5000, id="too many digits"),
        ("SLIPSTREAM_CHUNK_BYTES", "8 parsecs"),
        ("SLIPSTREAM_CHUNK_BYTES", "1KB"),
        ("SLIPSTREAM_CHUNK_BYTES", ""),
        ("SLIPSTREAM_MEMORY_LIMIT", "lots"),
        ("SLIPSTREAM_MEMORY_LIMIT", "0"),
        ("SLIPSTREAM_MEMORY_WAIT_S", "soon"),
        ("SLIPSTREAM_MEMORY_WAIT_S", "nan"),
        ("SLIPSTREAM_MEMORY_WAIT_S", "-1"),
        ("SLIPSTREAM_STRATEGY", "fast"),
        ("SLIPSTREAM_STRATEGY", ""),
    ],
)
def test_impossible_environment(variable: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable with a value that cannot work is refused, and the error names the setting."""
    monkeypatch.setenv(variable, text)
    with pytest.raises(UsageError) as caught:
        Options()
    assert variable.removeprefix("SLIPSTREAM_").lower() in str(caught.value).lower()


def test_unknown_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that slipstream does not know, most likely misspelt, is refused with those that it knows."""
    write_flat(tmp_path / "a.safetensors", {"x": 1})
    monkeypatch.setenv("SLIPSTREAM_MEMROY_LIMIT", "1GB")
    with pytest.raises(UsageError, match="SLIPSTREAM_MEMROY_LIMIT") as caught:
        Options()
    assert "SLIPSTREAM_MEMORY_LIMIT" in str(caught.value)
    with pytest.raises(UsageError):
        slipstream.load(tmp_path)
    monkeypatch.delenv("SLIPSTREAM_MEMROY_LIMIT")
    assert list(slipstream.load(tmp_path)) == ["x"]


def test_settings_of_a_command_line() -> None:
    """make_options takes a setting of None for one that was not given."""
    assert make_options(concurrency=None, strategy="direct", memory_limit=None) == Options(strategy=Strategy.DIRECT)
