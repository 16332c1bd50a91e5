"""What the caller of `stream_ranges` iterates over: a load of plain ranges that is under way."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from slipstream.tensor_stream import TensorStream
from slipstream.types import LoadStats, ReadPlan

if TYPE_CHECKING:
    from slipstream.delivery.base import Tensor


class RangeStream:
    """An iterator of (position in `ranges`, bytes), in completion order, that is also a context manager.

    The bytes come as a one-dimensional uint8 tensor or array of shape `(end - start,)`. In all else it is as a
    TensorStream is: each is the caller's, valid and writable for as long as it or a view of it lives, and independent of
    all others, also of ranges that overlap or repeat it; the same errors while iterating; the same thread-safety; it
    ends in the same ways.
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
