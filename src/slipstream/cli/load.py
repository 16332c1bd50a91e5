"""`slipstream load`: streams a checkpoint, drops every tensor, and says how fast it came."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec

import slipstream
from slipstream.cli import arguments, ranks
from slipstream.cli.progress import shown_progress
from slipstream.cli.text import (
    ChosenFile,
    counted,
    format_bytes,
    format_seconds,
    make_facts,
    output,
    print_files,
    printable,
    short_names,
)
from slipstream.types import LoadStats, Progress

_MOST_FILES = 16


def load(
    uris: arguments.Uris,
    device: arguments.Device = "cpu",
    dtype: arguments.Dtype = None,
    framework: arguments.Framework = None,
    names: arguments.Names = None,
    shard: arguments.Shard = None,
    strategy: arguments.Strategy = None,
    concurrency: arguments.Concurrency = None,
    chunk_bytes: arguments.ChunkBytes = None,
    memory_limit: arguments.MemoryLimit = None,
    staging: arguments.Staging = None,
    ring_bytes: arguments.RingBytes = None,
    storage_option: arguments.StorageOption = None,
    retries: arguments.Retries = None,
    deadline: arguments.Deadline = None,
    bandwidth_limit: arguments.BandwidthLimit = None,
    distributed: arguments.Distributed = False,
    share_across: arguments.ShareAcross = None,
    share_through: arguments.ShareThrough = None,
    as_json: arguments.Json = False,
    quiet: arguments.Quiet = False,
    debug: arguments.Debug = False,
) -> None:
    """Stream a checkpoint, drop every tensor, and say how fast it came."""
    options = arguments.read_options(
        strategy=strategy,
        concurrency=concurrency,
        chunk_bytes=chunk_bytes,
        memory_limit=memory_limit,
        retries=retries,
        deadline=deadline,
        bandwidth_limit=bandwidth_limit,
        staging=staging,
        ring_bytes=ring_bytes,
        share_across=share_across,
        share_through=share_through,
    )
    part = arguments.read_shard(shard)
    device = ranks.find_own_device(device) if distributed else device
    storage_options = arguments.read_storage_options(storage_option)

    def stream_all(*, shown: bool = True) -> LoadStats:
        with shown_progress("reading", quiet=quiet or as_json or not shown) as report:
            _import_framework(framework)

            def forward(progress: Progress) -> None:
                report(progress.bytes_read, progress.bytes_total)

            with slipstream.stream(
                arguments.one_or_many(uris),
                device=device,
                dtype=dtype,
                framework=framework,
                names=names,
                shard=part,
                options=options,
                storage_options=storage_options,
                distributed=distributed,
                progress=forward,
            ) as tensors:
                for _, tensor in tensors:
                    del tensor  # before the next one is waited for, so that its memory is free by then
            return tensors.stats()

    if distributed:
        with ranks.joined_ranks() as joined:
            stats = stream_all(shown=joined.is_first)
            gathered = joined.gather(stats)
        if not joined.is_first:
            return
    else:
        _check_paths(uris)
        stats, gathered = stream_all(), []
    if as_json:
        print(json.dumps(ranks.as_json(stats, gathered) if gathered else _as_json(stats), indent=2))
    else:
        _print_summary(stats, gathered)


def _as_json(stats: LoadStats) -> dict[str, object]:
    return {**asdict(stats), "gigabytes_per_second": stats.gigabytes_per_second}


def _check_paths(uris: Sequence[str]) -> None:
    """Tells of a wrong path at once, before torch is imported. What is elsewhere would cost its round trips twice."""
    paths = [uri for uri in uris if "://" not in uri]
    if not all(map(os.path.exists, paths)):
        slipstream.inspect(arguments.one_or_many(paths))


def _import_framework(name: str | None) -> None:
    """Imports it before the clock starts: torch takes longer than many a load. A missing one `stream` will tell."""
    if name is None:
        name = "torch" if find_spec("torch") else "numpy"
    for module in (name, "ml_dtypes") if name != "torch" else (name,):
        if find_spec(module):
            import_module(module)


def _print_summary(stats: LoadStats, gathered: Sequence[ranks.Figures]) -> None:
    console = output()
    console.print(make_facts([*_facts(stats), *(ranks.describe(gathered) if gathered else ())]))
    files = [
        ChosenFile(name, file.strategy, file.reason, (format_bytes(file.bytes),))
        for name, file in zip(short_names([file.uri for file in stats.files]), stats.files, strict=True)
    ]
    print_files(console, files, ("size",), most=_MOST_FILES)
    for line in stats.fallbacks:
        console.print(f"fell back: {printable(line)}", soft_wrap=True)


def _facts(stats: LoadStats) -> Iterable[tuple[str, str]]:
    per_gigabyte = f", {stats.cpu_seconds / stats.bytes * 1e9:.3f} s per GB" if stats.bytes else ""
    first = stats.first_tensor_seconds
    yield "loaded", f"{format_bytes(stats.bytes)} in {counted(stats.tensors, 'tensor')}"
    if stats.source_bytes > stats.bytes:
        yield "of storage", f"{format_bytes(stats.source_bytes)}, with what lies between columns"
    yield "time", f"{format_seconds(stats.seconds)}, {stats.gigabytes_per_second:.2f} GB/s"
    yield "first tensor", "none" if first is None else f"after {format_seconds(first)}"
    yield "CPU", f"{format_seconds(stats.cpu_seconds)}{per_gigabyte}"
    yield "reads", f"{stats.reads:,}"
    if stats.requests:
        yield from _network_facts(stats)
    yield "peak memory", f"{format_bytes(stats.peak_buffer_bytes)} of buffers"
    if stats.ring_bytes:
        yield from _ring_facts(stats)


def _ring_facts(stats: LoadStats) -> Iterable[tuple[str, str]]:
    made = f", made in {format_seconds(stats.ring_seconds)}" if stats.ring_seconds else ", kept from a load before"
    copies = "1 copy" if stats.copies == 1 else f"{stats.copies:,} copies"
    yield "ring", f"{format_bytes(stats.ring_bytes)}{made}; {copies} out of it"
    if stats.warm_up_seconds:
        yield "warm-up", f"{format_seconds(stats.warm_up_seconds)} until the device was ready, while headers were read"
    if stats.ring_wait_seconds:
        yield "waited", f"{format_seconds(stats.ring_wait_seconds)} for a slot, all reads together"


def _network_facts(stats: LoadStats) -> Iterable[tuple[str, str]]:
    requests = [f"{stats.requests:,}"]
    if stats.retries:
        requests.append(f"{stats.retries:,} of them again after a failure")
    if stats.hedged:
        requests.append(f"{stats.hedged:,} of them for a range that took long")
    yield "requests", ", ".join(requests)
    yield "connections", f"{stats.connections:,}, up to {counted(stats.peak_concurrency, 'read')} in flight"
    if stats.discarded_bytes:
        yield "discarded", f"{format_bytes(stats.discarded_bytes)} received and not used"
