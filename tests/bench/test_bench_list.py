"""`slipstream bench list`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.interpreters import make_interpreter
from tests.cli.process import run


def test_lists_every_contender_with_what_it_can_do() -> None:
    """Each is there with its version, and whoever cannot do something is there with the reason."""
    done = run("bench", "list")
    assert (done.returncode, done.stderr) == (0, "")
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip() and line[0].isalpha()}
    assert {"slipstream", "runai", "safetensors", "tensorizer", "fastsafetensors", "instanttensor", "floor"} <= set(
        lines
    )
    assert "needs CUDA" in lines["instanttensor"]
    assert lines["slipstream"].split()[3:5] == ["yes", "yes"]
    assert "cannot read s3://" in lines["safetensors"]


def test_json_and_another_interpreter(tmp_path: Path) -> None:
    """--json says the same to programs, and --python asks another interpreter for one contender's packages."""
    python = make_interpreter(tmp_path / "venv", ["numpy"])
    done = run("bench", "list", "--json", "--python", f"safetensors={python}")
    found = {each["name"]: each for each in json.loads(done.stdout)}
    assert found["slipstream"]["can"]["disk"] is True
    assert found["slipstream"]["role"] == "slipstream"
    assert found["safetensors"]["python"] == str(python)
    assert found["safetensors"]["can"] == {"disk": False, "S3": False, "GPU": False}
    assert "not installed" in found["safetensors"]["why_not"]["disk"]
    assert "num_readers" in found["tensorizer"]["settings"]


@pytest.mark.parametrize(
    ("argument", "words"),
    [("safetensors", "NAME=PATH"), ("safetensors=/none", "no interpreter"), ("none=/bin", "none")],
)
def test_refuses_what_is_no_interpreter(argument: str, words: str) -> None:
    """A wrong --python is wrong usage, and says what is right."""
    done = run("bench", "list", "--python", argument)
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())
