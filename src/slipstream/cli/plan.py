"""`slipstream plan`: what a load would read, how, and why, from headers only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

from rich.console import Console

import slipstream
from slipstream.cli import arguments
from slipstream.cli.shard_table import print_ranks, shard_as_json
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
from slipstream.types import ReadPlan, StrategyChoice, TensorInfo


def plan(
    uris: arguments.Uris,
    device: arguments.Device = "cpu",
    dtype: arguments.Dtype = None,
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
    part = arguments.read_shard(shard)
    uri = arguments.one_or_many(uris)
    if part is None:
        read_plan = slipstream.plan(
            uri, device=device, dtype=dtype, names=names, options=options, storage_options=storage_options
        )
        ranks: Sequence[ReadPlan] = ()
    else:
        ranks = slipstream.plan_ranks(
            uri, part, device=device, dtype=dtype, names=names, options=options, storage_options=storage_options
        )
        read_plan = ranks[part.rank]
    if as_json:
        shards = {} if part is None else {"shard": shard_as_json(ranks, part.rank)}
        print(json.dumps({**_as_json(read_plan), **shards}, indent=2))
        return
    console = output()
    _print_plan(console, read_plan)
    if part is not None:
        print_ranks(console, ranks, part.rank)


def _print_plan(console: Console, read_plan: ReadPlan) -> None:
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
    skipped = _skipped_tensors(read_plan)
    chunks = sorted({choice.chunk_bytes for choice in read_plan.choices if choice is not None})
    along = read_plan.source_bytes - read_plan.nbytes
    with_gaps = f", and {format_bytes(along)} that lie between columns" if along else ""
    yield "reads", f"{format_bytes(read_plan.nbytes)} in {counted(read_plan.tensor_count, 'tensor')}{with_gaps}"
    if skipped:
        nbytes = sum(tensor.nbytes for tensor in skipped)
        yield "skipped", f"{format_bytes(nbytes)} in {counted(len(skipped), 'tensor')}"
    yield "in flight", _in_flight(read_plan)
    if chunks:
        yield "largest read", ", ".join(format_binary(chunk) for chunk in chunks)
    if read_plan.staging is not None:
        staging = read_plan.staging
        yield "ring", f"up to {staging.slots:,} slots, {format_bytes(staging.ring_bytes)}: {staging.reason}"
        if staging.cast is not None:
            yield "tensors take", f"{format_bytes(read_plan.landing_bytes)}, cast to {staging.cast}"


def _skipped_tensors(read_plan: ReadPlan) -> list[TensorInfo]:
    """The tensors of which nothing is delivered."""
    delivered = {tensor.name for op in read_plan.ops for tensor in op.tensors}
    return [tensor for tensor in read_plan.checkpoint.tensors if tensor.name not in delivered]


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
        nbytes[op.blob] += op.source_bytes
        tensors[op.blob] += len(op.tensors)
        reads[op.blob] += -(-op.nbytes // choice.chunk_bytes) if op.gather is None else op.gather.reads
    return [
        _File(blob.uri, nbytes[number], tensors[number], reads[number], choice)
        for number, (blob, choice) in enumerate(zip(read_plan.checkpoint.blobs, read_plan.choices, strict=True))
    ]


def _as_json(read_plan: ReadPlan) -> Mapping[str, object]:
    skipped = _skipped_tensors(read_plan)
    return {
        "bytes": read_plan.nbytes,
        "source_bytes": read_plan.source_bytes,
        "tensors": read_plan.tensor_count,
        "skipped_bytes": sum(tensor.nbytes for tensor in skipped),
        "skipped_tensors": len(skipped),
        "concurrency": read_plan.concurrency,
        "most_concurrency": read_plan.most_concurrency,
        "staging": None if read_plan.staging is None else asdict(read_plan.staging),
        "files": [_file_as_json(file) for file in _files(read_plan)],
    }


def _file_as_json(file: _File) -> Mapping[str, object]:
    choice = None if file.choice is None else asdict(file.choice)
    return {"uri": file.uri, "bytes": file.nbytes, "tensors": file.tensors, "reads": file.reads, "choice": choice}
