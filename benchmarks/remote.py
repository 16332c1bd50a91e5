"""How fast model weights come over HTTP into memory: slipstream, Run:ai's S3 client, and plain receivers as the floor.

    python benchmarks/remote.py [--layers 8] [--rounds 3] [--scenarios plain,tls,limited,...] [--quick] [--json OUT]

Every server runs on loopback, started and ended by this program (remote_servers.py): nginx, SeaweedFS, and the test
suite's own range server where requests shall fail. What they serve is in the page cache, so the network and the
processors, which the servers share with the clients, are the limit.

As in local.py every sample is taken in a fresh process (sample.py) from a settled memory; the rows of a table
(remote_scenarios.py) take turns within a round, each round beginning with another one; figures are medians.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import median
from typing import IO, Any

from rich.table import Table

from contenders import Job
from page_cache import settle_memory
from remote_scenarios import REMOTE_SCENARIOS, RemoteScenario, Row
from remote_servers import Ground, ModelServer
from report import print_speeds, print_targets, take_medians
from rounds import CONSOLE, DATA, check_completeness, describe_machine, progress_bar, synthesize, turns, write_sample
from sample import Sample, Spec, take_sample
from slipstream.testing.layouts import find_layout
from slipstream.testing.servers import ServerError
from slipstream.testing.synthetic import write_checkpoint

SHARDS = 64


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a directory of safetensors files or one file; made if missing")
    parser.add_argument("--layers", type=int, default=8, help="of the llama-3-8b that is made; 8 (default): 5.6 GB")
    parser.add_argument("--rounds", type=int, default=3, help="samples of each row")
    parser.add_argument("--quick", action="store_true", help="one round with one layer: whether it works, no figures")
    names = ",".join(REMOTE_SCENARIOS)
    parser.add_argument("--scenarios", default=names, help=f"default: {names}")
    parser.add_argument("--rows", nargs="+", metavar="GLOB", help='only rows with such a name, e.g. slipstream "curl*"')
    parser.add_argument("--sweep", action="store_true", help="fixed concurrencies of slipstream in more tables")
    parser.add_argument("--json", type=Path, help="append every sample to this file, one JSON object a line")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.layers, arguments.rounds = 1, 1
    unknown = [name for name in arguments.scenarios.split(",") if name not in REMOTE_SCENARIOS]
    if unknown:
        parser.error(f"unknown scenario {unknown[0]}; there are {names}")
    if arguments.rounds < 1:
        parser.error("--rounds is at least 1")
    return arguments


def main() -> None:
    """Makes what is missing, runs the scenarios, and prints a table for each as it ends."""
    arguments = parse_arguments()
    scenarios = [REMOTE_SCENARIOS[name] for name in arguments.scenarios.split(",")]
    models = {
        "large": arguments.model or DATA / f"llama-3-8b-{arguments.layers}-layers",
        "shards": DATA / f"{SHARDS}-shards",
    }
    if any(scenario.model == "large" for scenario in scenarios):
        synthesize("llama-3-8b", models["large"], "--layers", str(arguments.layers))
    if any(scenario.model == "shards" for scenario in scenarios):
        write_shards(models["shards"])
    machine = describe_machine()
    CONSOLE.print(", ".join(f"{key} {value}" for key, value in machine.items()), style="dim", highlight=False)
    failed: set[str] = set()
    with arguments.json.open("a") if arguments.json else nullcontext() as log:
        for scenario in scenarios:
            model = models[scenario.model]
            rows = choose_rows(scenario, arguments.rows, sweep=arguments.sweep)
            context = {"scenario": scenario.name, "model": model.name, "machine": machine}
            try:
                samples = run_scenario(scenario, rows, model, arguments.rounds, log, context)
            except (ServerError, FileNotFoundError) as error:
                failed.add(scenario.name)
                CONSOLE.print(f"{scenario.name}: {error}", style="red", markup=False)
                continue
            failed |= {row.name for row in rows if len(samples[row.name]) < arguments.rounds}
            report(scenario, rows, samples)
    if failed:
        sys.exit(f"failed at least once: {', '.join(sorted(failed))}")


def write_shards(target: Path) -> None:
    """Writes a small checkpoint in as many files as a large one has, unless it is there."""
    if not target.exists():
        write_checkpoint(replace(find_layout("llama-tiny"), layers=SHARDS), target, shards=SHARDS)


def choose_rows(scenario: RemoteScenario, wanted: Sequence[str] | None, *, sweep: bool) -> list[Row]:
    """Those that are wanted and can run here, with a line for each that cannot."""
    chosen = []
    for row in scenario.rows:
        if row.sweep and not sweep:
            continue
        if wanted and not any(fnmatchcase(row.name, pattern) for pattern in wanted):
            continue
        if row.contender.installed:
            chosen.append(row)
        else:
            CONSOLE.print(f"{scenario.name}: without {row.name}, which is not installed", style="yellow")
    return chosen


def run_scenario(
    scenario: RemoteScenario,
    rows: Sequence[Row],
    model: Path,
    rounds: int,
    log: IO[str] | None,
    context: dict[str, Any],
) -> dict[str, list[Sample]]:
    """Starts the scenario's servers, takes its samples, and ends the servers.

    Raises:
        ServerError, FileNotFoundError: a server did not start.
    """
    samples: dict[str, list[Sample]] = {row.name: [] for row in rows}
    with ExitStack() as stack:
        progress = stack.enter_context(progress_bar())
        task = progress.add_task(f"{scenario.name}: starting servers", total=None)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slipstream-benchmark-")))

        def show_upload(sent: int, total: int) -> None:
            text = f"{scenario.name}: uploading, {sent / 1e9:.1f} of {total / 1e9:.1f} GB"
            if progress.tasks[task].description != text:
                progress.update(task, description=text)

        ground = Ground(model, scratch, DATA, show_upload)
        servers = {
            name: stack.enter_context(closing(start(ground)))
            for name, start in scenario.servers.items()
            if any(row.server == name for row in rows)
        }
        progress.update(task, total=rounds * len(rows))
        for number, row in turns(rows, rounds):
            place = f"{scenario.name}, round {number + 1} of {rounds}: {row.name}"
            progress.update(task, description=place)
            try:
                sample = run_once(scenario, row, servers[row.server], model, number)
            except RuntimeError as error:
                CONSOLE.print(f"{place}: {error}", style="red", markup=False)
            else:
                samples[row.name].append(sample)
                CONSOLE.print(f"{place}: {sample.seconds:.3f} s", style="dim", highlight=False)
                write_sample(log, {**context, "row": row.name}, row.contender, number, sample)
            finally:
                progress.advance(task)
    return samples


def run_once(scenario: RemoteScenario, row: Row, server: ModelServer, model: Path, number: int) -> Sample:
    """Takes one sample: from a settled memory, of what the server has in its page cache.

    Raises:
        RuntimeError: the contender failed, or did not hand out what the model has.
    """
    nbytes = sum(path.stat().st_size for path in Job(model).files)
    needs_memory = scenario.shows != "headers" and not row.contender.discards
    address = server.begin(number)
    spec = Spec(
        row.contender.name,
        str(model),
        uris=address.urls if row.role == "floor" else address.uris,
        storage_options=address.storage_options,
        environment=address.environment,
        verify=row.verify,
    )
    sample = take_sample(spec, lambda: settle_memory(nbytes) if needs_memory else None)
    sample.notes.update(server.end())
    if row.role != "floor" and scenario.shows == "speed":
        check_completeness(model, None, sample)
    return sample


def report(scenario: RemoteScenario, rows: Sequence[Row], samples: dict[str, list[Sample]]) -> None:
    """Prints the scenario's table, what it noted, and its targets."""
    match scenario.shows:
        case "speed":
            print_speeds(CONSOLE, scenario.title, rows, samples, above_model=True)
            print_network_notes(rows, samples)
        case "headers":
            print_headers(scenario, rows, samples)
        case "lock":
            print_lock(scenario, rows, samples)
    print_targets(CONSOLE, scenario.targets(take_medians(samples)))


def print_network_notes(rows: Sequence[Row], samples: dict[str, list[Sample]]) -> None:
    """Prints what slipstream says of its requests, and the server of what it did to them; over the rounds."""
    for row in rows:
        noted = [sample.notes for sample in samples[row.name]]
        if row.role != "slipstream" or not noted:
            continue
        counts = {
            "most at once": "peak_concurrency", "connections": "connections", "requests": "requests",
            "retries": "retries", "second requests": "hedged",
        }  # fmt: skip
        parts = [f"{text} {', '.join(str(notes[key]) for notes in noted)}" for text, key in counts.items()]
        discarded = (f"{notes['discarded_bytes'] / 1e6:.0f}" for notes in noted)
        parts.append(f"MB discarded {', '.join(discarded)}")
        if any(notes.get("struck") for notes in noted):
            struck = ", ".join(f"{name} {count}" for name, count in sorted(noted[-1]["struck"].items()))
            parts.append(f"faults that struck (last round): {struck}")
        if row.verify:
            parts.append("every byte compared with the files: identical")
        CONSOLE.print(f"{row.name}: {'; '.join(parts)}", style="dim", markup=False, highlight=False)


def print_headers(scenario: RemoteScenario, rows: Sequence[Row], samples: dict[str, list[Sample]]) -> None:
    """Prints how long headers took, and what the server saw of it."""
    table = Table(title=scenario.title, title_justify="left", title_style="bold")
    table.add_column("what")
    for column in ("milliseconds", "min - max", "shards", "tensors", "requests", "connections"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        if taken := samples[row.name]:
            times = [sample.seconds * 1000 for sample in taken]
            notes = taken[-1].notes
            table.add_row(
                row.name, f"{median(times):.0f}", f"{min(times):.0f} - {max(times):.0f}",
                *map(str, notes["described"]), str(notes["served"]), str(notes["accepted"]),
            )  # fmt: skip
    CONSOLE.print(table)


def print_lock(scenario: RemoteScenario, rows: Sequence[Row], samples: dict[str, list[Sample]]) -> None:
    """Prints how long the interpreter lock was held for each GB, and how fast one process could be at most."""
    table = Table(title=scenario.title, title_justify="left", title_style="bold")
    table.add_column("slipstream, defaults")
    for column in ("GB/s", "CPU s/GB", "share of the time", "held s/GB", "min - max", "ceiling, GB/s"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        if not (taken := samples[row.name]):
            continue
        held = [sample.notes["held_seconds"] / (sample.bytes / 1e9) for sample in taken]
        shares = [sample.notes["held_seconds"] / sample.notes["watched_seconds"] for sample in taken]
        table.add_row(
            row.name,
            f"{median(sample.gigabytes_per_second for sample in taken):.2f}",
            f"{median(sample.cpu_seconds_per_gigabyte for sample in taken):.3f}",
            f"{median(shares):.1%}",
            f"{median(held):.3f}",
            f"{min(held):.3f} - {max(held):.3f}",
            f"{1 / median(held):.1f}",
        )
    CONSOLE.print(table)
    CONSOLE.print(
        "another process looks who holds the lock some thousand times a second (lock_probe.py). A holder that waits "
        "for a processor counts too: only the paced rows show the code alone. The ceiling is what one process could "
        "reach if nothing but the lock took time",
        style="dim",
    )


if __name__ == "__main__":
    main()
