"""How commands end: exit codes, the error paragraph, Ctrl-C, closed pipes."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

import slipstream
from slipstream.cli.main import app
from slipstream.errors import ReadError
from slipstream.testing.checkpoints import write_safetensors
from tests.cli.process import assert_harmless, command, environment, run, run_on_terminal


def assert_one_paragraph(errors: str) -> None:
    """Holds that it is one paragraph that begins with "error:", in lines of at most 100 characters of prose."""
    assert errors.startswith("error: ")
    assert errors.endswith("\n")
    assert "\n\n" not in errors
    assert "Traceback" not in errors
    assert_harmless(errors)


@pytest.mark.parametrize("name", ["load", "inspect", "plan"])
def test_missing_path(name: str, tmp_path: Path) -> None:
    """A path that is not there ends with 1 and a paragraph that names it, and prints nothing on stdout."""
    done = run(name, tmp_path / "nothing-here", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_paragraph(done.stderr)
    assert "nothing-here" in done.stderr


@pytest.mark.parametrize("arguments", [("load", "--framework", "numpy"), ("inspect",), ("plan",)])
def test_damaged_file(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """A truncated file ends with 1 and a paragraph that names it."""
    path = tmp_path / "cut.safetensors"
    write_safetensors(path, {"a": ("F32", [100], bytes(400))})
    os.truncate(path, path.stat().st_size - 1)
    done = run(*arguments, path)
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_paragraph(done.stderr)
    assert "cut.safetensors" in done.stderr.replace("\n", "")


def test_hostile_name_in_an_error(tmp_path: Path) -> None:
    """A tensor's name in an error message is escaped like any other."""
    path = tmp_path / "a.safetensors"
    header = b'{"\\u001b[31m[bold]\\n":{"dtype":"F32","shape":[1],"data_offsets":[0,400]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(400))
    done = run("inspect", path)
    assert done.returncode == 1
    assert_one_paragraph(done.stderr)


def test_unmatched_name(tiny: Path) -> None:
    """A glob that no tensor matches is an error, not an empty load."""
    done = run("load", tiny, "--names", "lm_haed.weight", "--json", "--framework", "numpy")
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_paragraph(done.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ("load",),
        ("load", "x", "--no-such-option"),
        ("load", "x", "--strategy", "magic"),
        ("load", "x", "--framework", "caffe"),
        ("synth", "llama-tiny", "x", "--layers", "many"),
        ("nonsense",),
    ],
)
def test_usage_that_the_parser_refuses(arguments: tuple[str, ...]) -> None:
    """A missing argument, an unknown option, command or choice ends with 2, without a traceback."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert "Usage" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--concurrency", "0"), "concurrency"),
        (("--concurrency", "many"), "concurrency"),
        (("--chunk-bytes", "1"), "chunk_bytes"),
        (("--chunk-bytes", "8 bytes"), "8 bytes"),
        (("--memory-limit", "-5"), "-5"),
        (("--memory-limit", "0"), "memory_limit"),
    ],
)
def test_settings_that_cannot_work(tiny: Path, arguments: tuple[str, str], said: str) -> None:
    """A setting that cannot work ends with 2 and a paragraph that names it."""
    done = run("load", tiny, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert_one_paragraph(done.stderr)
    assert said in done.stderr


def test_unknown_variable(tiny: Path) -> None:
    """A variable that is no setting ends with 2: a misspelt one is never silently ignored."""
    done = run("load", tiny, env={"SLIPSTREAM_CONCURENCY": "8"})
    assert done.returncode == 2
    assert_one_paragraph(done.stderr)
    assert "SLIPSTREAM_CONCURENCY" in done.stderr


def test_debug_adds_the_traceback(tmp_path: Path) -> None:
    """--debug shows the traceback before the paragraph, with the same exit code."""
    done = run("inspect", tmp_path / "nothing", "--debug")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "\nerror: " in done.stderr


def test_further_failures_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The notes attached to an error, which are the failures that came after it, follow it as paragraphs."""

    def fail(uri: str, **settings: object) -> None:
        error = ReadError("the disk failed")
        error.add_note("another read failed, too")
        raise error

    monkeypatch.setattr(slipstream, "inspect", fail)
    result = CliRunner().invoke(app, ["inspect", "x"])
    assert result.exit_code == 1
    assert result.stderr.splitlines() == ["error: the disk failed", "also: another read failed, too"]


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends with 130 and without words."""

    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(slipstream, "stream", interrupt)
    result = CliRunner().invoke(app, ["load", ".", "-q", "--framework", "numpy"])
    assert (result.exit_code, result.output) == (130, "")


def test_our_own_bugs_are_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that is not of slipstream's tree stays one, so that its traceback is seen."""

    def fail(uri: str, **settings: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(slipstream, "inspect", fail)
    assert isinstance(CliRunner().invoke(app, ["inspect", "x"]).exception, ZeroDivisionError)


def test_reader_that_closes_the_pipe(tmp_path: Path) -> None:
    """`slipstream inspect | head -1` ends quietly, whatever is left to print."""
    write_safetensors(tmp_path / "a.safetensors", {f"tensor.{n:06}": ("U8", [0], b"") for n in range(20_000)})
    with subprocess.Popen(
        command("inspect", tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().split() == [b"dtype", b"size", b"shape", b"tensor"]
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("arguments", [("load", "-q", "--framework", "numpy"), ("plan",), ("inspect", "--json")])
def test_pipe_that_is_closed_from_the_start(tiny: Path, arguments: tuple[str, ...]) -> None:
    """A reader that is gone before the first byte is no error either."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command(*arguments, tiny), stdout=writing, stderr=subprocess.PIPE, env=environment(), check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_output_that_is_closed(tiny: Path) -> None:
    """Run without a standard output, as by `>&-`, a command does its work and prints nothing."""
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", *command("load", tiny, "-q", "--framework", "numpy")]
    done = subprocess.run(shell, stderr=subprocess.PIPE, env=environment(), check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("arguments", [("load", "-q", "--framework", "numpy"), ("inspect",)])
def test_output_on_a_full_disk(tiny: Path, arguments: tuple[str, ...]) -> None:
    """Output that cannot be written is an error in words."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command(*arguments, tiny), stdout=full, stderr=subprocess.PIPE, text=True, env=environment(), check=False
        )
    assert done.returncode == 1
    assert_one_paragraph(done.stderr)
    assert "disk is full" in done.stderr


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_paragraph_fits_the_terminal(tmp_path: Path, columns: int) -> None:
    """On a terminal the paragraph is wrapped between words to its width, at most 100 columns; paths stay whole."""
    path = tmp_path / "cut.safetensors"
    path.write_bytes(b"\x08\0\0\0\0\0\0\0short")
    code, screen = run_on_terminal("inspect", path, columns=columns)
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in screen.splitlines()]
    assert code == 1
    assert all(len(line) <= min(columns, 100) or " " not in line.strip() for line in lines)
    assert lines[0].startswith("error:")


def test_version_and_help_load_no_framework() -> None:
    """--version and --help answer without loading torch or numpy."""
    for flag in ("--version", "--help"):
        done = subprocess.run(
            [command()[0], "-X", "importtime", *command(flag)[1:]],
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
        )
        assert done.returncode == 0
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "slipstream.cli.main" in imported
        assert not imported & {"torch", "numpy"}
    assert re.fullmatch(r"slipstream \d+\.\d+\.\d+\S*\n", run("--version").stdout)


@pytest.mark.parametrize("name", ["load", "inspect", "plan", "synth"])
def test_help_names_every_option(name: str) -> None:
    """Each command's help fits 80 columns and names its options."""
    done = run(name, "--help", env={"COLUMNS": "80"})
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "--debug" in done.stdout
