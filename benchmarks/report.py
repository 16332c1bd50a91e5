"""What people see: one table per scenario, and whether what is asked of slipstream was reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median

from rich.console import Console
from rich.table import Table

from contenders import FLOORS, PEERS
from sample import Sample
from scenarios import ImportTimes, Medians, Scenario, Target, best


def median_sample(taken: Sequence[Sample]) -> Sample:
    """The median of each measure by itself, but of memory the most that any sample took."""
    return replace(
        taken[-1],
        seconds=median(sample.seconds for sample in taken),
        first_tensor_seconds=median(sample.first_tensor_seconds for sample in taken),
        touch_seconds=median(sample.touch_seconds for sample in taken),
        cpu_seconds=median(sample.cpu_seconds for sample in taken),
        peak_bytes=max(sample.peak_bytes for sample in taken),
    )


def print_scenario(console: Console, scenario: Scenario, samples: Mapping[str, Sequence[Sample]]) -> None:
    """Prints a scenario's table, medians of its rounds, and its targets."""
    medians = {name: median_sample(taken) for name, taken in samples.items() if taken}
    peer, floor = best(medians, PEERS), best(medians, FLOORS)
    table = Table(title=scenario.title, title_justify="left", title_style="bold")
    table.add_column("loader", no_wrap=True)
    columns = ["seconds", "min - max", "GB/s", "first tensor", "CPU s/GB", "peak memory"]
    if scenario.model == "small":
        columns += ["tensors/s", "touch s"]
    columns += ["/ best peer"] * (peer is not None) + ["of floor"] * (floor is not None)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for contender in scenario.contenders:
        if contender.name not in medians:
            continue
        row = medians[contender.name]
        cells = _cells(row, samples[contender.name], first_tensor=contender.role != "floor")
        if scenario.model == "small":
            cells += [f"{row.tensors / row.seconds:,.0f}", f"{row.touch_seconds:.2f}"]
        if peer is not None:
            cells.append(f"{row.seconds / peer.seconds:.2f} x")
        if floor is not None:
            cells.append(f"{floor.seconds / row.seconds:.2f}")
        mark = " *" if row is peer or row is floor else ""
        table.add_row(contender.name + mark, *cells, style="bold" if contender.role == "slipstream" else None)
    console.print(table)
    stars = [text for text, found in (("the best peer", peer), ("the fastest raw reader, the floor", floor)) if found]
    legend = "; ".join(["medians; of memory the most", *(["* " + " and ".join(stars)] if stars else [])])
    console.print(legend, style="dim")
    _print_notes(console, medians)
    _print_targets(console, scenario.targets(medians))


def print_import(console: Console, times: ImportTimes) -> None:
    """Prints what `import slipstream` takes."""
    table = Table(title="Import: a fresh interpreter", title_justify="left", title_style="bold")
    table.add_column("what")
    table.add_column("milliseconds", justify="right")
    table.add_row("import slipstream, by -X importtime", f"{times.importtime_ms:.1f}")
    table.add_row("python -c 'import slipstream'", f"{times.process_ms:.1f}")
    table.add_row("python -c pass", f"{times.empty_process_ms:.1f}")
    console.print(table)
    _print_targets(console, times.targets())


def _cells(row: Sample, taken: Sequence[Sample], *, first_tensor: bool) -> list[str]:
    seconds = [sample.seconds for sample in taken]
    return [
        f"{row.seconds:.3f}",
        f"{min(seconds):.3f} - {max(seconds):.3f}",
        f"{row.gigabytes_per_second:.2f}",
        f"{row.first_tensor_seconds:.3f}" if first_tensor else "",
        f"{row.cpu_seconds_per_gigabyte:.3f}",
        f"{row.peak_bytes / 1e9:.2f} GB" if row.peak_bytes >= 1e9 else f"{row.peak_bytes / 2**20:.0f} MiB",
    ]


def _print_notes(console: Console, medians: Medians) -> None:
    for name, sample in medians.items():
        for note in (*sample.notes.get("strategies", ()), *sample.notes.get("fallbacks", ())):
            console.print(f"{name}: {note}", style="dim", markup=False)


def _print_targets(console: Console, targets: Sequence[Target]) -> None:
    words = {True: "[green]reached[/]", False: "[red]missed[/]", None: "[yellow]not measured[/]"}
    for target in targets:
        bound = f"at most {target.most:g}" if target.most is not None else f"at least {target.least:g}"
        figure = "" if target.measured is None else f"{target.measured:,.3f}, "
        console.print(f"  {words[target.met]}  {target.text}: {figure}{bound}", highlight=False)
    console.print()
