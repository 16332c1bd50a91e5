"""The drop-in does what the original does: both are run on the same files and the same store, and say the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest

from tests.compat.runai.drop_in import DROP_IN, child_environment
from tests.compat.runai.files import BROKEN, ODD, write_all

PROGRAM = Path(__file__).with_name("both_sides.py")
REFUSED = {"raised": "ValueError"}

pytestmark = pytest.mark.skipif(
    not any(distributions(name="runai-model-streamer-s3")),
    reason="the original is not installed: pip install 'runai-model-streamer[s3]'",
)


def ask(case: str, *arguments: object, original: bool) -> Any:
    """What one side says."""
    environment = dict(os.environ) if original else child_environment()
    command = [sys.executable, "-P", str(PROGRAM), case, *map(str, arguments)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    answer = json.loads(ran.stdout.splitlines()[-1])
    assert Path(answer["module"]).is_relative_to(DROP_IN) is not original
    return answer["said"]


def ask_both(case: str, *arguments: object) -> tuple[Any, Any]:
    return ask(case, *arguments, original=True), ask(case, *arguments, original=False)


def assert_same(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Compares one by one, so that a failure shows which."""
    assert theirs.keys() == ours.keys()
    assert {name: (theirs[name], ours[name]) for name in theirs if theirs[name] != ours[name]} == {}


def test_tensors_and_what_is_said_of_them(model: Path) -> None:
    """Names, values, dtypes, shapes, places, alignment, and every method of the metadata."""
    theirs, ours = ask_both("tensors", *sorted(model.glob("*.safetensors")))
    assert ours == theirs
    assert sum(len(tensors) for tensors in ours[-1]["told"].values()) == len(ours[-1]["tensors"]) == 9


def test_tensors_of_a_store(store: str) -> None:
    """The same of objects."""
    theirs, ours = ask_both("tensors", *(f"{store}model-0000{n}-of-00002.safetensors" for n in (1, 2)))
    assert ours == theirs
    assert len(ours[-1]["tensors"]) == 9


def test_odd_files(tmp_path: Path) -> None:
    """Files that are unusual and right: both read them, and give the same; no tensor is at a misaligned address."""
    paths = write_all(ODD, tmp_path / "odd")
    theirs, ours = ask_both("tensors", *paths.values())
    assert_same(dict(zip(paths, theirs, strict=False)), dict(zip(paths, ours, strict=False)))


def test_broken_files(tmp_path: Path) -> None:
    """Both refuse the same files, by errors that the same `except` catches."""
    paths = write_all(BROKEN, tmp_path / "broken")
    theirs, ours = ask_both("tensors", *paths.values())
    refused = dict(zip(paths, theirs, strict=False))
    assert refused.pop("no object") == {"raised": "AttributeError"}, "an oversight of theirs has been mended"
    assert refused == dict.fromkeys(refused, REFUSED)
    assert ours == [REFUSED] * (len(paths) + 1)


def test_arguments_and_settings(model: Path, store: str) -> None:
    """What may be given is taken by both, and what is refused is refused by the same class."""
    one, two = sorted(model.glob("*.safetensors"))
    theirs, ours = ask_both("settings", one, two, f"{store}{one.name}")
    # A second call before the first is consumed: both refuse it, but there the first cannot be consumed any more.
    assert theirs.pop("unconsumed") == {"raised": "KeyError"}
    assert ours.pop("unconsumed") == [REFUSED, 4]
    assert_same(theirs, ours)


def test_ranges(model: Path, store: str) -> None:
    """Ids, positions, bytes and shapes of plain ranges, and where errors come."""
    one, two = sorted(model.glob("*.safetensors"))
    theirs, ours = ask_both("ranges", one, two, f"{store}{one.name}", f"{store}missing.bin")
    assert_same(theirs, ours)


def test_listings(model: Path, store: str) -> None:
    """The same names, in the form that the caller's path has."""
    theirs, ours = ask_both("listings", model, store)
    assert_same(theirs, ours)


def test_pulls(model: Path, store: str, tmp_path: Path) -> None:
    """The same files in the same places, the lock beside the directory and the mark in it."""
    answers = []
    for original in (True, False):
        to = tmp_path / "to"  # the same path for both, as it is a part of the answers
        to.mkdir()
        answers.append(ask("pulls", model, store, to, original=original))
        to.rename(tmp_path / f"to-{original}")
    assert_same(*answers)


@pytest.mark.parametrize("missing", ["s3://no-such-bucket-here/m/"])
def test_a_bucket_that_is_not_there(missing: str, store: str, tmp_path: Path) -> None:
    """Both refuse to list it and to pull from it; what is raised is each one's own."""
    for original in (True, False):
        said = ask("listings", tmp_path, missing, original=original)
        assert "raised" in said[missing]
        said = ask("pulls", tmp_path, missing, tmp_path, original=original)
        assert "raised" in said["all"]
