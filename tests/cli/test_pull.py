"""`slipstream pull`."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from slipstream.testing.range_faults import Hold
from slipstream.testing.range_server import Faults, RangeServer, When
from slipstream.testing.seaweedfs import SeaweedFS
from slipstream.testing.uploading import upload_checkpoint
from tests.cli.process import assert_harmless, command, environment, run, run_on_terminal
from tests.cli.test_object_stores import as_arguments
from tests.pulling.children import hear, start_child
from tests.pulling.models import Served, read_tree, serve_files, write_files

SIZES = {"config.json": 600, "tokenizer/vocab.json": 2000, "model.safetensors": 300_000}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory with a few files."""
    write_files(tmp_path / "m", SIZES)
    return tmp_path / "m"


def test_everything(model: Path, tmp_path: Path) -> None:
    """It says how many files and bytes it fetched; the second time, that they were there."""
    done = run("pull", model, tmp_path / "to")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^pulled +302\.60 kB in 3 files *$", done.stdout, re.MULTILINE)
    assert str(tmp_path / "to") in done.stdout
    assert read_tree(tmp_path / "to") == read_tree(model)
    again = run("pull", model, tmp_path / "to").stdout
    assert re.search(r"^pulled +0 B in 0 files *$", again, re.MULTILINE)
    assert re.search(r"^there before +3 files *$", again, re.MULTILINE)


def test_patterns(model: Path, tmp_path: Path) -> None:
    """--allow and --ignore may be given several times."""
    words = ("--allow", "*.json", "--allow", "*.safetensors", "--ignore", "tokenizer/*")
    assert run("pull", model, tmp_path / "to", *words).returncode == 0
    assert set(read_tree(tmp_path / "to")) == {"config.json", "model.safetensors"}


def test_patterns_that_leave_nothing(model: Path, tmp_path: Path) -> None:
    """A pattern that nothing matches ends with 1, for a script would go on without its files."""
    done = run("pull", model, tmp_path / "to", "--allow", "*.jsno")
    assert (done.returncode, done.stdout) == (1, "")
    assert "--allow" in done.stderr


def test_json(model: Path, tmp_path: Path) -> None:
    """--json has the paths of all files, and what had to be fetched."""
    run("pull", model, tmp_path / "to", "--allow", "*.json")
    done = run("pull", model, tmp_path / "to", "--json")
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["files"] == sorted(str(tmp_path / "to" / name) for name in SIZES)
    assert (found["fetched_files"], found["fetched_bytes"]) == (1, 300_000)
    assert found["directory"] == str(tmp_path / "to")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("missing", "to"), 1, "does not exist"),
        (("m",), 2, "DIRECTORY"),
        (("m", "m"), 2, "another directory"),
        (("m", "s3://b/to"), 2, "local directory"),
        (("ftp://m/m", "to"), 2, "ftp"),
        (("m", "n/file"), 1, "something else of that name"),
        (("m", "to", "--memory-limit", "some"), 2, "some"),
    ],
)
def test_what_cannot_be(
    words: tuple[str, ...], code: int, said: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mistakes end with 2, failures with 1, and one paragraph says what to do."""
    monkeypatch.chdir(model.parent)
    write_files(model.parent / "n", {"file": 5})
    done = run("pull", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_from_a_store(seaweedfs: SeaweedFS, tmp_path: Path) -> None:
    """With --storage-option a store's prefix becomes a directory that loads."""
    seaweedfs.create_bucket("pulled")
    upload_checkpoint("llama-tiny", "s3://pulled/tiny", shards=3, storage_options=seaweedfs.storage_options)
    done = run("pull", "s3://pulled/tiny", tmp_path / "to", *as_arguments(seaweedfs.storage_options))
    assert (done.returncode, done.stderr) == (0, "")
    assert "39 tensors" in run("load", tmp_path / "to", "-q", "--framework", "numpy").stdout


def test_a_bar_on_a_terminal(model: Path, tmp_path: Path) -> None:
    """On a terminal a bar is drawn while it pulls, and the summary stands in the lines after it."""
    code, screen = run_on_terminal("pull", model, tmp_path / "to")
    assert code == 0
    assert "pulling" in screen or "opening" in screen
    assert "302.60 kB in 3 files" in screen[screen.rindex("\x1b[2K") :]


def test_hostile_names(tmp_path: Path) -> None:
    """A directory's name is shown and not obeyed."""
    write_files(tmp_path / "m", {"a.json": 5})
    done = run("pull", tmp_path / "m", tmp_path / "[bold]\x1b[31mto")
    assert done.returncode == 0
    assert_harmless(done.stdout)
    assert r"[bold]\x1b[31mto" in done.stdout


def test_waiting_is_told(tmp_path: Path) -> None:
    """Who waits for another process that pulls into the directory says so."""
    (tmp_path / "served").mkdir()
    with RangeServer(tmp_path / "served") as server:
        served: Served = serve_files(server, tmp_path / "served", SIZES)
        server.set_faults(Faults(Hold(when=When(path="model.safetensors", numbers=(2, 3, 4, 5)))))
        with start_child(served.url, tmp_path / "to") as first:
            server.wait_held(4)
            code, screen = _pull_until_it_waits(served, tmp_path / "to")
            assert isinstance(hear(first), dict)
    assert code == 0
    assert "waiting for another process" in screen


def _pull_until_it_waits(served: Served, directory: Path) -> tuple[int, str]:
    """Runs the command, and lets the other process go on once it says that it waits."""
    with subprocess.Popen(
        command("pull", served.url, directory), stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        served.server.release()
        said += process.stderr.read()
    return process.returncode, said
