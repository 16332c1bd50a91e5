"""How a load passes through a ring of slots: whether it does, how large that is, and what is copied together."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import replace

from slipstream.errors import MemoryLimitError, UsageError
from slipstream.options import Options
from slipstream.planning.divide import Piece, find_part
from slipstream.planning.landing import landed_dtype, packed_bytes, place_tensors
from slipstream.planning.limits import check_largest
from slipstream.types import Dtype, ReadOp, ReadPlan, StagingPlan, Strategy, StrategyChoice, Target, TensorInfo

_AUTO_RING_BYTES = 256 << 20
# For many connections at once, each of which reads a chunk: 128 of 8 MiB. Beyond that page-locking costs seconds.
_AUTO_RING_BYTES_AT_MOST = 1 << 30
# Direct reads take whole pages, on both sides of what is wanted.
_SPARE_BYTES = 2 * mmap.PAGESIZE
_SMALLEST_CHUNK_BYTES = mmap.PAGESIZE
_FEWEST_SLOTS = 4  # so that two are read into while two are copied from
_SPARE_SLOTS = 4  # that are copied from while all others are read into
# Of a limit on host memory, tensors need most.
_RING_SHARE_OF_LIMIT = 4
# What may be on a device without having been handed out: it bounds how far reading gets ahead of a caller who does
# something with each tensor, and drops it. Unmeasured: tens of milliseconds of the fastest storage.
_MOST_AHEAD_BYTES = 1 << 30


def why_staged(selected: Sequence[TensorInfo], options: Options, target: Target, cast: Dtype | None) -> str | None:
    """Why bytes pass through a ring, in one clause; None where they are read into their place.

    Raises:
        UsageError: they must, and the options forbid it.
    """
    reason = None
    if target is Target.DEVICE:
        reason = "other devices than the host are reached through a ring of page-locked memory"
    elif any(landed_dtype(info, cast) is not info.dtype for info in selected):
        reason = f"tensors are cast to {cast} on their way through a ring"
    if reason is not None and options.staging is False:
        raise UsageError(f'{reason}, which staging=False forbids: leave it at "auto"')
    return "asked for by the options" if reason is None and options.staging is True else reason


def plan_staging(
    reason: str,
    options: Options,
    target: Target,
    *,
    cast: Dtype | None,
    concurrency: int,
    keeps: bool,
    scratch_bytes: int = 0,
) -> StagingPlan:
    """How large the ring is.

    Args:
        reason: why there is one.
        options: the caller's settings.
        target: where the tensors are used.
        cast: the type that floating-point tensors are wanted in.
        concurrency: reads in flight, at most.
        keeps: whether the caller keeps every tensor.
        scratch_bytes: of the limit on host memory that something else takes.

    Raises:
        MemoryLimitError: the limit leaves no room for a slot.
    """
    on_device = target is Target.DEVICE
    chunk_bytes, slots = _size_ring(options, concurrency, scratch_bytes, on_device=on_device)
    return StagingPlan(
        reason=reason,
        slot_bytes=chunk_bytes + _SPARE_BYTES,
        slots=slots,
        cast=cast,
        limited_by="device_memory_limit" if on_device else "memory_limit",
        most_ahead_bytes=_MOST_AHEAD_BYTES if on_device and not keeps else None,
    )


def receive_on_device(plan: ReadPlan, options: Options, piece_bytes: int, *, keeps: bool) -> ReadPlan:
    """A plan of reads for the host, as it is run where ranks pass pieces round on their devices.

    Ops are received there as they are in the blobs, and their tensors brought from there to where they are wanted. What
    a rank reads itself goes through slots that hold a piece each.

    Args:
        plan: made without a limit.
        options: the caller's settings.
        piece_bytes: the largest piece.
        keeps: whether the caller keeps every tensor.

    Raises:
        MemoryLimitError: the limit on host memory leaves no room for a slot, or that of the device none for a tensor.
    """
    slot_bytes = piece_bytes + _SPARE_BYTES
    most = _AUTO_RING_BYTES if options.ring_bytes == "auto" else options.ring_bytes
    if options.memory_limit is not None:
        most = min(most, options.memory_limit)
        if slot_bytes > options.memory_limit:
            raise _no_room(options, slot_bytes)
    staging = StagingPlan(
        reason="ranks pass them round on their devices",
        slot_bytes=slot_bytes,
        slots=max(most // slot_bytes, 1),
        cast=None,
        limited_by="device_memory_limit",
        most_ahead_bytes=None if keeps else _MOST_AHEAD_BYTES,
    )
    limit = options.device_memory_limit
    check_largest(plan.checkpoint, [info for op in plan.ops for info in op.tensors], limit, 0, staging, None)
    return replace(plan, memory_limit=limit, staging=staging)


def lease_landed(plan: ReadPlan, limit: int | None, cast: Dtype | None, parts: Mapping[str, Piece] | None) -> ReadPlan:
    """A plan whose ops are received whole, each into memory that goes back once its tensors have memory of their own.

    An op's lease is what its tensors take in the end, where that is more than its bytes.

    Args:
        plan: of what is received.
        limit: of what is received and what the caller holds, together, in bytes.
        cast: the type that floating-point tensors are wanted in.
        parts: what of each tensor is wanted; None is all.

    Raises:
        MemoryLimitError: a tensor is larger than the limit.
    """
    wanted = [[part.info for info in op.tensors if (part := find_part(info, parts)) is not None] for op in plan.ops]
    check_largest(plan.checkpoint, [info for infos in wanted for info in infos], limit, 0, plan.staging, cast)
    ops: list[ReadOp] = []
    for op, infos in zip(plan.ops, wanted, strict=True):
        landed = sum(place.nbytes for place in place_tensors(infos, cast))
        lease = max(op.nbytes, landed if limit is None else min(landed, limit))
        ops.append(replace(op, copies=False, realigns=False, landing_bytes=lease))
    return replace(plan, ops=tuple(ops), memory_limit=limit)


def lease_received(plan: ReadPlan) -> ReadPlan:
    """The same where tensors come to stand in memory that the plan's limit is not about."""
    return replace(plan, ops=tuple(replace(op, copies=False, realigns=False) for op in plan.ops))


def first_slot_bytes(options: Options) -> int:
    """How large the slots of a load to a device most likely are: known before anything else is, to make some ahead."""
    return _size_ring(options, 1, 0, on_device=True)[0] + _SPARE_BYTES


def most_chunk_bytes(staging: StagingPlan) -> int:
    """The most that one read brings into a slot, wherever it begins in a page."""
    return staging.slot_bytes - _SPARE_BYTES


def fit_choice(choice: StrategyChoice, staging: StagingPlan) -> StrategyChoice:
    """A blob's choice as it is read into slots: no chunk is larger than one, and nothing is mapped."""
    chunk_bytes = min(choice.chunk_bytes, most_chunk_bytes(staging))
    reason = choice.reason
    if staging.limited_by == "memory_limit":
        reason = reason.replace("to the device", "through the ring").replace("through the host", "through the ring")
    if choice.strategy is not Strategy.MAPPED:
        return replace(choice, reason=reason, chunk_bytes=chunk_bytes)
    reason = f"{reason}; what passes through a ring is copied rather than mapped"
    return replace(choice, strategy=Strategy.BUFFERED, reason=reason, chunk_bytes=chunk_bytes)


def join_staged(tensors: Sequence[TensorInfo], staging: StagingPlan, *, most_bytes: int, limited: bool) -> list[ReadOp]:
    """Cuts one blob's tensors into ReadOps: as coalesce_tensors, but what is joined is copied from one slot.

    A tensor of `most_bytes` or more stands alone. Tensors that are cast are joined with others of their type alone, so
    that one call casts them all.

    Args:
        tensors: of one blob, by offset.
        staging: of the load.
        most_bytes: up to how much is joined, with the gaps between them.
        limited: whether tensors that are read together must be able to go back one by one.
    """
    most_bytes = min(most_bytes, most_chunk_bytes(staging))
    ops: list[ReadOp] = []
    run: list[TensorInfo] = []
    packed = 0
    for info in tensors:
        nbytes = packed_bytes(info, staging.cast)
        joins = run and info.start == run[-1].end and packed + nbytes <= most_bytes
        if run and not (joins and _are_alike(run[-1], info, staging.cast)):
            ops.append(stage_op(run, staging.cast, limited=limited))
            run, packed = [], 0
        run.append(info)
        packed += nbytes
    if run:
        ops.append(stage_op(run, staging.cast, limited=limited))
    return ops


def stage_op(tensors: Sequence[TensorInfo], cast: Dtype | None, *, limited: bool = False) -> ReadOp:
    """One op of tensors that pass through a ring together, or of a single one.

    Args:
        tensors: neighbours, by offset; at least one.
        cast: the type that floating-point tensors are wanted in.
        limited: whether they must be able to go back one by one.
    """
    places = place_tensors(tensors, cast)
    several = len(tensors) > 1
    copies = several and limited
    start, end = tensors[0].start, tensors[-1].end
    if several:
        piece_bytes = max(end - start, 1)
    else:
        piece_bytes = 1 if places[0].dtype is tensors[0].dtype else tensors[0].dtype.bits // 8
    return ReadOp(
        blob=tensors[0].blob,
        start=start,
        end=end,
        tensors=tuple(tensors),
        copies=copies,
        landing_bytes=sum(place.nbytes for place in places) if copies else places[-1].end,
        piece_bytes=piece_bytes,
    )


def _size_ring(options: Options, concurrency: int, scratch_bytes: int, *, on_device: bool) -> tuple[int, int]:
    """The chunk that a slot holds, and as many slots as reads in flight can use, within what the options allow."""
    chunk_bytes = -(-options.chunk_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
    wanted = (concurrency + _SPARE_SLOTS) * (chunk_bytes + _SPARE_BYTES)
    if options.ring_bytes == "auto":
        most = max(_AUTO_RING_BYTES, min(wanted, _AUTO_RING_BYTES_AT_MOST))
    else:
        most = options.ring_bytes
    limit = None if options.memory_limit is None else options.memory_limit - scratch_bytes
    if limit is not None:
        most = min(most, limit if on_device else limit // _RING_SHARE_OF_LIMIT)
    chunk_bytes = max(min(chunk_bytes, _whole_pages(most // _FEWEST_SLOTS - _SPARE_BYTES)), _SMALLEST_CHUNK_BYTES)
    slot_bytes = chunk_bytes + _SPARE_BYTES
    if on_device and limit is not None and slot_bytes > limit:
        raise _no_room(options, slot_bytes, scratch_bytes)
    return chunk_bytes, max(most // slot_bytes, 1)


def _no_room(options: Options, slot_bytes: int, scratch_bytes: int = 0) -> MemoryLimitError:
    beside = f", beside {scratch_bytes:,} for what is read along with columns" if scratch_bytes else ""
    return MemoryLimitError(
        f"memory_limit={options.memory_limit:,} has no room for a slot of the ring that tensors pass through, "
        f"{slot_bytes:,} bytes{beside}: raise the limit"
    )


def _whole_pages(length: int) -> int:
    return length // mmap.PAGESIZE * mmap.PAGESIZE


def _are_alike(left: TensorInfo, right: TensorInfo, cast: Dtype | None) -> bool:
    """Whether two tensors can be copied together: both as they are, or both cast from one type."""
    casts = landed_dtype(left, cast) is not left.dtype, landed_dtype(right, cast) is not right.dtype
    return casts == (False, False) or (casts == (True, True) and left.dtype is right.dtype)
