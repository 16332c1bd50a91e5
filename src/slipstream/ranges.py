"""Plain ranges of blobs, whatever is in them.

To the stages they are a checkpoint without headers: each range is a vector of bytes, named by its position. So ranges
are planned, read and delivered as tensors are.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index as as_whole_number
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from slipstream.errors import MemoryLimitError, UsageError
from slipstream.sources.concurrently import map_concurrently
from slipstream.sources.locate import as_text
from slipstream.sources.registry import Sources
from slipstream.tensor_stream import TensorStream
from slipstream.types import Blob, ByteRange, Checkpoint, Dtype, LoadStats, ReadPlan, TensorInfo

if TYPE_CHECKING:
    from slipstream.delivery.base import Tensor


def describe_ranges(ranges: Sequence[ByteRange], most_bytes: int | None, sources: Sources) -> Checkpoint:
    """Describes plain ranges. Finds each blob once, many at once.

    Args:
        ranges: in any order; they may overlap, repeat and be empty.
        most_bytes: how large one may be; None for no limit.
        sources: where the blobs are.

    Raises:
        UsageError: a range that is none, or reaches beyond its blob.
        MemoryLimitError: one that is larger.
        BlobNotFoundError, AccessDeniedError, ReadError: from the source.
    """
    ranges = [_check_range(number, given, most_bytes) for number, given in enumerate(ranges)]
    uris = list(dict.fromkeys(wanted.uri for wanted in ranges))
    blobs = map_concurrently(lambda uri: sources.find(uri).find_file(uri), uris, sources.close)
    numbers = {uri: number for number, uri in enumerate(uris)}
    return lay_out_ranges(blobs, [(numbers[uri], start, end) for uri, start, end in ranges])


def lay_out_ranges(blobs: Sequence[Blob], ranges: Sequence[tuple[int, int, int]]) -> Checkpoint:
    """The same of blobs that were found. No I/O.

    Args:
        blobs: in any order.
        ranges: position in `blobs`, start and end of each.

    Raises:
        UsageError: a range reaches beyond its blob.
    """
    tensors: list[TensorInfo] = []
    for position, (number, start, end) in enumerate(ranges):
        blob = blobs[number]
        if end > blob.size:
            raise UsageError(
                f"range {position}, [{start}, {end}), reaches beyond the {blob.size:,} bytes of {blob.uri}",
                uri=blob.uri,
                offset=start,
                length=end - start,
            )
        tensors.append(TensorInfo(str(position), Dtype.U8, (end - start,), number, start, end))
    tensors.sort(key=lambda tensor: (tensor.blob, tensor.start, tensor.end))
    return Checkpoint(tuple(blobs), tuple(tensors), ({},) * len(blobs))


def name_range(given: object) -> str:
    """Tells a range from every other, whatever was given for one: its URI first, so that this shows."""
    return " ".join(map(str, given)) if isinstance(given, tuple) else str(given)


def _check_range(number: int, given: object, most_bytes: int | None) -> ByteRange:
    try:
        uri, start, end = cast(Any, given)
        wanted = ByteRange(as_text(uri), as_whole_number(start), as_whole_number(end))
    except (TypeError, ValueError) as error:
        raise UsageError(f"range {number} is not (uri, start, end): give a slipstream.ByteRange") from error
    if not 0 <= wanted.start <= wanted.end:
        raise UsageError(f"range {number} is [{wanted.start}, {wanted.end}): it must be 0 <= start <= end")
    if most_bytes is not None and wanted.nbytes > most_bytes:
        raise MemoryLimitError(
            f"range {number} has {wanted.nbytes:,} bytes, more than memory_limit={most_bytes:,}: raise the limit, or "
            "cut the range in several"
        )
    return wanted


class RangeStream:
    """An iterator of (position in `ranges`, bytes), in completion order, that is also a context manager.

    The bytes come as a one-dimensional uint8 tensor or array of shape `(end - start,)`. In all else it is as a
    TensorStream is: each is the caller's, valid and writable for as long as it or a view of it lives, and independent
    of all others, also of ranges that overlap or repeat it; the same errors while iterating; the same thread-safety;
    it ends in the same ways.
    """

    def __init__(self, stream: TensorStream) -> None:
        self._stream = stream

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[int, Tensor]:
        name, tensor = next(self._stream)
        return int(name), tensor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._stream).replace("TensorStream", "RangeStream").replace("tensors", "ranges")

    @property
    def plan(self) -> ReadPlan:
        """What is read, how and why; its tensors are the ranges, named by their positions."""
        return self._stream.plan

    def close(self) -> None:
        """Stops reading, waits for the reads under way, and closes the files. What was handed out lives on."""
        self._stream.close()

    def stats(self) -> LoadStats:
        """The figures so far; final once the stream has ended. Its tensors are ranges."""
        return self._stream.stats()
