"""The report as a whole: which sections there are, in which order. Headlines first, then each experiment, then how."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from slipstream.bench.experiments import EXPERIMENTS
from slipstream.bench.records import Record
from slipstream.bench.report import chart_data
from slipstream.bench.report.appendix import appendix_tables, ready_table
from slipstream.bench.report.choices import choices_table
from slipstream.bench.report.conditions import (
    machines_table,
    published_table,
    storages_table,
    versions_table,
    warnings,
)
from slipstream.bench.report.document import Block, Bullets, Cards, Document, Figure, Paragraph, Section
from slipstream.bench.report.extended import extended_table, failures_table
from slipstream.bench.report.headline import headline_card, place_title, standing_table
from slipstream.bench.report.results import Place, counted, group_records
from slipstream.bench.report.special import is_special, special_table
from slipstream.bench.report.wording import gigabytes

TITLE = "Loading model weights: slipstream beside other loaders"

_EXPERIMENTS = {
    "gp3": "Experiment 1: GP3 SSD",
    "io2": "Experiment 2: IO2 SSD",
    "s3": "Experiment 3: Amazon S3",
    "vllm": "Experiment 4: vLLM with different loaders",
}
_METHOD = (
    "Each sample is a process of its own. Its clock runs from the call that opens the files until the last tensor is "
    "there, every page of it touched, and the loader is closed. Imports and the check of what was loaded are outside.",
    "Before each sample as much memory as it will use is touched and freed. The model's files are put out of the page "
    "cache (unless an experiment is about a warm one), and that they are out is verified: a sample whose file is still "
    "cached is refused.",
    "All loaders take turns, one sample of each a round, so that what the machine does meanwhile meets all of them.",
    "After its clock has stopped, every tensor of every loader is compared with the model, byte for byte (column "
    "Verified).",
    "The raw floor is the fastest of several plain readers on the same storage in the same run, such as direct reads "
    "or ranges over HTTP, which make no tensors. Of the floor: a loader's bytes a second by that reader's.",
)
_READING = (
    "A median stands only together with its range. Where the ranges of two loaders overlap, this report does not say "
    "that one is faster; where a figure is of one sample, nothing is known of its scatter.",
    "Slightly above 100 % of the floor is possible: the floor is a measurement too, and it scatters.",
    "slipstream is shown with its defaults, which is how people use it, against the best setting of each other loader, "
    "which nobody knows beforehand.",
    "The published figures are of another machine, of older versions of the loaders, and of a GPU. A ratio to them "
    "says how the setups differ, not only the loaders. What compares loaders are the ratios within one run.",
    "An emulated storage has the limits of the real one, not its latency, its burst credits, or its neighbours.",
)


def tell_story(records: Sequence[Record], *, title: str | None = None, charts: bool = True) -> Document:
    """The report of some records."""
    places = group_records(records)
    machines = len({place.machine_number for place in places})
    names = _FileNames()
    sections = [_headlines(places, records, machines)]
    for experiment in dict.fromkeys(place.experiment for place in places):
        those = [place for place in places if place.experiment == experiment]
        if is_special(experiment):
            sections.append(_special_section(experiment, those))
            continue
        sections.append(Section(_experiment_title(experiment), 2, _introduction(those)))
        sections += [_place_section(place, machines, names, charts=charts) for place in those]
    sections += _closing(places, records)
    return Document(title or TITLE, _subtitle(records), tuple(sections))


def _headlines(places: Sequence[Place], records: Sequence[Record], machines: int) -> Section:
    cards = [card for place in places if (card := headline_card(place, machines=machines))]
    blocks: list[Block] = [Cards(tuple(cards))] if cards else []
    loads = [place for place in places if not is_special(place.experiment)]
    timed = [place for place in loads if any(entry.figures for entry in place.loaders)]
    if timed:
        blocks.append(standing_table(timed, machines=machines))
    if found := warnings(places, records):
        blocks += [Paragraph("Before you believe it:"), Bullets(tuple(found))]
    return Section("In short", 2, tuple(blocks))


def _experiment_title(experiment: str) -> str:
    """The document's heading for its experiments; for others what `bench run` calls them."""
    if experiment in _EXPERIMENTS:
        return _EXPERIMENTS[experiment]
    known = EXPERIMENTS.get(experiment)
    return f"{experiment}: {known.title}" if known else f"Experiment {experiment}"


def _introduction(places: Sequence[Place]) -> tuple[Block, ...]:
    if places[0].experiment != "vllm":
        return ()
    return (
        Paragraph(
            "From the start of the process until the engine answers, with one loader after the other for its weights."
        ),
    )


def _special_section(experiment: str, places: Sequence[Place]) -> Section:
    """What is no load: one table, and what failed."""
    blocks: list[Block] = [special_table(places)]
    blocks += [failed for place in places if (failed := failures_table(place)) is not None]
    return Section(_experiment_title(experiment), 2, tuple(blocks))


def _place_section(place: Place, machines: int, names: _FileNames, *, charts: bool) -> Section:
    blocks: list[Block] = [Paragraph(_describe(place))]
    vllm = place.experiment == "vllm"
    if charts:
        blocks += _figures(place, names, [_READY] if vllm else [_BY_CONCURRENCY, _BY_LOADER, _COST])
    if place.loaders:
        blocks += [ready_table(place)] if vllm else appendix_tables(place)
    blocks.append(extended_table(place))
    if (chosen := choices_table(place)) is not None:
        blocks.append(chosen)
    if (failed := failures_table(place)) is not None:
        blocks.append(failed)
    return Section(place_title(place, machines=machines), 3, tuple(blocks))


def _describe(place: Place) -> str:
    model = place.model
    files = f"{counted(model.tensors, 'tensor')} in {counted(model.files, 'file')}"
    text = f"{place.model_title}: {gigabytes(model.nbytes)}, {files}"
    text += f", to {place.destination}. " if place.destination else ". "
    storage = place.storage
    text += f"From {storage.name}, emulated on this machine; " if storage.emulated else f"From {storage.name}; "
    text += "limits, and whether they held, stand under Conditions. " if storage.limits else "no limits were set. "
    most = max((len(entry.figures) for entry in place.entries), default=0)
    return text + ("One sample of each." if most == 1 else f"Up to {counted(most, 'sample')} of each.")


_Maker = Callable[[Place, str, str], chart_data.Drawing | None]
_BY_CONCURRENCY: tuple[str, str, str, _Maker] = (
    "time-by-concurrency",
    "Time to load, by concurrency",
    "Medians with the lowest and highest sample. Tensorizer: by number of readers.",
    chart_data.time_chart,
)
_BY_LOADER: tuple[str, str, str, _Maker] = (
    "time-by-loader",
    "Time to load, by loader",
    "Each loader with its fastest setting (filled), and with its defaults (pale) where those are not the fastest.",
    chart_data.loader_chart,
)
_COST: tuple[str, str, str, _Maker] = (
    "cpu-by-loader",
    "CPU time, by loader",
    "What loading costs the processors, with the settings of the chart above.",
    chart_data.cost_chart,
)
_READY: tuple[str, str, str, _Maker] = (
    "time-until-ready",
    "Time until vLLM is ready, by loader",
    "Of it loading the weights (filled) and everything else (pale).",
    chart_data.ready_chart,
)


def _figures(place: Place, names: _FileNames, wanted: Iterable[tuple[str, str, str, _Maker]]) -> Iterator[Figure]:
    for kind, title, caption, make in wanted:
        drawing = make(place, title, place_title(place))
        if drawing is not None:
            stem = f"{place.experiment}-{place.storage.name}-{place.model.name}-{place.destination}-{kind}"
            yield Figure(names.unique(stem), caption, chart_data.describe_drawing(drawing), drawing)


def _closing(places: Sequence[Place], records: Sequence[Record]) -> list[Section]:
    return [
        Section("How it was measured", 2, (Bullets(_METHOD),)),
        Section("How to read it", 2, (Bullets(_READING),)),
        Section("Conditions", 2, (storages_table(records), machines_table(places), versions_table(records))),
        Section("The published benchmark", 2, (published_table(),)),
    ]


def _subtitle(records: Sequence[Record]) -> str:
    first, last = records[0].taken_at[:10], records[-1].taken_at[:10]
    when = first if first == last else f"{first} to {last}"
    runs = counted(len({record.run for record in records}), "run")
    return f"{counted(len(records), 'sample')} of {runs}, taken {when} (UTC)."


class _FileNames:
    """Names of files that are safe everywhere, each once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def unique(self, text: str) -> str:
        parts = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-").split("-")
        stem = "-".join(part for n, part in enumerate(parts) if n == 0 or part != parts[n - 1])
        stem = stem[:60].rstrip("-") + stem[-28:] if len(stem) > 90 else stem
        name, number = stem, 1
        while name in self._taken:
            number += 1
            name = f"{stem}-{number}"
        self._taken.add(name)
        return name
