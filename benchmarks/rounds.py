"""What the benchmark programs share: checkpoints to load, rounds in which all take turns, and the record of samples."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from contenders import Contender, Job
from sample import Sample

DATA = Path(__file__).resolve().parent / "data"
CONSOLE = Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 170)
T = TypeVar("T")


def turns(rows: Sequence[T], rounds: int) -> Iterator[tuple[int, T]]:
    """Every row once a round, each round beginning with the next one."""
    for number in range(rounds):
        first = number % max(1, len(rows))
        for row in (*rows[first:], *rows[:first]):
            yield number, row


def check_completeness(model: Path, names: str | None, sample: Sample) -> None:
    """Refuses a sample of a loader that did not hand out exactly the model's tensors.

    Raises:
        RuntimeError: it handed out more or fewer tensors or bytes than the headers of the files describe.
    """
    expected = describe_tensors(model, names)
    if (sample.tensors, sample.bytes) != expected:
        raise RuntimeError(f"handed out {sample.tensors} tensors, {sample.bytes} bytes; there are {expected}")


@cache
def describe_tensors(model: Path, names: str | None) -> tuple[int, int]:
    """How many tensors a model has under these names, and their bytes; by its headers, and by no loader."""
    count = nbytes = 0
    for path in Job(model).files:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__" and (names is None or fnmatchcase(name, names)):
                count += 1
                nbytes += tensor["data_offsets"][1] - tensor["data_offsets"][0]
    return count, nbytes


def synthesize(layout: str, target: Path, *settings: str) -> None:
    """Writes a synthetic checkpoint, unless it is there."""
    if target.exists():
        return
    CONSOLE.print(f"writing {layout} to {target} ...", highlight=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(target.name + ".unfinished")
    program = "from slipstream.cli.main import main; main()"
    subprocess.run([sys.executable, "-c", program, "synth", layout, str(unfinished), *settings], check=True)
    unfinished.rename(target)


def describe_machine() -> dict[str, str]:
    """What the figures depend on, beside the code."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "kernel": platform.release(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {memory:.0f} GiB",
        "Python": platform.python_version(),
        "numpy": version("numpy"),
        "torch": version("torch"),
    }


def progress_bar() -> Progress:
    """A bar on a terminal; elsewhere only the plain lines that are printed beside it."""
    bar = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(
        TextColumn("{task.description}"), *bar, console=CONSOLE, disable=not CONSOLE.is_terminal, refresh_per_second=2
    )


def write_sample(
    log: IO[str] | None, context: dict[str, Any], contender: Contender, number: int, sample: Sample
) -> None:
    """Appends one sample to the JSON lines, beside what tells it from others."""
    if log is None:
        return
    line = {
        "contender": contender.name,
        "version": contender.version,
        "round": number,
        "unix_time": round(time.time(), 3),
        "gigabytes_per_second": sample.gigabytes_per_second,
        "cpu_seconds_per_gigabyte": sample.cpu_seconds_per_gigabyte,
        **asdict(sample),
        **context,
    }
    print(json.dumps(line), file=log, flush=True)
