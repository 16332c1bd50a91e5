"""`slipstream bench floor`: what plain reads get out of a place."""

from __future__ import annotations

import json
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from slipstream.cli import arguments
from slipstream.cli.bench_progress import shown_run
from slipstream.cli.text import add_row, format_bytes, make_facts, make_table, output, printable
from slipstream.errors import SlipstreamError, UsageError

if TYPE_CHECKING:
    from slipstream.bench.floor import Floor


def floor(
    place: Annotated[
        str,
        typer.Argument(
            metavar="PATH|URI",
            help="A file, a directory, an s3://, gs:// or az:// prefix, or a URL. Where a directory has no checkpoint, "
            "a file is made to be read, and removed again.",
            show_default=False,
        ),
    ],
    repeats: Annotated[int, typer.Option(help="Samples of each way to read; they take turns.")] = 3,
    size: Annotated[
        str, typer.Option(metavar="SIZE", help="Of the file that is made in a directory without a checkpoint.")
    ] = "2GiB",
    storage_option: arguments.StorageOption = None,
    as_json: arguments.Json = False,
    quiet: arguments.Quiet = False,
    debug: arguments.Debug = False,
) -> None:
    """Measure the raw limits of a storage: the fastest plain reads, cold, by several ways. No loader is faster."""
    from slipstream.bench.floor import measure_floor
    from slipstream.options import parse_bytes

    if repeats < 1:
        raise UsageError("--repeats is at least 1")
    with shown_run(repeats, quiet=quiet) as display:
        measured = measure_floor(
            place,
            repeats=repeats,
            scratch_bytes=parse_bytes(size),
            storage_options=arguments.read_flat_options(storage_option),
            report=display.doing,
        )
    if as_json:
        print(json.dumps(asdict(measured)))
    else:
        _print(measured)
    if measured.best is None:
        raise SlipstreamError(f"nothing could be read from {measured.place}: {measured.rows[-1].reason}")


def _print(measured: Floor) -> None:
    console = output()
    facts = [("place", printable(measured.place)), ("read", format_bytes(measured.nbytes))]
    facts += [(name, printable(value)) for name, value in (measured.mount or {}).items() if value]
    if measured.iops is not None:
        facts.append(("4 KiB reads", f"{measured.iops:,.0f} a second, 128 at once"))
    console.print(make_facts(facts))
    console.print()
    columns = ("seconds", "min - max", "GB/s", "CPU s/GB")
    table = make_table("plain reads", *columns, right=columns, wrap=("plain reads",))
    for row in measured.rows:
        if row.median_s is None:
            add_row(table, row.label, "failed")
            continue
        add_row(
            table,
            row.label + (" *" if row is measured.best else ""),
            f"{row.median_s:.3f}",
            f"{min(row.seconds):.3f} - {max(row.seconds):.3f}",
            f"{measured.nbytes / 1e9 / row.median_s:.2f}",
            f"{median(row.cpu_s) / (measured.nbytes / 1e9):.3f}" if row.cpu_s else "",
        )
    console.print(table)
    if measured.best is not None:
        console.print("* the floor", style="dim")
    for reason in dict.fromkeys(row.reason for row in measured.rows if row.reason):
        console.print(printable(reason, longest=4000), style="yellow")
