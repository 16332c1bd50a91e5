"""The story of a load, stage by stage. Data flows one way:

    locate  ->  describe  ->  plan  ->  read  ->  deliver

Where ranks share a load, the first of them does the first two for all, and `ranks` stands between read and deliver.
This is the only place that wires the stages together. Plain ranges go the same way (ranges.py), and so do the files of
a pull (pulling/).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from slipstream.delivery.base import choose_framework
from slipstream.delivery.device import find_target, require_host
from slipstream.describe import describe_checkpoint
from slipstream.errors import MemoryLimitError
from slipstream.options import Options
from slipstream.planning.build import plan_reads
from slipstream.planning.select import Names, select_tensors
from slipstream.progress import find_report
from slipstream.ranges import RangeStream, describe_ranges, name_range
from slipstream.sources.locate import Uri, list_uris, locate_checkpoint
from slipstream.sources.registry import Sources, StorageOptionsGiven
from slipstream.tensor_stream import TensorStream
from slipstream.types import ByteRange, Checkpoint, LoadStats, Progress, ReadPlan

if TYPE_CHECKING:
    import torch
    import torch.distributed

    from slipstream.delivery.base import FrameworkName, Tensor
    from slipstream.delivery.device import Device
    from slipstream.ranks.engine import RankEngine
    from slipstream.ranks.team import Team

    Distributed: TypeAlias = bool | torch.distributed.ProcessGroup | None


def stream(
    uri: Uri | Sequence[Uri],
    *,
    device: Device = "cpu",
    framework: FrameworkName | None = None,
    names: Names | None = None,
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
        device: where the tensors are wanted; "cpu" in this version.
        framework: "torch" or "numpy"; torch where it is installed.
        names: which tensors: a name or glob, a list of them, or a function from name to bool. Only
            their bytes are read. None is all.
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
    sources = Sources(storage_options, options)
    return begin_stream(
        partial(_describe, uri), sources, device, framework, names, options, progress, distributed=distributed, uri=uri
    )


def load(
    uri: Uri | Sequence[Uri],
    *,
    device: Device = "cpu",
    framework: FrameworkName | None = None,
    names: Names | None = None,
    options: Options | None = None,
    storage_options: StorageOptionsGiven | None = None,
    distributed: Distributed = None,
    progress: bool | Callable[[Progress], object] = False,
) -> dict[str, Tensor]:
    """Loads a checkpoint as a whole: name -> tensor. Arguments, ownership and errors as in `stream`."""
    with begin_stream(
        partial(_describe, uri),
        Sources(storage_options, options),
        device,
        framework,
        names,
        options,
        progress,
        keeps=True,
        check=lambda reads: _check_fits(options or Options(), reads),
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
        begin_stream(describe, sources, device, framework, None, options, progress, distributed=distributed, uri=asked)
    )


def load_into(
    module: torch.nn.Module,
    uri: Uri | Sequence[Uri],
    *,
    device: Device = "cpu",
    strict: bool = True,
    names: Names | None = None,
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
        uri, device, names, options, storage_options, distributed, progress: as in `stream`.
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
        device,
        "torch",
        names,
        options,
        progress,
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
    names: Names | None = None,
    options: Options | None = None,
    storage_options: StorageOptionsGiven | None = None,
) -> ReadPlan:
    """Plans a load, from headers alone: which ranges are read, how, and why.

    Args:
        uri, device, names, options, storage_options: as in `stream`.

    Raises:
        As `inspect`; and TensorNotFoundError, MemoryLimitError.
    """
    with Sources(storage_options, options) as sources:
        return _plan(_describe(uri, sources), device, names, options or Options(), sources)


def _describe(uri: Uri | Sequence[Uri], sources: Sources) -> Checkpoint:
    return describe_checkpoint(locate_checkpoint(uri, sources), sources)


def _plan(checkpoint: Checkpoint, device: Device, names: Names | None, options: Options, sources: Sources) -> ReadPlan:
    selected = select_tensors(checkpoint, names)
    used = {tensor.blob for tensor in selected}
    facts = [
        sources.find(blob.uri).see_facts(blob) if number in used else None
        for number, blob in enumerate(checkpoint.blobs)
    ]
    return plan_reads(checkpoint, selected, facts, options, find_target(device))


def begin_stream(
    describe: Callable[[Sources], Checkpoint],
    sources: Sources,
    device: Device,
    framework: FrameworkName | None,
    names: Names | None,
    options: Options | None,
    progress: bool | Callable[[Progress], object],
    *,
    keeps: bool = False,
    check: Callable[[ReadPlan], object] = lambda reads: None,
    distributed: Distributed = None,
    uri: Uri | Sequence[Uri] = (),
) -> TensorStream:
    """Plans a load of what `describe` finds and, if `check` does not object to the plan, begins to read.

    Takes the sources over, and closes them in the end. `keeps`: what is loaded is kept. `uri`: what `describe`
    describes, by which ranks that share a load tell whether they were given the same.
    """
    started = time.perf_counter(), time.process_time()
    settle = partial(_settle, device, framework, options, progress)
    team: Team | None = None
    try:
        team = _join(distributed, device, settle)
        options, delivered_as, report = settle()
        plan_described = partial(_plan, device=device, names=names, options=options, sources=sources)
        if team is None:
            reads = plan_described(describe(sources))
        else:
            reads = _agree(team, uri, sources, partial(describe, sources), plan_described)
        check(reads)
        populate = keeps if options.populate == "auto" else options.populate
        engine = None if team is None else _start_shared(team, reads, options, sources, populate=populate)
        return TensorStream(
            reads, delivered_as, options, sources, populate=populate, report=report, started=started, engine=engine
        )
    except BaseException as error:
        sources.close()
        if team is not None:
            team.watch.fail(error)
        raise


def _settle(
    device: Device,
    framework: FrameworkName | None,
    options: Options | None,
    progress: bool | Callable[[Progress], object],
) -> tuple[Options, FrameworkName, Callable[[Progress], object] | None]:
    """What the caller's arguments come to, as far as that can be told without I/O."""
    require_host(device)
    return options or Options(), choose_framework(framework), find_report(progress)


# What ranks that share a load add to the story. Imported here and not above, because all of it needs torch.


def _join(
    distributed: Distributed,
    device: Device,
    settle: Callable[[], tuple[Options, FrameworkName, Callable[[Progress], object] | None]],
) -> Team | None:
    """The ranks that share this load; None for a load of one's own."""
    if distributed is None or distributed is False:
        return None
    choose_framework("torch")  # also where tensors are wanted for another: it passes the bytes round
    from slipstream.ranks.joining import join_team
    from slipstream.ranks.meeting import make_terms

    return join_team(distributed, lambda: make_terms(str(device), settle()[0]))


def _agree(
    team: Team,
    uri: Uri | Sequence[Uri],
    sources: Sources,
    describe: Callable[[], Checkpoint],
    plan_described: Callable[[Checkpoint], ReadPlan],
) -> ReadPlan:
    from slipstream.ranks.agreement import agree_on_plan

    return agree_on_plan(team, list_uris(uri), sources, describe, plan_described)


def _start_shared(team: Team, reads: ReadPlan, options: Options, sources: Sources, *, populate: bool) -> RankEngine:
    from slipstream.ranks.engine import RankEngine

    return RankEngine(reads, options, sources, team, populate=populate)


def _check_fits(options: Options, reads: ReadPlan) -> None:
    if options.count_held and reads.memory_limit is not None and reads.nbytes > reads.memory_limit:
        raise MemoryLimitError(
            f"load() keeps every tensor, {reads.nbytes:,} bytes, and memory_limit is {reads.memory_limit:,}: "
            "use stream() and drop each tensor, select with names=, or raise the limit"
        )
