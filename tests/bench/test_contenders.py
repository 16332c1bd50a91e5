"""Who can be measured here, with which settings, and why not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipstream.bench.abilities import list_abilities
from slipstream.bench.contenders import (
    GROUP,
    Contender,
    SettingRule,
    check_availability,
    contenders,
    find_contender,
    schemes_of,
)
from slipstream.bench.errors import BenchError
from slipstream.bench.interpreters import child_environment, find_packages, parse_interpreters
from slipstream.bench.models import find_model
from slipstream.bench.records import Setting
from slipstream.bench.sampling import SampleRequest, take_sample
from slipstream.bench.storages.base import PlacedModel
from slipstream.errors import UsageError
from slipstream.testing.checkpoints import write_safetensors
from tests.bench.interpreters import make_distribution, make_interpreter

S3 = frozenset({"s3"})


@pytest.fixture(scope="module")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has numpy and safetensors, and neither torch nor slipstream."""
    return make_interpreter(tmp_path_factory.mktemp("other") / "venv", ["numpy", "safetensors"])


@pytest.mark.parametrize(
    ("name", "settings", "label"),
    [
        ("slipstream", {}, "defaults"),
        ("slipstream", {"concurrency": 16}, "concurrency 16"),
        ("slipstream", {"framework": "numpy", "strategy": "direct"}, "direct, numpy"),
        ("slipstream", {"memory_limit": 256 << 20}, "256 MiB limit"),
        ("runai", {"concurrency": 16}, "concurrency 16"),
        ("safetensors", {}, "get_tensor"),
        ("safetensors", {"backend": "pread"}, "pread"),
        ("tensorizer", {"num_readers": 100}, "100 readers"),
        ("fastsafetensors", {"bbuf_size_kb": 1024, "max_threads": 4}, "4 threads, buffers of 1024 KiB"),
        ("floor", {"method": "direct", "threads": 8}, "direct, 8 threads"),
    ],
)
def test_labels(name: str, settings: dict[str, Setting], label: str) -> None:
    """A label says the settings in words, in an order of its own."""
    assert find_contender(name).label(settings) == label


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("runai", {"readers": 4}, "no setting readers; its settings: concurrency"),
        ("tensorizer", {"num_readers": "4"}, "a value of type int"),
        ("tensorizer", {"num_readers": -1}, "num_readers"),
        ("tensorizer", {"num_readers": True}, "num_readers"),
        ("slipstream", {"strategy": "fast"}, "'mapped', 'direct'"),
    ],
)
def test_refuses_settings_that_there_are_not(name: str, settings: dict[str, Setting], words: str) -> None:
    """A wrong name or value is refused, with those that there are."""
    with pytest.raises(UsageError) as raised:
        find_contender(name).check(settings)
    assert words in str(raised.value)


def test_unknown_contender() -> None:
    """The error lists those there are."""
    with pytest.raises(UsageError, match="slipstream, runai, safetensors"):
        find_contender("none")


def test_settings_of_the_environment() -> None:
    """What a contender reads from its environment is set there."""
    assert find_contender("runai").environment({"concurrency": 16}) == {"RUNAI_STREAMER_CONCURRENCY": "16"}
    assert find_contender("slipstream").environment({"concurrency": 16}) == {}


@pytest.mark.parametrize(
    ("name", "destination", "schemes", "settings", "reason"),
    [
        ("slipstream", "cpu", frozenset({"file", "s3", "https"}), {}, ""),
        ("safetensors", "cpu", frozenset({"file"}), {}, ""),
        ("safetensors", "cpu", S3, {}, "cannot read s3://"),
        ("fastsafetensors", "cpu", S3, {}, "cannot read s3://"),
        ("instanttensor", "cpu", frozenset({"file"}), {}, "needs CUDA"),
        ("safetensors", "cpu", frozenset({"file"}), {"method": "prefetch"}, "needs CUDA"),
        ("floor", "cuda:0", frozenset({"file"}), {}, "loads to cpu only"),
        ("floor", "cpu", S3, {"method": "direct"}, "reads file only"),
        ("floor", "cpu", frozenset({"file"}), {"connections": 4}, "reads"),
    ],
)
def test_availability(
    name: str, destination: str, schemes: frozenset[str], settings: dict[str, Setting], reason: str
) -> None:
    """Whether a contender can run depends on destination, scheme and settings, and the reason names which."""
    found = check_availability(find_contender(name), destination=destination, schemes=schemes, settings=settings)
    if not reason:
        assert found.ok, found.reason
        assert name in found.versions
    else:
        assert not found.ok
        assert found.reason.startswith(reason)


def test_not_installed(other_python: Path) -> None:
    """What an interpreter lacks is named with the pip command that installs it; what it has, with its version."""
    for name in ("slipstream", "runai", "tensorizer"):
        found = check_availability(find_contender(name), python=other_python)
        assert found.reason.startswith("not installed (")
        assert "): pip install" in found.reason
    safetensors = find_contender("safetensors")
    assert "(torch)" in check_availability(safetensors, python=other_python).reason
    found = check_availability(safetensors, python=other_python, settings={"framework": "numpy"})
    assert (found.ok, set(found.versions)) == (True, {"safetensors"})


def test_too_old() -> None:
    """A setting that a later release brings says so, with the version that is installed."""
    safetensors = find_contender("safetensors")
    installed = check_availability(safetensors).versions["safetensors"]
    if not installed.startswith("0.8."):
        pytest.skip("this safetensors has it")
    found = check_availability(safetensors, settings={"method": "prefetch"}, destination="cuda:0")
    assert found.reason == f"needs safetensors 0.9 or newer; installed is {installed}"


def test_an_interpreter_that_does_not_run(tmp_path: Path) -> None:
    """A program that is no Python makes its contender unavailable, with what it said."""
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho this is no Python >&2\nexit 3\n")
    broken.chmod(0o755)
    found = check_availability(find_contender("safetensors"), python=broken)
    assert "exit code 3" in found.reason
    assert "this is no Python" in found.reason
    with pytest.raises(BenchError, match="does not run"):
        find_packages(tmp_path / "none", [], [])


def test_interpreters_of_the_command_line(other_python: Path) -> None:
    """NAME=PATH, where the path is a program or a virtual environment, whose link is not followed."""
    assert parse_interpreters([f"a={other_python}", f"b={other_python.parents[1]}"]) == {
        "a": other_python,
        "b": other_python,
    }
    for wrong in ("a", "=x", "a=", f"a={other_python}x", f"a={other_python.parent}"):
        with pytest.raises(UsageError, match="--python"):
            parse_interpreters([wrong])


def test_the_environment_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of this process are not a sample's, and this one's packages are not another interpreter's."""
    for name in ("SLIPSTREAM_CONCURRENCY", "RUNAI_STREAMER_CONCURRENCY", "PYTHONPATH", "ORDINARY"):
        monkeypatch.setenv(name, "1")
    ours, theirs = child_environment(None), child_environment(Path("python"))
    assert {"PYTHONPATH", "ORDINARY"} <= ours.keys()
    assert {"ORDINARY"} <= theirs.keys()
    assert "PYTHONPATH" not in theirs
    assert not any(name.startswith(("SLIPSTREAM_", "RUNAI_")) for name in (*ours, *theirs))


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose distributions are installed for this process and those that it starts."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")
    yield folder
    for name in ("bench_plugin", "bench_plugin_adapter"):
        sys.modules.pop(name, None)


PLUGIN = """
from slipstream.bench.contenders import Contender, SettingRule
CONTENDER = Contender(
    name="theirs", title="Their loader", adapter="bench_plugin:load", modules=("bench_plugin",),
    distributions=("bench-plugin",), settings={"speed": SettingRule(kinds=(int,), words="speed {}")},
)
NOT_ONE = 3

def load(job):
    import numpy as np
    for path in job.uris:
        yield "only", np.fromfile(path, np.uint8)[-4:] if job.settings["speed"] == 3 else None
"""


def test_a_plugin_adds_a_contender(plugins: Path, tmp_path: Path) -> None:
    """A distribution with an entry point of the group has its contender among the others, measured as they are."""
    make_distribution(plugins, "bench-plugin", "bench_plugin", PLUGIN, f"[{GROUP}]\ntheirs = bench_plugin:CONTENDER\n")
    assert list(contenders())[-1] == "theirs"
    theirs = find_contender("theirs")
    assert theirs.label({"speed": 3}) == "speed 3"
    found = check_availability(theirs)
    assert (found.reason, found.versions) == ("", {"bench-plugin": "1.2.3"})
    write_safetensors(tmp_path / "model.safetensors", {"only": ("U8", [4], b"abcd")})
    model = find_model(str(tmp_path / "model.safetensors"), tmp_path / "cache")
    placed = PlacedModel(model=model, uris=tuple(map(str, model.files)), files=model.files)
    taken = take_sample(SampleRequest(contender=theirs, placed=placed, settings={"speed": 3}), lambda pid: None)
    assert taken.verified
    assert taken.versions["bench-plugin"] == "1.2.3"


def test_a_broken_plugin_says_why(plugins: Path) -> None:
    """One that cannot be imported, names no contender, or takes another's name is listed with the reason."""
    entries = "absent = no_such_module:CONTENDER\nnumber = bench_plugin:NOT_ONE\nthird = bench_plugin:RIVAL\n"
    source = f"{PLUGIN}\nRIVAL = Contender(name='runai', title='', adapter='', modules=())\n"
    make_distribution(plugins, "bench-plugin", "bench_plugin", source, f"[{GROUP}]\n{entries}")
    found = {abilities.contender.name: abilities for abilities in list_abilities({})}
    assert "no_such_module" in found["absent"].refusals["disk"]
    assert "names no Contender" in found["number"].refusals["disk"]
    assert "already" in found["runai of bench-plugin"].refusals["disk"]
    assert found["runai"].contender.title == "Run:ai Model Streamer"
    assert found["slipstream"].can("disk")
    assert found["slipstream"].can("S3")


def test_schemes() -> None:
    """A path is a file, whatever it is called."""
    assert schemes_of(("/a/b", "S3://bucket/key", "relative")) == {"file", "s3"}


def test_settings_without_a_unit_are_shown_as_they_are() -> None:
    """Only bytes are shown in larger units, where they are a whole number of them."""
    contender = Contender(
        name="x",
        title="x",
        adapter="x:x",
        modules=(),
        settings={"size": SettingRule(kinds=(int,), unit="bytes"), "count": SettingRule(kinds=(int,))},
    )
    assert contender.label({"count": 1 << 20}) == "1048576"
    assert contender.label({"size": 3 << 20}) == "3 MiB"
    assert contender.label({"size": 1025}) == "1025 bytes"
