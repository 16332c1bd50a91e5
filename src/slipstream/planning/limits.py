"""What the caller's limits leave for tensors, once what bytes only pass through has its part; and how errors say so."""

from __future__ import annotations

from collections.abc import Sequence

from slipstream.errors import MemoryLimitError
from slipstream.options import Options
from slipstream.planning.landing import place_tensors
from slipstream.types import Checkpoint, Dtype, ReadPlan, StagingPlan, TensorInfo


def tensor_limit(options: Options, scratch_bytes: int, staging: StagingPlan | None) -> int | None:
    """Bytes that tensors may take, in flight and held by the caller together; None where there is no limit.

    Args:
        options: the caller's settings.
        scratch_bytes: host memory for what is read along with columns.
        staging: how bytes pass through a ring; None where they do not.

    Raises:
        MemoryLimitError: nothing is left.
    """
    if staging is not None and staging.limited_by == "device_memory_limit":
        return options.device_memory_limit
    if options.memory_limit is None:
        return None
    left = options.memory_limit - scratch_bytes - (staging.ring_bytes if staging else 0)
    if left <= 0:
        beside = " and ".join(f"{what}, {nbytes:,} bytes" for nbytes, what in _passing(scratch_bytes, staging))
        raise MemoryLimitError(
            f"memory_limit={options.memory_limit:,} has no room for a tensor beside {beside}: raise the limit, or take "
            "a smaller chunk_bytes"
        )
    return left


def check_largest(
    checkpoint: Checkpoint,
    selected: Sequence[TensorInfo],
    limit: int | None,
    scratch_bytes: int,
    staging: StagingPlan | None,
    cast: Dtype | None,
) -> None:
    """Raises MemoryLimitError where a tensor, or the piece of it that is wanted, is larger than the limit once cast."""
    if limit is None:
        return
    landed = place_tensors(selected, cast)
    largest = max(range(len(landed)), key=lambda number: landed[number].nbytes, default=None)
    if largest is None or landed[largest].nbytes <= limit:
        return
    tensor = selected[largest]
    raise MemoryLimitError(
        f"the tensor {tensor.name} takes {landed[largest].nbytes:,} bytes, more than "
        f"{_word_limit(limit, scratch_bytes, staging)}: raise the limit, or leave the tensor out with names=",
        uri=checkpoint.blobs[tensor.blob].uri,
        offset=tensor.start,
        length=tensor.nbytes,
    )


def word_limit(plan: ReadPlan) -> str:
    """A plan's limit for people: the option and its value, and what was taken off that for other things."""
    assert plan.memory_limit is not None, "there is no limit to word"
    return _word_limit(plan.memory_limit, plan.scratch_bytes, plan.staging)


def _word_limit(limit: int, scratch_bytes: int, staging: StagingPlan | None) -> str:
    if staging is not None and staging.limited_by == "device_memory_limit":
        return f"device_memory_limit={limit:,}"
    passing = _passing(scratch_bytes, staging)
    whole = f"memory_limit={limit + sum(nbytes for nbytes, _ in passing):,}"
    if not passing:
        return whole
    return f"{whole}, less {' and '.join(f'{nbytes:,} for {what}' for nbytes, what in passing)}"


def _passing(scratch_bytes: int, staging: StagingPlan | None) -> list[tuple[int, str]]:
    """Host memory beside the tensors, and what it is for."""
    parts = [(scratch_bytes, "what is read along with columns")]
    if staging is not None:
        parts.append((staging.ring_bytes, "the ring that tensors pass through"))
    return [part for part in parts if part[0]]
