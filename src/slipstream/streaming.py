"""The story of a load, stage by stage. Data flows one way:

    locate  ->  describe  ->  plan  ->  read  ->  deliver

Where ranks share a load, the first of them does the first two for all, and `ranks` stands between read and deliver.
This is the only place that wires the stages together. Plain ranges go the same way (ranges.py), and so do the files of
a pull (pulling/).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from slipstream.delivery.casting import find_dtype
from slipstream.delivery.device import find_target
from slipstream.delivery.opening import begin_opening
from slipstream.describe import describe_checkpoint
from slipstream.errors import MemoryLimitError
from slipstream.options import Options
from slipstream.planning.limits import word_limit
from slipstream.planning.select import Names
from slipstream.planning.shard import Shard
from slipstream.ranges import RangeStream, describe_ranges, name_range
from slipstream.sharing import agree, join_ranks, start_shared
from slipstream.sources.locate import Uri, list_uris, locate_checkpoint
from slipstream.sources.registry import Sources, StorageOptionsGiven
from slipstream.survey import plan_shards
from slipstream.tensor_stream import TensorStream
from slipstream.types import ByteRange, Checkpoint, LoadStats, Progress, ReadPlan, Target
from slipstream.wanted import settle_arguments

if TYPE_CHECKING:
    import torch

    from slipstream.delivery.base import FrameworkName, Tensor
    from slipstream.delivery.casting import DtypeGiven
    from slipstream.delivery.device import Device
    from slipstream.ranks.team import Team
    from slipstream.sharing import Distributed


def stream(
    uri: Uri | Sequence[Uri],
    *,
    device: Device = "cpu",
    dtype: DtypeGiven | None = None,
    framework: FrameworkName | None = None,
    names: Names | None = None,
    shard: Shard | None = None,
    options: Options | None = None,
    storage_options: StorageOptionsGiven | None = None,
    distributed: Distributed = None,
    progress: bool | Callable[[Progress], object] = False,
) -> TensorStream:
    """Streams a checkpoint: hands each tensor out the moment its last byte is there.

        with slipstream.stream("model/") as tensors:
            for name, tensor in tensors:
                ...

    Args:
        uri: a file, directory or glob, an s3://, gs:// or az:// blob, prefix or glob, an http(s):// URL, or a list of
            these. A directory or prefix is read through its `*.index.json` where it has one, else all its
            `*.safetensors`.
        device: where the tensors are wanted: "cpu", "cuda", "cuda:1", "xpu", a torch.device. What the caller does with
            a tensor on a device comes after its copy, in the stream that is current where it is handed out
            (docs/gpu.md). With framework="jax" a device of JAX or its name, a jax.sharding.Sharding, or a function
            from a TensorInfo to one of these.
        dtype: what floating-point tensors of 16 bits and more are cast to on the way, as torch.bfloat16 or "bfloat16";
            None leaves all as they are. Others, and quantized ones, stay as they are.
        framework: "torch", "numpy" or "jax"; torch where it is installed.
        names: which tensors: a name or glob, a list of them, or a function from name to bool. Only
            their bytes are read. None is all.
        shard: which part of them: only the rows and columns that belong to one rank are read and handed out
            (docs/sharding.md). None is all of each.
        options: how to read; see Options.
        storage_options: how object stores and HTTP servers are reached, by the names that pandas and fsspec use:
            endpoint, region, credentials, anonymous, ca_bundle, proxy, headers (docs/object-stores.md). What is not
            given is taken from the usual environment variables of each cloud.
        distributed: a torch.distributed process group, or True for the default one, whose ranks share the load: each
            byte is read by one of them and passed on to the others, and every rank is given all tensors, in the same
            order. Every rank of the group makes the same call, and iterates to the end; one that fails, leaves or
            dies ends the load of all (docs/distributed.md). None or False is a load of one's own.
        progress: True for a bar on standard error, or a function that is given a Progress about ten
            times a second, in the thread that iterates.

    Returns:
        A TensorStream of (name, tensor). Its text says who owns the bytes, and until when.

    Raises:
        UsageError, BlobNotFoundError, AccessDeniedError, FormatError, TensorNotFoundError,
        MemoryLimitError, MissingDependencyError: before any tensor is read.
        RankError: a rank of a shared load did not come, died or left.
        ReadError and others: while iterating; see TensorStream.
    """
    return begin_stream(
        partial(_describe, uri),
        Sources(storage_options, options),
        options,
        progress,
        device=device,
        dtype=dtype,
        framework=framework,
        names=names,
        shard=shard,
        distributed=distributed,
        uri=uri,
    )


def load(
    uri: Uri | Sequence[Uri],
    *,
    device: Device = "cpu",
    dtype: DtypeGiven | None = None,
    framework: FrameworkName | None = None,
    names: Names | None = None,
    shard: Shard | None = None,
    options: Options | None = None,
    storage_options: StorageOptionsGiven | None = None,
    distributed: Distributed = None,
    progress: bool | Callable[[Progress], object] = False,
) -> dict[str, Tensor]:
    """Loads a checkpoint as a whole: name -> tensor. Arguments, ownership and errors as in `stream`."""
    options = options or Options()
    with begin_stream(
        partial(_describe, uri),
        Sources(storage_options, options),
        options,
        progress,
        device=device,
        dtype=dtype,
        framework=framework,
        names=names,
        shard=shard,
        keeps=True,
        check=partial(_check_fits, options),
        distributed=distributed,
        uri=uri,
    ) as tensors:
        return dict(tensors)


def stream_ranges(
    ranges: Sequence[ByteRange],
    *,
    device: Device = "cpu",
    framework: FrameworkName | None = None,
    options: Options | None = None,
    storage_options: StorageOptionsGiven | None = None,
    distributed: Distributed = None,
    progress: bool | Callable[[Progress], object] = False,
) -> RangeStream:
    """Streams plain ranges of blobs, whatever is in them: hands each out the moment its last byte is there.

        with slipstream.stream_ranges([ByteRange("s3://models/a.bin", 0, 4096), ...]) as ranges:
            for position, data in ranges:
                ...

    Args:
        ranges: of files, objects and URLs, mixed. They may overlap, repeat and be empty.
        device, framework, options, storage_options, distributed: as in `stream`.
        progress: as in `stream`; its tensors are ranges.

    Returns:
        A RangeStream of (position in `ranges`, bytes). Its text says who owns the bytes, and until when.

    Raises:
        UsageError: a range that is none, or reaches beyond its blob. Before any is read, as the others.
        BlobNotFoundError, AccessDeniedError, MemoryLimitError, MissingDependencyError: as `stream`.
        RankError: as `stream`.
        ReadError and others: while iterating; see TensorStream.
    """
    options = options or Options()
    ranges = list(ranges)
    describe = partial(describe_ranges, ranges, options.memory_limit)
    sources = Sources(storage_options, options)
    asked = [name_range(wanted) for wanted in ranges]
    return RangeStream(
        begin_stream(
            describe,
            sources,
            options,
            progress,
            device=device,
            framework=framework,
            distributed=distributed,
            uri=asked,
        )
    )


def load_into(
    module: torch.nn.Module,
    uri: Uri | Sequence[Uri],
    *,
    device: Device = "cpu",
    dtype: DtypeGiven | None = None,
    strict: bool = True,
    names: Names | None = None,
    shard: Shard | None = None,
    options: Options | None = None,
    storage_options: StorageOptionsGiven | None = None,
    distributed: Distributed = None,
    progress: bool | Callable[[Progress], object] = False,
) -> LoadStats:
    """Loads a checkpoint into a PyTorch module's parameters and buffers.

    Names and shapes are compared before any tensor is read. Values are copied into the module's own
    memory and cast to its types, as `load_state_dict` does; parameters on the meta device are replaced
    by the loaded tensors without a copy, in the checkpoint's type. Tied parameters need one of their names.

    Args:
        module: what to load into. It is changed while this runs, also when it ends in an error.
        uri, device, dtype, names, shard, options, storage_options, distributed, progress: as in `stream`. The module's
            own device may be another; for one on a GPU give that as `device`.
        strict: whether names that only one side has are an error. Shapes that differ always are.

    Raises:
        ModuleMismatchError: names or shapes do not agree; nothing was read or changed.
        Others: as `stream`, and while iterating.
    """
    from slipstream.delivery.module import ModuleFiller

    filler = ModuleFiller(module, strict=strict)
    begun = begin_stream(
        partial(_describe, uri),
        Sources(storage_options, options),
        options,
        progress,
        device=device,
        dtype=dtype,
        framework="torch",
        names=names,
        shard=shard,
        keeps=filler.keeps,
        check=filler.check,
        distributed=distributed,
        uri=uri,
    )
    with begun as tensors:
        for name, tensor in tensors:
            filler.fill(name, tensor)
            del tensor  # so that the next one has room under a limit
        return tensors.stats()


def inspect(
    uri: Uri | Sequence[Uri], *, options: Options | None = None, storage_options: StorageOptionsGiven | None = None
) -> Checkpoint:
    """Describes a checkpoint from its headers alone: tensors, blobs, metadata.

    Args:
        uri, options, storage_options: as in `stream`.

    Raises:
        UsageError, BlobNotFoundError, AccessDeniedError, FormatError, ReadError.
    """
    with Sources(storage_options, options) as sources:
        return _describe(uri, sources)


def plan(
    uri: Uri | Sequence[Uri],
    *,
    device: Device = "cpu",
    dtype: DtypeGiven | None = None,
    names: Names | None = None,
    shard: Shard | None = None,
    options: Options | None = None,
    storage_options: StorageOptionsGiven | None = None,
) -> ReadPlan:
    """Plans a load, from headers alone: which ranges are read, how, and why.

    Args:
        uri, device, dtype, names, shard, options, storage_options: as in `stream`. The device need not be there.

    Raises:
        As `inspect`; and TensorNotFoundError, MemoryLimitError.
    """
    target = find_target(device)
    with Sources(storage_options, options) as sources:
        checkpoint = _describe(uri, sources)
        return plan_shards(checkpoint, target, names, [shard], options or Options(), sources, cast=find_dtype(dtype))[0]


def plan_ranks(
    uri: Uri | Sequence[Uri],
    shard: Shard,
    *,
    device: Device = "cpu",
    dtype: DtypeGiven | None = None,
    names: Names | None = None,
    options: Options | None = None,
    storage_options: StorageOptionsGiven | None = None,
) -> tuple[ReadPlan, ...]:
    """Plans the loads of all ranks, from one look at the headers: what each of them reads.

    Args:
        uri, device, dtype, names, options, storage_options: as in `stream`. The device need not be there.
        shard: how many ranks there are, and by which rules they divide. Its own rank does not matter.

    Returns:
        One plan for each rank, in their order.

    Raises:
        As `plan`.
    """
    target, cast = find_target(device), find_dtype(dtype)
    shards = [replace(shard, rank=rank) for rank in range(shard.world_size)]
    with Sources(storage_options, options) as sources:
        checkpoint = _describe(uri, sources)
        return tuple(plan_shards(checkpoint, target, names, shards, options or Options(), sources, cast=cast))


def _describe(uri: Uri | Sequence[Uri], sources: Sources) -> Checkpoint:
    return describe_checkpoint(locate_checkpoint(uri, sources), sources)


def begin_stream(
    describe: Callable[[Sources], Checkpoint],
    sources: Sources,
    options: Options | None,
    progress: bool | Callable[[Progress], object],
    *,
    device: Device = "cpu",
    dtype: DtypeGiven | None = None,
    framework: FrameworkName | None = None,
    names: Names | None = None,
    shard: Shard | None = None,
    keeps: bool = False,
    check: Callable[[ReadPlan], object] = lambda reads: None,
    distributed: Distributed = None,
    uri: Uri | Sequence[Uri] = (),
) -> TensorStream:
    """Plans a load of what `describe` finds and, if `check` does not object to the plan, begins to read.

    Takes the sources over, and closes them in the end. `keeps`: what is loaded is kept. `uri`: what `describe`
    describes, by which ranks that share a load tell whether they were given the same. All else as in `stream`.
    """
    started = time.perf_counter(), time.process_time()
    settle = partial(settle_arguments, device, dtype, framework, options, progress)
    team: Team | None = None
    try:
        team = join_ranks(distributed, settle, device)
        wanted = settle()
        options = wanted.options
        opening = begin_opening(wanted.target, device, wanted.framework, options, has_ring=team is None)
        planner = partial(plan_shards, names=names, options=options, sources=sources, aligned=wanted.is_placed_later)
        if team is None:
            (reads,) = planner(
                describe(sources),
                target=wanted.target,
                shards=[shard],
                cast=wanted.cast,
                keeps=keeps,
                see_storage=opening.see_storage,
            )
            check(reads)
            copier = opening.wait_copier(reads)
        else:  # all bytes are passed round, and go from there to where each rank wants which of them
            reads = agree(team, list_uris(uri), sources, partial(describe, sources), planner, options, keeps=keeps)
            check(reads if shard is None else planner(reads.checkpoint, target=Target.HOST, shards=[shard])[0])
            elsewhere = wanted.lands_elsewhere or shard is not None
            copier = opening.make_copier(wanted.cast) if elsewhere else None
        populate = keeps if options.populate == "auto" else options.populate
        engine = None if team is None else start_shared(team, reads, wanted, shard, sources, copier, populate=populate)
        return TensorStream(
            reads,
            wanted.framework,
            options,
            sources,
            placement=device if wanted.is_placed_later else None,
            populate=populate,
            copier=copier,
            warm_up_s=opening.warm_up_s,
            report=wanted.report,
            started=started,
            engine=engine,
        )
    except BaseException as error:
        sources.close()
        if team is not None:
            team.watch.fail(error)
        raise


def _check_fits(options: Options, reads: ReadPlan) -> None:
    needed = reads.landing_bytes
    if options.count_held and reads.memory_limit is not None and needed > reads.memory_limit:
        raise MemoryLimitError(
            f"load() keeps every tensor, {needed:,} bytes, more than {word_limit(reads)}: "
            "use stream() and drop each tensor, select with names=, or raise the limit"
        )
