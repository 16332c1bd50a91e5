"""`slipstream bench`: the benchmark's commands, each in its own module.

They import what they need when they are called: `slipstream --help` loads none of the benchmark.
"""

from __future__ import annotations

import typer

from slipstream.cli.bench_compare import EXIT_CODES, METHOD, compare
from slipstream.cli.bench_floor import floor
from slipstream.cli.bench_list import list_contenders
from slipstream.cli.bench_report import report
from slipstream.cli.bench_run import run
from slipstream.cli.ending import ends_well

bench = typer.Typer(
    name="bench",
    help="Measure loaders against one another on your own storage, and report it.",
    no_args_is_help=True,
)
bench.command()(ends_well(run))
bench.command()(ends_well(floor))
bench.command("list")(ends_well(list_contenders))
bench.command()(ends_well(report))
bench.command(epilog=f"{METHOD}\n\n{EXIT_CODES}")(ends_well(compare))
