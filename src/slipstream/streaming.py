"""The story of a load, stage by stage. Data flows one way:

    locate  ->  describe  ->  plan  ->  read  ->  deliver

This is the only place that wires the stages together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from slipstream.delivery.base import choose_framework
from slipstream.delivery.casting import find_dtype
from slipstream.delivery.device import find_target
from slipstream.delivery.opening import begin_opening
from slipstream.describe import describe_checkpoint
from slipstream.errors import MemoryLimitError
from slipstream.options import Options
from slipstream.planning.build import plan_reads
from slipstream.planning.select import Names, select_tensors
from slipstream.progress import find_report
from slipstream.sources.locate import Uri, locate_checkpoint
from slipstream.sources.registry import Sources, StorageOptionsGiven
from slipstream.tensor_stream import TensorStream
from slipstream.types import Blob, Checkpoint, Dtype, LoadStats, Progress, ReadPlan, StorageFacts

if TYPE_CHECKING:
    import torch

    from slipstream.delivery.base import FrameworkName, Tensor
    from slipstream.delivery.casting import DtypeGiven
    from slipstream.delivery.device import Device


def stream(
    uri: Uri | Sequence[Uri],
    *,
    device: Device = "cpu",
    dtype: DtypeGiven | None = None,
    framework: FrameworkName | None = None,
    names: Names | None = None,
    options: Options | None = None,
    storage_options: StorageOptionsGiven | None = None,
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
            (docs/gpu.md).
        dtype: what floating-point tensors of 16 bits and more are cast to on the way, as torch.bfloat16 or "bfloat16";
            None leaves all as they are. Others, and quantized ones, stay as they are.
        framework: "torch" or "numpy"; torch where it is installed.
        names: which tensors: a name or glob, a list of them, or a function from name to bool. Only
            their bytes are read. None is all.
        options: how to read; see Options.
        storage_options: how object stores and HTTP servers are reached, by the names that pandas and fsspec use:
            endpoint, region, credentials, anonymous, ca_bundle, proxy, headers (docs/object-stores.md). What is not
            given is taken from the usual environment variables of each cloud.
        progress: True for a bar on standard error, or a function that is given a Progress about ten
            times a second, in the thread that iterates.

    Returns:
        A TensorStream of (name, tensor). Its text says who owns the bytes, and until when.

    Raises:
        UsageError, BlobNotFoundError, AccessDeniedError, FormatError, TensorNotFoundError,
        MemoryLimitError, MissingDependencyError: before any tensor is read.
        ReadError and others: while iterating; see TensorStream.
    """
    return _begin(uri, device, dtype, framework, names, options, storage_options, progress)


def load(
    uri: Uri | Sequence[Uri],
    *,
    device: Device = "cpu",
    dtype: DtypeGiven | None = None,
    framework: FrameworkName | None = None,
    names: Names | None = None,
    options: Options | None = None,
    storage_options: StorageOptionsGiven | None = None,
    progress: bool | Callable[[Progress], object] = False,
) -> dict[str, Tensor]:
    """Loads a checkpoint as a whole: name -> tensor. Arguments, ownership and errors as in `stream`."""
    with _begin(
        uri, device, dtype, framework, names, options, storage_options, progress, keeps=True, check=_check_fits
    ) as tensors:
        return dict(tensors)


def load_into(
    module: torch.nn.Module,
    uri: Uri | Sequence[Uri],
    *,
    device: Device = "cpu",
    dtype: DtypeGiven | None = None,
    strict: bool = True,
    names: Names | None = None,
    options: Options | None = None,
    storage_options: StorageOptionsGiven | None = None,
    progress: bool | Callable[[Progress], object] = False,
) -> LoadStats:
    """Loads a checkpoint into a PyTorch module's parameters and buffers.

    Names and shapes are compared before any tensor is read. Values are copied into the module's own
    memory and cast to its types, as `load_state_dict` does; parameters on the meta device are replaced
    by the loaded tensors without a copy, in the checkpoint's type. Tied parameters need one of their names.

    Args:
        module: what to load into. It is changed while this runs, also when it ends in an error.
        uri, device, dtype, names, options, storage_options, progress: as in `stream`. The module's own device may be
            another; for one on a GPU give that as `device`.
        strict: whether names that only one side has are an error. Shapes that differ always are.

    Raises:
        ModuleMismatchError: names or shapes do not agree; nothing was read or changed.
        Others: as `stream`, and while iterating.
    """
    from slipstream.delivery.module import ModuleFiller

    filler = ModuleFiller(module, strict=strict)
    begun = _begin(
        uri, device, dtype, "torch", names, options, storage_options, progress, keeps=filler.keeps, check=filler.check
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
    options: Options | None = None,
    storage_options: StorageOptionsGiven | None = None,
) -> ReadPlan:
    """Plans a load, from headers alone: which ranges are read, how, and why.

    Args:
        uri, device, dtype, names, options, storage_options: as in `stream`. The device need not be there.

    Raises:
        As `inspect`; and TensorNotFoundError, MemoryLimitError.
    """
    with Sources(storage_options, options) as sources:
        return _plan(uri, device, names, options or Options(), sources, cast=find_dtype(dtype))


def _describe(uri: Uri | Sequence[Uri], sources: Sources) -> Checkpoint:
    return describe_checkpoint(locate_checkpoint(uri, sources), sources)


def _plan(
    uri: Uri | Sequence[Uri],
    device: Device,
    names: Names | None,
    options: Options,
    sources: Sources,
    *,
    cast: Dtype | None = None,
    keeps: bool = False,
    see_storage: Callable[[StorageFacts, Blob], StorageFacts] = lambda facts, blob: facts,
) -> ReadPlan:
    checkpoint = _describe(uri, sources)
    selected = select_tensors(checkpoint, names)
    used = {tensor.blob for tensor in selected}
    facts = [
        see_storage(sources.find(blob.uri).see_facts(blob), blob) if number in used else None
        for number, blob in enumerate(checkpoint.blobs)
    ]
    return plan_reads(checkpoint, selected, facts, options, find_target(device), cast=cast, keeps=keeps)


def _begin(
    uri: Uri | Sequence[Uri],
    device: Device,
    dtype: DtypeGiven | None,
    framework: FrameworkName | None,
    names: Names | None,
    options: Options | None,
    storage_options: StorageOptionsGiven | None,
    progress: bool | Callable[[Progress], object],
    *,
    keeps: bool = False,
    check: Callable[[ReadPlan], object] = lambda reads: None,
) -> TensorStream:
    """Plans a load and, if `check` does not object to the plan, begins to read. `keeps`: what is loaded is kept."""
    started = time.perf_counter(), time.process_time()
    options = options or Options()
    target, cast = find_target(device), find_dtype(dtype)
    delivered_as = choose_framework(framework)
    report = find_report(progress)
    opening = begin_opening(target, device, delivered_as, options)
    sources = Sources(storage_options, options)
    try:
        reads = _plan(uri, device, names, options, sources, cast=cast, keeps=keeps, see_storage=opening.see_storage)
        check(reads)
        populate = keeps if options.populate == "auto" else options.populate
        copier = opening.wait_copier(reads)
        return TensorStream(
            reads,
            delivered_as,
            options,
            sources,
            populate=populate,
            copier=copier,
            warm_up_s=opening.warm_up_s,
            report=report,
            started=started,
        )
    except BaseException:
        sources.close()
        raise


def _check_fits(reads: ReadPlan) -> None:
    needed = sum(op.landing_bytes or op.nbytes for op in reads.ops)
    if reads.memory_limit is not None and needed > reads.memory_limit:
        raise MemoryLimitError(
            f"load() keeps every tensor, {needed:,} bytes, and {reads.limited_by} is {reads.memory_limit:,}: "
            "use stream() and drop each tensor, select with names=, or raise the limit"
        )
