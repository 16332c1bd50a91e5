"""`slipstream bench run`: measures loaders, and goes on where a stopped run was."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from slipstream.cli import arguments
from slipstream.cli.bench_progress import shown_run
from slipstream.cli.bench_summary import print_summary
from slipstream.cli.text import counted, diagnostics, printable
from slipstream.errors import SlipstreamError, UsageError

if TYPE_CHECKING:
    from slipstream.bench.experiments import Experiment
    from slipstream.bench.models import Model
    from slipstream.bench.runner import Display

_STORAGE = "Where the model lies"
_SAMPLES = "How it is measured"
_QUICK_LAYERS = 1
_FAILED = 1

Storages = Annotated[
    list[str] | None,
    typer.Option(
        "--storage",
        metavar="NAME=PLACE",
        help="A real volume or bucket instead of an emulated one: gp3=/mnt/gp3, s3=s3://bucket/prefix. Or what "
        "emulates it: s3=seaweedfs (a real S3 server on this machine), s3=range-server (with the limits of a cloud).",
        rich_help_panel=_STORAGE,
    ),
]
Pythons = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=PATH",
        help="The interpreter that a contender runs in, where versions conflict. May be given several times.",
        rich_help_panel=_SAMPLES,
    ),
]


def run(
    experiments: Annotated[
        list[str],
        typer.Argument(
            metavar="EXPERIMENT...",
            help="Any of gp3, io2, s3, vllm (together: all); cold, warm, small, limit, limit-warm, import (together: "
            "disk); http, https, http-limited, seaweedfs, faults, headers, lock (together: network); gpu-cold, "
            "gpu-warm, gpu-tmpfs, gpu-s3 (together: gpu).",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option(help="What is loaded: the name of a layout, which is synthesised, or a checkpoint's path or URI."),
    ] = "llama-3-8b",
    layers: Annotated[
        int | None, typer.Option(help="Only the first so many layers of a layout.", show_default=False)
    ] = None,
    destination: Annotated[str, typer.Option(metavar="cpu|cuda:N", help="Where the tensors shall be.")] = "cpu",
    storage: Storages = None,
    unthrottled: Annotated[
        bool,
        typer.Option(
            "--unthrottled", help="Leave this machine's disk as it is: no root needed.", rich_help_panel=_STORAGE
        ),
    ] = False,
    storage_option: arguments.StorageOption = None,
    pause: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Before each sample from an object store. Without it 120 for real ones, 0 for those on this machine.",
            show_default=False,
            rich_help_panel=_STORAGE,
        ),
    ] = None,
    contenders: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Only these; slipstream bench list names them.",
            show_default=False,
            rich_help_panel=_SAMPLES,
        ),
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(help="Samples of each row; 3, in a quick run 1.", show_default=False, rich_help_panel=_SAMPLES),
    ] = None,
    python: Pythons = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long one load may take.", rich_help_panel=_SAMPLES)
    ] = 900.0,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="A short run: one sample of few rows, one layer.", rich_help_panel=_SAMPLES),
    ] = False,
    out: Annotated[
        Path,
        typer.Option(
            "--output", metavar="DIR", help="The folder of the results. A run that was stopped goes on there."
        ),
    ] = Path("bench-results"),
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where models, their copies and servers' data are kept. ~/.cache/slipstream/bench",
            show_default=False,
        ),
    ] = None,
    quiet: arguments.Quiet = False,
    debug: arguments.Debug = False,
) -> None:
    """Measure loaders against one another: every sample in a process of its own, cold, verified byte for byte."""
    from slipstream.bench.contenders import find_contender
    from slipstream.bench.experiments import Kind, find_experiments
    from slipstream.bench.interpreters import parse_interpreters
    from slipstream.bench.models import default_cache
    from slipstream.bench.runner import Run, RunSettings
    from slipstream.bench.storages.choice import Ground, parse_places
    from slipstream.bench.storages.throttled import PROBE_S, QUICK_PROBE_S
    from slipstream.bench.takers import Conditions

    chosen = find_experiments(experiments)
    names = [name.strip() for name in contenders.split(",")] if contenders else None
    pythons = parse_interpreters(python or [])
    for name in {*(names or ()), *pythons} - set(get_args(Kind)):  # vLLM has an interpreter, too
        find_contender(name)
    if repeats is not None and repeats < 1:
        raise UsageError("--repeats is at least 1")
    repeats = repeats or (1 if quick else 3)
    places = parse_places(storage or [])
    storage_options = arguments.read_flat_options(storage_option)
    cache = (cache or default_cache()).expanduser().absolute()
    with shown_run(repeats, quiet=quiet) as display:
        models = _find_models(chosen, model, layers, cache, storage_options, display, quick=quick)
        settings = RunSettings(
            experiments=chosen,
            models=models,
            output=out,
            ground=Ground(
                cache=cache,
                model_folder=next((found.files[0].parent for found in models.values() if found.files), cache),
                pause_s=pause,
                unthrottled=unthrottled,
                probe_s=QUICK_PROBE_S if quick else PROBE_S,
                storage_options=storage_options,
            ),
            places=places,
            destination=destination,
            contenders=names,
            repeats=repeats,
            quick=quick,
            conditions=Conditions(pythons=pythons, timeout_s=timeout),
        )
        try:
            outcome = Run(settings, display).take_all()
        except KeyboardInterrupt:
            display.tells(f"stopped; what was measured is in {settings.results}. To go on: {_command()}")
            raise
    print_summary(settings)
    if outcome.failed:
        for line in outcome.failed:
            diagnostics().print(printable(f"failed: {line}", longest=4000), style="red", soft_wrap=True)
        raise SlipstreamError(
            f"{counted(len(outcome.failed), 'sample')} or storages have no figure; the same command tries them again"
        )


def _find_models(
    experiments: Sequence[Experiment],
    model: str,
    layers: int | None,
    cache: Path,
    storage_options: Mapping[str, str],
    display: Display,
    *,
    quick: bool,
) -> dict[str | None, Model]:
    """What the experiments load, by their layouts; nothing that none of them does."""
    from slipstream.bench.models import find_model, make_deep_model, no_model
    from slipstream.testing.layouts import LAYOUTS

    found: dict[str | None, Model] = {}
    for experiment in experiments:
        layout = experiment.layout
        if layout in found:
            continue
        if layout is None:
            found[layout] = no_model(cache)
        elif experiment.layers is not None:
            count = layers or experiment.layers
            files = min(experiment.files, count)
            found[layout] = make_deep_model(layout, cache, layers=count, files=files, report=display.doing)
        elif layout:
            found[layout] = find_model(layout, cache, layers=layers, report=display.doing)
        else:
            count_of_model = _QUICK_LAYERS if quick and layers is None and model in LAYOUTS else layers
            found[layout] = find_model(
                model, cache, layers=count_of_model, storage_options=storage_options, report=display.doing
            )
    return found


def _command() -> str:
    """The command that this is, for people to give again."""
    return shlex.join(["slipstream", *sys.argv[1:]])
