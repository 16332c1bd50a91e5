"""What a reader wants first: slipstream as it comes, beside the best that each place has to offer."""

from __future__ import annotations

from collections.abc import Sequence

from slipstream.bench.report.document import Card, Column, Row, Table
from slipstream.bench.report.noise import measure_shift
from slipstream.bench.report.results import Entry, Place, contender_title, counted
from slipstream.bench.report.special import is_special, special_lines
from slipstream.bench.report.wording import column_of, cost, decimals_for, fixed, gigabytes, percent, ratio, seconds


def place_title(place: Place, *, machines: int = 1) -> str:
    """The place in words: "gp3 · llama-3-8b, 8 layers (5.59 GB) → cpu"."""
    model = f"{place.model_title} ({gigabytes(place.model.nbytes)})"
    title = f"{place.where} · {model}" + (f" → {place.destination}" if place.destination else "")
    return title + (f" · machine {place.machine_number}" if machines > 1 else "")


def chosen(place: Place) -> Entry | None:
    """slipstream as it comes; where that was not measured, with its best setting."""
    return place.default("slipstream") or place.best("slipstream")


def headline_card(place: Place, *, machines: int = 1) -> Card | None:
    """slipstream's figure in one place, and what it means; None where slipstream has none, or loads nothing."""
    entry = chosen(place)
    if entry is None or entry.seconds is None or is_special(place.experiment):
        return None
    if place.experiment == "vllm":
        lines = [f"Until vLLM was ready, with slipstream ({entry.label})."]
    else:
        lines = [f"slipstream, {entry.label}: {fixed(entry.gb_per_s)} GB/s"]
        if (fraction := place.of_floor(entry)) is not None:
            lines[0] += f", {percent(fraction)} of what plain reads reach"
        lines[0] += "."
    lines.append(against(entry, place.best_peer, scatter=place.scatter))
    if place.experiment != "vllm" and (cost := _cost(entry, place.best_peer)):
        lines.append(cost)
    lines.append(_samples(entry))
    figure = fixed(entry.seconds, decimals_for([entry.seconds]))
    return Card(place_title(place, machines=machines), figure, "s", tuple(lines))


def against(entry: Entry, peer: Entry | None, *, scatter: float = 0.0) -> str:
    """How an entry stands to another one, no more certain than the samples allow."""
    if peer is None or peer.seconds is None:
        return "No other loader was measured here."
    whose = f"{peer.setting} ({seconds(peer.seconds)})"
    shift = measure_shift(_per_gb_samples(peer), _per_gb_samples(entry), scatter=scatter)
    times = f"{ratio(shift.ratio)} × the time of {whose}"
    match shift.judge():
        case "faster":
            return f"{ratio(1 / shift.ratio)} × as fast as the fastest other loader, {whose}."
        case "slower":
            return f"Slower than the fastest other loader: {times}."
        case "same":
            return f"As fast as the fastest other loader: {times}, a difference below 5 %."
    if shift.low is None:
        return f"{times}, the fastest other loader; with so few samples the difference may be noise."
    return f"{times}, the fastest other loader: a difference within the scatter of the samples."


def standing_table(places: Sequence[Place], *, machines: int = 1) -> Table:
    """All places at a glance: slipstream as it comes, and the best setting of each other loader."""
    rows = []
    for place in places:
        rows.append(Row((place_title(place, machines=machines), "", "", "", ""), "group"))
        entry = chosen(place)
        peers = [best for name in place.contenders if name != "slipstream" and (best := place.best(name))]
        peers.sort(key=lambda each: each.seconds_per_gb or 0)
        shown = [*([entry] if entry else []), *peers]
        times = column_of(each.seconds for each in shown)
        for each, time in zip(shown, times, strict=True):
            shift = (
                measure_shift(_per_gb_samples(each), _per_gb_samples(entry)) if entry and each is not entry else None
            )
            cells = (
                each.setting,
                time,
                percent(place.of_floor(each)),
                f"{ratio(shift.ratio)} ×" if shift else "",
                _interval(shift.low, shift.high) if shift else "",
            )
            rows.append(Row(cells, "ours" if each is entry else "plain"))
    columns = (
        Column("Loader", numeric=False),
        Column("Median (s)"),
        Column("Of the floor"),
        Column("slipstream takes"),
        Column("90 % interval"),
    )
    notes = (
        "slipstream with its defaults, the others with whatever setting was their best. slipstream takes: its time as "
        "a multiple of the other's; below 1 it is faster. The interval comes from the ranks of the samples, and wants "
        "three on each side.",
    )
    return Table("At a glance", columns, tuple(rows), notes)


def summary_lines(places: Sequence[Place], *, machines: int = 1) -> list[str]:
    """The headlines as lines for a terminal."""
    lines = []
    for place in places:
        card = headline_card(place, machines=machines)
        title = place_title(place, machines=machines)
        if is_special(place.experiment):
            lines += [f"{place.experiment}: {line}" for line in special_lines(place)]
            continue
        lines.append(
            f"{title}: {card.figure} {card.unit}. {card.lines[1]}" if card else f"{title}: no slipstream figure"
        )
    return lines


def _cost(entry: Entry, peer: Entry | None) -> str:
    if entry.cpu_s_per_gb is None:
        return ""
    text = f"{cost(entry.cpu_s_per_gb)} CPU seconds per GB"
    if peer is None or peer.cpu_s_per_gb is None:
        return f"{text}."
    name = contender_title(peer.contender)
    return f"{text}; {name}: {cost(peer.cpu_s_per_gb)}."


def _samples(entry: Entry) -> str:
    if len(entry.figures) == 1:
        return "One sample: its scatter is not known."
    values = entry.values(lambda each: each.seconds)
    low, high = (fixed(value, decimals_for(values)) for value in (min(values), max(values)))
    return f"Median of {counted(len(values), 'sample')}, {low} to {high} s."


def _interval(low: float | None, high: float | None) -> str:
    return "too few samples" if low is None or high is None else f"{ratio(low)} to {ratio(high)}"


def _per_gb_samples(entry: Entry) -> list[float]:
    size = entry.nbytes / 1e9 or 1.0
    return [each.seconds / size for each in entry.figures]
