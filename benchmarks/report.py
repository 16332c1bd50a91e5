"""What people see: one table per scenario, and whether what is asked of slipstream was reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Protocol

from rich.console import Console
from rich.table import Table

from contenders import Role
from sample import Sample
from scenarios import ImportTimes, Medians, Scenario, Target


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


class Row(Protocol):
    """What is in one line of a table: a contender, or one on a certain server."""

    @property
    def name(self) -> str:
        """As the table shows it."""
        ...

    @property
    def role(self) -> Role:
        """What it is compared as."""
        ...


def print_scenario(console: Console, scenario: Scenario, samples: Mapping[str, Sequence[Sample]]) -> None:
    """Prints a local scenario's table, medians of its rounds, and its targets."""
    medians = take_medians(samples)
    print_speeds(console, scenario.title, scenario.contenders, samples, many_tensors=scenario.model == "small")
    _print_notes(console, medians)
    print_targets(console, scenario.targets(medians))


def take_medians(samples: Mapping[str, Sequence[Sample]]) -> Medians:
    """Each row's median sample, of the rows that have any."""
    return {name: median_sample(taken) for name, taken in samples.items() if taken}


def print_speeds(
    console: Console,
    title: str,
    rows: Sequence[Row],
    samples: Mapping[str, Sequence[Sample]],
    *,
    many_tensors: bool = False,
    above_model: bool = False,
) -> None:
    """Prints one table of samples.

    Args:
        console: where.
        title: above it.
        rows: in their order; those without samples are left out.
        samples: by the row's name.
        many_tensors: whether tensors per second are shown.
        above_model: whether the peak memory beyond the tensors themselves is shown.
    """
    medians = take_medians(samples)
    peer, floor = (
        min((medians[row.name] for row in rows if row.role == role and row.name in medians), key=_seconds, default=None)
        for role in ("peer", "floor")
    )
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("loader", no_wrap=True)
    columns = ["seconds", "min - max", "GB/s", "first tensor", "CPU s/GB", "peak memory"]
    columns += ["above model"] * above_model
    columns += ["tensors/s", "touch s"] * many_tensors
    columns += ["/ best peer"] * (peer is not None) + ["of floor"] * (floor is not None)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        if row.name not in medians:
            continue
        sample = medians[row.name]
        cells = _cells(sample, samples[row.name], first_tensor=row.role != "floor")
        if above_model:
            cells.append(f"{(sample.peak_bytes - sample.bytes) / 2**20:.0f} MiB" if row.role != "floor" else "")
        if many_tensors:
            cells += [f"{sample.tensors / sample.seconds:,.0f}", f"{sample.touch_seconds:.2f}"]
        if peer is not None:
            cells.append(f"{sample.seconds / peer.seconds:.2f} x")
        if floor is not None:
            cells.append(f"{floor.seconds / sample.seconds:.2f}")
        mark = " *" if sample is peer or sample is floor else ""
        table.add_row(row.name + mark, *cells, style="bold" if row.role == "slipstream" else None)
    console.print(table)
    stars = [text for text, found in (("the best peer", peer), ("the fastest raw reader, the floor", floor)) if found]
    legend = "; ".join(["medians; of memory the most", *(["* " + " and ".join(stars)] if stars else [])])
    console.print(legend, style="dim")


def _seconds(sample: Sample) -> float:
    return sample.seconds


def print_import(console: Console, times: ImportTimes) -> None:
    """Prints what `import slipstream` takes."""
    table = Table(title="Import: a fresh interpreter", title_justify="left", title_style="bold")
    table.add_column("what")
    table.add_column("milliseconds", justify="right")
    table.add_row("import slipstream, by -X importtime", f"{times.importtime_ms:.1f}")
    table.add_row("python -c 'import slipstream'", f"{times.process_ms:.1f}")
    table.add_row("python -c pass", f"{times.empty_process_ms:.1f}")
    console.print(table)
    print_targets(console, times.targets())


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


def print_targets(console: Console, targets: Sequence[Target]) -> None:
    """Prints what is asked of slipstream, and whether it was reached."""
    words = {True: "[green]reached[/]", False: "[red]missed[/]", None: "[yellow]not measured[/]"}
    for target in targets:
        bound = f"at most {target.most:g}" if target.most is not None else f"at least {target.least:g}"
        figure = "" if target.measured is None else f"{target.measured:,.3f}, "
        console.print(f"  {words[target.met]}  {target.text}: {figure}{bound}", highlight=False)
    console.print()
