"""`slipstream inspect`."""

from __future__ import annotations

import json
from pathlib import Path

from slipstream.testing.checkpoints import write_safetensors
from slipstream.testing.layouts import find_layout
from tests.cli.conftest import HOSTILE_NAMES
from tests.cli.process import assert_harmless, run, run_on_terminal


def test_lists_tensors_dtypes_files_and_metadata(tiny: Path) -> None:
    """It prints each tensor on a line of its own, then totals per dtype, each shard, and the metadata once."""
    done = run("inspect", tiny)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "dtype size shape tensor"
    assert "BF16 1.05 MB [2048, 256] model.embed_tokens.weight" in lines
    assert sum(line.startswith("BF16 ") and "[" in line for line in lines) == 39
    assert "BF16 39 4,000,000 8.00 MB" in lines
    assert any(line.startswith("model-00003-of-00003.safetensors") for line in lines)
    assert [line for line in lines if "format" in line] == ["metadata format pt"]


def test_json(tiny: Path) -> None:
    """--json has every tensor with its place in its file, the totals per dtype, and the files with their metadata."""
    found = json.loads(run("inspect", tiny, "--json").stdout)
    assert found["bytes"] == 8_000_000
    assert found["dtypes"] == {"BF16": {"tensors": 39, "elements": 4_000_000, "bytes": 8_000_000}}
    assert {(t["name"], t["dtype"], tuple(t["shape"]), t["bytes"]) for t in found["tensors"]} == {
        (spec.name, "BF16", spec.shape, spec.nbytes) for spec in find_layout("llama-tiny").specs()
    }
    assert all(t["end"] - t["start"] == t["bytes"] for t in found["tensors"])
    assert [file["metadata"] for file in found["files"]] == [{"format": "pt"}] * 3
    assert sum(file["bytes"] for file in found["files"]) == sum(p.stat().st_size for p in tiny.glob("*.safetensors"))


def test_hostile_names_are_escaped(hostile: Path) -> None:
    """Names, shapes and metadata that hold control characters, markup or endless text cannot harm the terminal."""
    done = run("inspect", hostile)
    assert (done.returncode, done.stderr) == (0, "")
    assert_harmless(done.stdout)
    for words in (r"\x1b]0;owned\x07\x1b[2J", "[red]markup[/red][/]", r"two\nlines\rand\ttabs", r"\u202e", ":smile:"):
        assert words in done.stdout
    assert max(map(len, done.stdout.splitlines())) < 700
    assert len([line for line in done.stdout.splitlines() if line.startswith("U8 ")]) == len(HOSTILE_NAMES) + 1


def test_hostile_names_on_a_terminal(hostile: Path) -> None:
    """On a terminal, too, nothing but our own colours reaches it."""
    code, screen = run_on_terminal("inspect", hostile)
    assert code == 0
    assert "\x07" not in screen
    assert "\x1b[2J" not in screen
    assert "\x1b]" not in screen


def test_hostile_names_in_json(hostile: Path) -> None:
    """--json holds the names as they are, in ASCII."""
    done = run("inspect", hostile, "--json")
    assert done.stdout.isascii()
    assert {tensor["name"] for tensor in json.loads(done.stdout)["tensors"]} == set(HOSTILE_NAMES)


def test_huge_shape(tmp_path: Path) -> None:
    """A shape of thousands of dimensions is cut short."""
    write_safetensors(tmp_path / "a.safetensors", {"deep": ("U8", [1] * 5000, b"\0")})
    done = run("inspect", tmp_path)
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) < 300


def test_no_tensors(tmp_path: Path) -> None:
    """A checkpoint without tensors is listed as such."""
    write_safetensors(tmp_path / "a.safetensors", {})
    done = run("inspect", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "a.safetensors" in done.stdout
