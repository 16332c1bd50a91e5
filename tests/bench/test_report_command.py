"""`slipstream bench report` and `slipstream bench compare`, as a user runs them."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from slipstream.bench.records import format_record
from tests.bench.synthetic_results import awkward, gp3, lost, s3, write
from tests.cli.process import assert_harmless, environment, run


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return write(tmp_path / "results.jsonl", gp3(rounds=1))


def without_matplotlib(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = "import sys; sys.modules['matplotlib'] = None; from slipstream.cli.main import main; main()"
    command = [sys.executable, "-P", "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)


def test_report_writes_everything(results: Path, tmp_path: Path) -> None:
    """It writes Markdown, a page and each chart twice, beside the results, and says what slipstream reached."""
    done = run("bench", "report", results)
    assert (done.returncode, done.stderr) == (0, "")
    written = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "report").rglob("*") if path.is_file())
    charts = [f"report/charts/gp3-llama-3-8b-cpu-{name}" for name in
              ("by-loader", "time-by-concurrency", "time-by-loader")]  # fmt: skip
    assert written == sorted(
        [f"{chart}.{kind}" for chart in charts for kind in ("png", "svg")] + ["report/report.html", "report/report.md"]
    )
    assert "gp3 · llama-3-8b, 8 layers (5.59 GB) → cpu: 5." in done.stdout
    assert "3 charts" in done.stdout
    markdown = (tmp_path / "report" / "report.md").read_text()
    for chart in charts:
        assert f"(charts/{Path(chart).name}.png)" in markdown


def test_several_files_are_one_report(results: Path, tmp_path: Path) -> None:
    """Several files, also compressed, are reported together, where --output says, under the title that is given."""
    packed = tmp_path / "more.jsonl.gz"
    with gzip.open(packed, "wt") as file:
        file.writelines(format_record(record) + "\n" for record in s3(rounds=1))
    done = run(
        "bench", "report", results, packed, "--output", tmp_path / "a" / "b", "--title", "Ours <1>", "--no-charts"
    )
    assert (done.returncode, done.stderr) == (0, "")
    text = (tmp_path / "a" / "b" / "report.md").read_text()
    assert text.startswith("# Ours \\<1\\>\n")
    assert "Appendix A, GP3 SSD" in text
    assert "Appendix C, Amazon S3" in text
    assert not (tmp_path / "a" / "b" / "charts").exists()


def test_hostile_names_do_no_harm(tmp_path: Path) -> None:
    """Names out of results cannot harm the terminal."""
    done = run("bench", "report", write(tmp_path / "r.jsonl", awkward()), "--no-charts")
    assert done.returncode == 0
    assert_harmless(done.stdout)


def test_a_second_report_replaces_the_first(results: Path) -> None:
    """Written again, the files are the same to the byte, and nothing else is left beside them."""
    folder = results.parent / "report"
    contents = []
    for _ in range(2):
        assert run("bench", "report", results).returncode == 0
        contents.append({path: path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert contents[0] == contents[1]


def test_matplotlib_is_named_where_it_is_missing(results: Path) -> None:
    """Without matplotlib it says how to install it, writes nothing, and does the rest without charts."""
    done = without_matplotlib("bench", "report", results)
    assert done.returncode == 1
    assert 'pip install "slipstream[bench]"' in " ".join(done.stderr.split())
    assert not (results.parent / "report").exists()
    assert without_matplotlib("bench", "report", results, "--no-charts").returncode == 0


def test_unusable_files(tmp_path: Path) -> None:
    """Files that are not there or hold something else end a report with 1 and a comparison with 2, and are named."""
    other = tmp_path / "other.jsonl"
    other.write_text("no JSON\n")
    for path in (other, tmp_path / "absent.jsonl"):
        done = run("bench", "report", path)
        assert (done.returncode, done.stdout) == (1, "")
        assert path.name in done.stderr
        done = run("bench", "compare", path, path)
        assert (done.returncode, done.stdout) == (2, "")
        assert path.name in done.stderr


def test_unwritable_place(results: Path) -> None:
    """A report that cannot be written says where and what to do."""
    done = run("bench", "report", results, "--no-charts", "--output", results / "below-a-file")
    assert done.returncode == 1
    assert "--output" in done.stderr
    assert "Traceback" not in done.stderr


def test_compare_says_what_got_slower(tmp_path: Path) -> None:
    """Exit code 1 and a table where slipstream got slower, 0 where nothing did; either way round."""
    first = write(tmp_path / "a.jsonl", gp3(run="a", seed=1))
    second = write(tmp_path / "b.jsonl", gp3(run="b", seed=2, slower=1.2))
    done = run("bench", "compare", first, second)
    assert (done.returncode, done.stderr) == (1, "")
    assert "slipstream, concurrency 16" in done.stdout
    assert "22 comparisons: 5 slower" in done.stdout
    assert run("bench", "compare", second, first).returncode == 0
    assert run("bench", "compare", first, second, "--least", "50").returncode == 0


def test_compare_as_json(tmp_path: Path) -> None:
    """--json prints one object and nothing else, with the same exit code; a lost loader counts."""
    records = gp3(rounds=3)
    first = write(tmp_path / "a.jsonl", records)
    gone = [lost(each, "failed", "no") if each.contender == "runai" else each for each in records]
    done = run("bench", "compare", first, write(tmp_path / "b.jsonl", gone), "--json")
    assert done.returncode == 1
    data = json.loads(done.stdout)
    assert {each["change"] for each in data["differences"] if each["contender"] == "runai"} == {"no longer runs"}
    assert data["slower"] == 5
    assert "no longer runs: no" in run("bench", "compare", first, tmp_path / "b.jsonl").stdout


def test_exit_codes_and_method_are_documented() -> None:
    """--help of compare says how noise is accounted for and what the exit codes mean."""
    text = " ".join(run("bench", "compare", "--help").stdout.split())
    assert "90 % interval" in text
    assert "Exit codes: 0 where nothing got slower; 1" in text


def test_help_loads_none_of_the_benchmark() -> None:
    """The command line's own modules import neither the benchmark nor matplotlib."""
    program = "import sys, slipstream.cli.main; print(*(n for n in sys.modules if 'bench' in n or 'matplotlib' in n))"
    command = [sys.executable, "-P", "-c", program]
    loaded = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True).stdout.split()
    assert [name for name in loaded if not name.startswith("slipstream.cli.")] == []
