"""`slipstream load`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.process import assert_harmless, run, run_on_terminal

NUMPY = ("--framework", "numpy")


def test_json_is_the_stats_and_nothing_else(tiny: Path) -> None:
    """--json prints one object with every figure of LoadStats on stdout, and not a byte on stderr."""
    done = run("load", tiny, "--json", *NUMPY)
    assert (done.returncode, done.stderr) == (0, "")
    stats = json.loads(done.stdout)
    assert (stats["bytes"], stats["tensors"]) == (8_000_000, 39)
    assert stats["gigabytes_per_second"] == pytest.approx(stats["bytes"] / stats["seconds"] / 1e9)
    assert set(stats) >= {"first_tensor_seconds", "cpu_seconds", "reads", "fallbacks", "peak_buffer_bytes"}
    assert [set(file) for file in stats["files"]] == [{"uri", "strategy", "reason", "bytes"}] * 3
    assert sum(file["bytes"] for file in stats["files"]) == 8_000_000


def test_summary_for_people(tiny: Path) -> None:
    """Without --json the summary names bytes, tensors, rate, CPU, each file, its strategy and the reason."""
    done = run("load", tiny, "-q", "--strategy", "buffered", *NUMPY)
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("8.00 MB in 39 tensors", "GB/s", "per GB", "first tensor", "model-00003-of-00003", "buffered"):
        assert words in done.stdout


@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_frameworks(tiny: Path, framework: str) -> None:
    """Both frameworks load all tensors."""
    assert json.loads(run("load", tiny, "--json", "--framework", framework).stdout)["tensors"] == 39


def test_names_may_be_given_several_times(tiny: Path) -> None:
    """Each --names adds the tensors that match its glob, and only their bytes are loaded."""
    done = run("load", tiny, "--json", *NUMPY, "--names", "*.0.*norm.weight", "--names", "lm_head.weight")
    stats = json.loads(done.stdout)
    assert stats["tensors"] == 3
    assert stats["bytes"] == 2 * (2 * 256 + 2048 * 256)


def test_several_uris_are_one_checkpoint(tiny: Path) -> None:
    """Files given one by one are loaded together."""
    done = run("load", *sorted(tiny.glob("*.safetensors")), "--json", *NUMPY)
    assert json.loads(done.stdout)["tensors"] == 39


def test_settings_reach_the_engine(tiny: Path) -> None:
    """A smaller chunk means more reads; a memory limit bounds the buffers; a forced strategy is the one used."""
    settings = ("--strategy", "direct", "--concurrency", "2", "--chunk-bytes", "64KiB", "--memory-limit", "4MiB")
    stats = json.loads(run("load", tiny, "--json", *NUMPY, *settings).stdout)
    assert stats["reads"] > 8_000_000 // 65536
    assert 0 < stats["peak_buffer_bytes"] <= 4 << 20
    assert {file["strategy"] for file in stats["files"]} == {"direct"}


def test_settings_from_the_environment(tiny: Path) -> None:
    """A variable steers what no argument does, and an argument goes before it."""
    env = {"SLIPSTREAM_STRATEGY": "buffered"}
    for arguments, strategy in (((), "buffered"), (("--strategy", "direct"), "direct")):
        stats = json.loads(run("load", tiny, "--json", *NUMPY, *arguments, env=env).stdout)
        assert {file["strategy"] for file in stats["files"]} == {strategy}


@pytest.mark.parametrize("columns", [80, 120])
def test_bar_on_a_terminal(tiny: Path, columns: int) -> None:
    """On a terminal a bar is drawn and taken away again, and the summary stands in the lines after it."""
    code, screen = run_on_terminal("load", tiny, *NUMPY, columns=columns)
    assert code == 0
    assert "reading" in screen
    assert "━" in screen
    assert "of 8.00 MB" in screen
    after_bar = screen[screen.rindex("━") :]
    assert "\x1b[2K" in after_bar  # the bar's line is erased
    assert "8.00 MB in 39 tensors" in after_bar


def test_no_bar_with_json_or_quiet(tiny: Path) -> None:
    """--json and -q draw no bar, even on a terminal."""
    for flag in ("--json", "-q"):
        assert "━━━━━━" not in run_on_terminal("load", tiny, *NUMPY, flag)[1].partition("loaded")[0]


def test_quick_load_prints_no_progress_lines(tiny: Path) -> None:
    """Where there is no terminal, a load that is over in a moment prints no progress at all."""
    assert run("load", tiny, *NUMPY).stderr == ""


def test_hostile_file_name(hostile: Path) -> None:
    """Control characters and markup in a file's name are shown, not obeyed."""
    done = run("load", hostile, *NUMPY)
    assert done.returncode == 0
    assert_harmless(done.stdout)
    assert r"[bold]\x1b[31m.safetensors" in done.stdout


def test_cast_through_a_ring(tiny: Path) -> None:
    """--dtype casts on the way, through a ring whose size can be given, and the summary tells of the ring."""
    stats = json.loads(run("load", tiny, "--json", *NUMPY, "--dtype", "float32", "--ring-bytes", "1MiB").stdout)
    assert stats["bytes"] == 8_000_000
    assert 0 < stats["ring_bytes"] <= 1 << 20
    assert stats["copies"] > 8
    assert stats["peak_buffer_bytes"] <= 16_100_000  # twice as wide, and aligned
    done = run("load", tiny, "-q", *NUMPY, "--staging")
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("ring", "out of it"):
        assert words in done.stdout
    assert "ring" not in run("load", tiny, "-q", *NUMPY).stdout


def test_a_device_that_is_not_there(tiny: Path) -> None:
    """A device that cannot be delivered to is wrong usage, in one paragraph that says what to do instead."""
    done = run("load", tiny, "--json", "--device", "cuda:99")
    assert done.returncode == 2
    assert "there is no cuda:99" in done.stderr
    assert "Traceback" not in done.stderr
