"""Whether the tensors of a blob fill it: from the header's end to the blob's, without gap or overlap.

Source: `Metadata::validate` in safetensors/src/tensor.rs. It computes in 64 bits and refuses what overflows, in
the order of the dimensions: [2^40, 2^40, 0] is refused, [0, 2^40, 2^40] holds no elements.
"""

from __future__ import annotations

from collections.abc import Sequence

from slipstream.formats.wording import plural, quoted, refusal
from slipstream.types import Blob, Dtype, TensorInfo

_U64_LIMIT = 2**64


def check_layout(tensors: Sequence[TensorInfo], data_start: int, blob: Blob) -> None:
    """Checks all tensors of one blob.

    Args:
        tensors: sorted by (start, end).
        data_start: where the header ends.
        blob: says its size.

    Raises:
        FormatError: tensors overlap or leave a gap, the blob ends before or after the last one, or a shape does
            not agree with its bytes.
    """
    previous: TensorInfo | None = None
    for tensor in tensors:
        _check_joins(tensor, previous, data_start, blob)
        _check_size(tensor, blob)
        previous = tensor
    data_end = previous.end if previous is not None else data_start
    if data_end > blob.size:
        missing = plural(data_end - blob.size, "byte")
        problem = f"the file is truncated: the header promises {data_end:,} bytes, the file has {blob.size:,},"
        problem += f" {missing} fewer: the download is probably incomplete"
        raise refusal(blob, problem, offset=blob.size, length=data_end - blob.size)
    if data_end < blob.size:
        extra = blob.size - data_end
        problem = f"the file goes on for {plural(extra, 'byte')} behind the last tensor: the header promises"
        problem += f" {data_end:,} bytes, the file has {blob.size:,}"
        raise refusal(blob, problem, offset=data_end, length=extra)


def _check_joins(tensor: TensorInfo, previous: TensorInfo | None, data_start: int, blob: Blob) -> None:
    expected = previous.end if previous is not None else data_start
    if tensor.start == expected and tensor.end >= tensor.start:
        return
    before = f"tensor {quoted(previous.name)}" if previous is not None else "the header"
    if tensor.end < tensor.start:
        begin, end = tensor.start - data_start, tensor.end - data_start
        problem = f"its data_offsets [{begin}, {end}] are reversed"
        raise refusal(blob, problem, offset=tensor.start, tensor=tensor.name)
    if tensor.start < expected:
        overlap = min(expected, tensor.end) - tensor.start
        problem = f"it overlaps {before}, which ends at byte {expected:,}"
        raise refusal(blob, problem, offset=tensor.start, length=overlap, tensor=tensor.name)
    gap = tensor.start - expected
    problem = f"there is a gap of {plural(gap, 'byte')} between {before} and it"
    raise refusal(blob, problem, offset=expected, length=gap, tensor=tensor.name)


def _check_size(tensor: TensorInfo, blob: Blob) -> None:
    bits = tensor_bits(tensor.dtype, tensor.shape)
    if bits == tensor.nbytes * 8:
        return
    if bits is None:
        fault = "has more bits than 64 bits can count"
    elif bits % 8:
        fault = f"is {bits:,} bits, which do not fill whole bytes"
    else:
        fault = f"is {plural(bits // 8, 'byte')}, but its data_offsets hold {tensor.nbytes:,}"
    problem = f"shape {quoted(list(tensor.shape))} of {tensor.dtype.value} {fault}"
    raise refusal(blob, problem, offset=tensor.start, length=tensor.nbytes, tensor=tensor.name)


def tensor_bits(dtype: Dtype, shape: tuple[int, ...]) -> int | None:
    """How many bits the tensor has; None where a product on the way there does not fit 64 bits."""
    elements = 1
    for dimension in shape:
        elements *= dimension
        if elements >= _U64_LIMIT:
            return None
    bits = elements * dtype.bits
    return bits if bits < _U64_LIMIT else None
