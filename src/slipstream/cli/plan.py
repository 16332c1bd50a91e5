"""`slipstream plan`: what a load would read, how, and why, from headers only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import NamedTuple

import slipstream
from slipstream.cli import arguments
from slipstream.cli.text import (
    ChosenFile,
    counted,
    format_binary,
    format_bytes,
    make_facts,
    output,
    print_files,
    short_names,
)
from slipstream.types import ReadPlan, StrategyChoice


def plan(
    uris: arguments.Uris,
    device: arguments.Device = "cpu",
    dtype: arguments.Dtype = None,
    names: arguments.Names = None,
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
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> None:
    """Show what a load would read, how, and why. Reads headers only."""
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
    )
    storage_options = arguments.read_storage_options(storage_option)
    read_plan = slipstream.plan(
        arguments.one_or_many(uris),
        device=device,
        dtype=dtype,
        names=names,
        options=options,
        storage_options=storage_options,
    )
    if as_json:
        print(json.dumps(_as_json(read_plan), indent=2))
    else:
        _print_plan(read_plan)


def _print_plan(read_plan: ReadPlan) -> None:
    console = output()
    console.print(make_facts(_facts(read_plan)))
    names = short_names([blob.uri for blob in read_plan.checkpoint.blobs])
    print_files(
        console,
        [
            ChosenFile(name, "none", "no tensor of it is selected", ("nothing", "0"))
            if file.choice is None
            else ChosenFile(
                name, file.choice.strategy, file.choice.reason, (format_bytes(file.nbytes), f"{file.reads:,}")
            )
            for name, file in zip(names, _files(read_plan), strict=True)
        ],
        ("read", "reads"),
    )


def _facts(read_plan: ReadPlan) -> Iterable[tuple[str, str]]:
    checkpoint = read_plan.checkpoint
    skipped = len(checkpoint.tensors) - read_plan.tensor_count
    chunks = sorted({choice.chunk_bytes for choice in read_plan.choices if choice is not None})
    yield "reads", f"{format_bytes(read_plan.nbytes)} in {counted(read_plan.tensor_count, 'tensor')}"
    if skipped:
        yield "skipped", f"{format_bytes(checkpoint.nbytes - read_plan.nbytes)} in {counted(skipped, 'tensor')}"
    yield "in flight", _in_flight(read_plan)
    if chunks:
        yield "largest read", ", ".join(format_binary(chunk) for chunk in chunks)
    if read_plan.staging is not None:
        staging = read_plan.staging
        yield "ring", f"up to {staging.slots:,} slots, {format_bytes(staging.ring_bytes)}: {staging.reason}"
        if staging.cast is not None:
            landed = sum(op.landing_bytes or 0 for op in read_plan.ops)
            yield "tensors take", f"{format_bytes(landed)}, cast to {staging.cast}"


def _in_flight(read_plan: ReadPlan) -> str:
    if read_plan.most_concurrency > read_plan.concurrency:
        at_first = counted(read_plan.concurrency, "read")
        return f"{at_first}, growing up to {read_plan.most_concurrency:,} while that is faster"
    return f"up to {counted(read_plan.concurrency, 'read')}"


class _File(NamedTuple):
    """What is read of one blob."""

    uri: str
    nbytes: int
    tensors: int
    reads: int
    choice: StrategyChoice | None


def _files(read_plan: ReadPlan) -> list[_File]:
    """An operation larger than a chunk is read in as many pieces as it takes."""
    nbytes: Counter[int] = Counter()
    tensors: Counter[int] = Counter()
    reads: Counter[int] = Counter()
    for op in read_plan.ops:
        choice = read_plan.choices[op.blob]
        assert choice is not None, "an operation on a blob of which nothing is selected"
        nbytes[op.blob] += op.nbytes
        tensors[op.blob] += len(op.tensors)
        reads[op.blob] += -(-op.nbytes // choice.chunk_bytes)
    return [
        _File(blob.uri, nbytes[number], tensors[number], reads[number], choice)
        for number, (blob, choice) in enumerate(zip(read_plan.checkpoint.blobs, read_plan.choices, strict=True))
    ]


def _as_json(read_plan: ReadPlan) -> Mapping[str, object]:
    return {
        "bytes": read_plan.nbytes,
        "tensors": read_plan.tensor_count,
        "skipped_bytes": read_plan.checkpoint.nbytes - read_plan.nbytes,
        "skipped_tensors": len(read_plan.checkpoint.tensors) - read_plan.tensor_count,
        "concurrency": read_plan.concurrency,
        "most_concurrency": read_plan.most_concurrency,
        "staging": None if read_plan.staging is None else asdict(read_plan.staging),
        "files": [_file_as_json(file) for file in _files(read_plan)],
    }


def _file_as_json(file: _File) -> Mapping[str, object]:
    choice = None if file.choice is None else asdict(file.choice)
    return {"uri": file.uri, "bytes": file.nbytes, "tensors": file.tensors, "reads": file.reads, "choice": choice}
