"""How fast model weights come from this machine's disk into memory: slipstream, its peers and a raw floor.

    python benchmarks/local.py [--model PATH] [--rounds 5] [--scenarios cold,warm,small,limit,import] [--json OUT]

Every sample is taken in a fresh process (sample.py), from a settled memory and a page cache that was asked, not
assumed (page_cache.py). The contenders (contenders.py) take turns within a round, each round beginning with another
one, so that what changes on the machine meanwhile falls on all of them. Figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from contenders import TENSORIZER, Contender, Job, tensorizer_path
from page_cache import make_cold, make_warm, settle_memory
from report import print_import, print_scenario
from rounds import (
    CONSOLE,
    DATA,
    check_completeness,
    describe_machine,
    progress_bar,
    synthesize,
    turns,
    write_sample,
)
from sample import Sample, Spec, take_sample
from scenarios import SCENARIOS, Scenario, measure_import

IMPORT = "import"
DEFAULT_SCENARIOS = "cold,warm,small,limit,import"


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a directory of safetensors files or one file; made if missing")
    parser.add_argument("--layers", type=int, default=8, help="of the llama-3-8b that is made; 8 (default): 5.6 GB")
    parser.add_argument("--small-model", type=Path, help="one with tens of thousands of tensors; made if missing")
    parser.add_argument("--rounds", type=int, default=5, help="samples of each contender")
    names = ", ".join((*SCENARIOS, IMPORT))
    parser.add_argument("--scenarios", default=DEFAULT_SCENARIOS, help=f"of {names} (default: {DEFAULT_SCENARIOS})")
    parser.add_argument("--contenders", help="only those whose name begins with one of these, e.g. slipstream,raw")
    parser.add_argument("--json", type=Path, help="append every sample to this file, one JSON object a line")
    arguments = parser.parse_args()
    arguments.scenarios = arguments.scenarios.split(",")
    for name in arguments.scenarios:
        if name not in SCENARIOS and name != IMPORT:
            parser.error(f"unknown scenario {name}; there are {names}")
    if arguments.rounds < 1:
        parser.error("--rounds is at least 1")
    return arguments


def main() -> None:
    """Makes what is missing, runs the scenarios, and prints a table for each as it ends."""
    arguments = parse_arguments()
    scenarios = [SCENARIOS[name] for name in arguments.scenarios if name != IMPORT]
    models = {
        "large": arguments.model or DATA / f"llama-3-8b-{arguments.layers}-layers",
        "small": arguments.small_model or DATA / "moe-small",
    }
    if any(scenario.model == "large" for scenario in scenarios):
        synthesize("llama-3-8b", models["large"], "--layers", str(arguments.layers))
    if any(scenario.model == "small" for scenario in scenarios):
        synthesize("moe-small", models["small"])
    rows = {scenario.name: choose_contenders(scenario, arguments.contenders) for scenario in scenarios}
    if any(contender.converts for row in rows.values() for contender in row):
        convert(models["large"])
    context = describe_machine()
    CONSOLE.print(", ".join(f"{key} {value}" for key, value in context.items()), style="dim", highlight=False)
    failed: set[str] = set()
    with arguments.json.open("a") if arguments.json else nullcontext() as log, progress_bar() as progress:
        task = progress.add_task("", total=arguments.rounds * sum(map(len, rows.values())))
        for scenario in scenarios:
            model = models[scenario.model]
            samples: dict[str, list[Sample]] = {contender.name: [] for contender in rows[scenario.name]}
            for number, contender in turns(rows[scenario.name], arguments.rounds):
                place = f"{scenario.name}, round {number + 1} of {arguments.rounds}: {contender.name}"
                progress.update(task, description=place)
                try:
                    sample = run_once(scenario, contender, model)
                    if contender.role != "floor":
                        check_completeness(model, scenario.names, sample)
                except RuntimeError as error:
                    failed.add(contender.name)
                    CONSOLE.print(f"{place}: {error}", style="red", markup=False)
                else:
                    samples[contender.name].append(sample)
                    CONSOLE.print(f"{place}: {sample.seconds:.3f} s", style="dim", highlight=False)
                    write_sample(
                        log,
                        {"scenario": scenario.name, "model": model.name, "machine": context},
                        contender,
                        number,
                        sample,
                    )
                finally:
                    progress.advance(task)
            print_scenario(CONSOLE, scenario, samples)
        if IMPORT in arguments.scenarios:
            times = measure_import()
            print_import(CONSOLE, times)
            if log:
                print(json.dumps({"scenario": IMPORT, **asdict(times), "machine": context}), file=log)
    if failed:
        sys.exit(f"failed at least once: {', '.join(sorted(failed))}")


def choose_contenders(scenario: Scenario, wanted: str | None) -> list[Contender]:
    """Those that are wanted and can run here, with a line for each that cannot."""
    chosen = []
    for contender in scenario.contenders:
        if wanted and not contender.name.lower().startswith(tuple(wanted.lower().split(","))):
            continue
        if contender.installed:
            chosen.append(contender)
        else:
            CONSOLE.print(f"{scenario.name}: without {contender.name}, which is not installed", style="yellow")
    return chosen


def run_once(scenario: Scenario, contender: Contender, model: Path) -> Sample:
    """Takes one sample from the state of memory and page cache that the scenario wants."""
    files = contender.reads(Job(model))

    def prepare() -> None:
        if not scenario.cached:
            make_cold(files)
        settle_memory(sum(path.stat().st_size for path in files))
        (make_warm if scenario.cached else make_cold)(files)

    spec = Spec(contender.name, str(model), names=scenario.names, keep=scenario.keep, touch=scenario.touch)
    return take_sample(spec, prepare)


def convert(model: Path) -> None:
    """Writes tensorizer's copy of the model, in another process, unless it is there."""
    if tensorizer_path(model).exists():
        return
    CONSOLE.print(f"converting {model} for {TENSORIZER.name} ...", highlight=False)
    program = "import pathlib, sys, contenders; contenders.convert_for_tensorizer(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", program, str(model)], check=True, cwd=Path(__file__).parent)


if __name__ == "__main__":
    main()
