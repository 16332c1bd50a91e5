"""The weights of a checkpoint on their way into a model that is being built.

transformers asks for all tensors, in the order of their names, in a few threads of its own; each waits until its tensor
is there. So what is read is read in that order, a window at a time, and at most two windows are ahead of what was
asked for: what arrives is soon taken, and is then where it belongs, or cast and given back.

    windows   [ 0: taken ][ 1: being taken ][ 2: being read ][ 3 ] ...
                               ▲ the first that is asked for of a window begins the next one

A window is a stream of its own. Whoever waits for a tensor of it iterates it, and puts aside what comes first: the
threads that read are the stream's, and there are no others. Files that are mapped take no memory that the kernel could
not take back, so all of them are one window, in the order of the files.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, cast

import slipstream
from slipstream.errors import BlobChangedError, MemoryLimitError, StreamClosedError
from slipstream.options import Options
from slipstream.transformers.coming_tensor import ComingTensor
from slipstream.transformers.place import StorageOptions, Uri
from slipstream.transformers.progress import Report, SumOfProgress
from slipstream.transformers.windows import cut_windows, sort_as_asked
from slipstream.types import Blob, ReadPlan, Strategy, TensorInfo

if TYPE_CHECKING:
    import numpy
    import torch

    Tensor: TypeAlias = torch.Tensor | numpy.ndarray[Any, Any]

# Large beside the requests that begin a window, small beside a host's memory. 2.2 GB from SeaweedFS took as long in
# windows of 0.25 to 2 GiB as in one, within the noise of a machine that was busy.
_WINDOW_BYTES = 1 << 30


class _Window:
    """Tensors that one stream reads.

    Attributes:
        number: its place among the windows.
        stream: what reads it; None before it is begun.
        coming: how many of its tensors have not arrived.
        is_busy: whether a thread opens or iterates the stream.
    """

    def __init__(self, number: int, tensors: Sequence[TensorInfo]) -> None:
        self.number = number
        self.tensors = tuple(tensors)
        self.nbytes = sum(info.nbytes for info in tensors)
        self.coming = len(tensors)
        self.stream: slipstream.TensorStream | None = None
        self.is_busy = False


class ComingWeights:
    """The tensors of one checkpoint, each handed out once it is there. A context manager; leaving it stops all reading.

    Ownership: a tensor is handed out once and not kept. It is valid for as long as it is held, as slipstream's are.
    """

    # One lock, and no reading under it. A window's stream is used by the thread that made the window busy.

    def __init__(
        self,
        weights: Uri | Sequence[Uri],
        plan: ReadPlan,
        options: Options | None,
        storage_options: StorageOptions | None,
        *,
        keeps: bool = False,
        report: Report | None = None,
        window_bytes: int = _WINDOW_BYTES,
    ) -> None:
        """Begins to read.

        Args:
            weights: what `plan` is of.
            plan: as `slipstream.plan` makes it.
            options: how to read. Its `memory_limit` bounds what was read and not yet asked for; tensors of mapped
                files do not count.
            storage_options: as in `slipstream.stream`.
            keeps: whether the tensors stay in the memory that they are read into.
            report: is told how far it is.
            window_bytes: see above.

        Raises:
            MemoryLimitError: a tensor is larger than the limit.
            Others: as `slipstream.stream`.
        """
        self._weights = weights
        self._blobs = plan.checkpoint.blobs
        self._tensors = plan.checkpoint.tensors
        self._options = options or Options()
        self._storage_options = storage_options
        self._keeps = keeps
        self._started = time.monotonic()
        self._windows = self._cut(plan, window_bytes)
        self._window_of = {info.name: window for window in self._windows for info in window.tensors}
        self._progress = None if report is None else SumOfProgress(report, plan.checkpoint.nbytes, len(self._tensors))
        self._changed = threading.Condition()  # guards all that follows, and the windows
        self._arrived: dict[str, torch.Tensor] = {}
        self._asked: set[str] = set()
        self._failure: BaseException | None = None
        self._closed = False
        if self._windows:
            self._begin(self._windows[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ComingWeights: {len(self._asked)} of {len(self._tensors)} tensors asked for>"

    def state_dict(self) -> dict[str, ComingTensor]:
        """What to hand to transformers: in the order in which it would find the tensors itself, file by file."""
        blobs = self._blobs
        in_order = sorted(self._tensors, key=lambda info: (blobs[info.blob].uri, info.name))
        return {info.name: ComingTensor(info, self.take) for info in in_order}

    def take(self, info: TensorInfo) -> torch.Tensor:
        """The tensor, once it is there.

        Raises:
            ReadError and others: the load failed, for this tensor or for any other.
            StreamClosedError: it was closed.
        """
        window = self._window_of[info.name]
        with self._changed:
            is_first = info.name not in self._asked
            self._asked.add(info.name)
        if not is_first:
            return self._read_alone(info)
        self._begin_next(window)
        while isinstance(found := self._find(info, window), _Window):
            self._advance(found)
        return found

    def close(self) -> None:
        """Stops reading; whoever waits is told. Tensors handed out live on. Safe to call again."""
        with self._changed:
            self._closed = True
            self._arrived.clear()
            self._changed.notify_all()
        for window in self._windows:
            if window.stream is not None:
                window.stream.close()

    def _cut(self, plan: ReadPlan, window_bytes: int) -> list[_Window]:
        choices = [choice for choice in plan.choices if choice is not None]
        if all(choice.strategy is Strategy.MAPPED for choice in choices):
            return [_Window(0, self._tensors)] if self._tensors else []
        limit = self._options.memory_limit
        if limit is not None:
            _check_largest(self._tensors, limit, self._blobs)
            window_bytes = min(window_bytes, max(1, limit // 2))
        cut = cut_windows(sort_as_asked(self._tensors), window_bytes)
        return [_Window(number, tensors) for number, tensors in enumerate(cut)]

    def _begin_next(self, window: _Window) -> None:
        """Begins the window after one that has just been asked for, unless too much would be ahead then."""
        if window.number + 1 == len(self._windows) or not self._may_overlap():
            return
        following = self._windows[window.number + 1]
        limit = self._options.memory_limit
        if limit is None or window.nbytes + following.nbytes <= limit:
            self._begin(following)

    def _may_overlap(self) -> bool:
        """Whether two streams may run at once: what the caller has set for a load is obeyed exactly."""
        return self._options.concurrency == "auto" and self._options.bandwidth_limit is None

    def _begin(self, window: _Window) -> None:
        with self._changed:
            if window.stream is not None or window.is_busy or self._closed or self._failure is not None:
                return
            window.is_busy = True
        self._advance(window)

    def _find_due(self, window: _Window) -> _Window:
        """Which window to work on for the sake of one: itself, or the one before it that must be over first."""
        if self._may_overlap():
            return window
        return next(before for before in self._windows if before.coming or before is window)

    def _find(self, info: TensorInfo, window: _Window) -> torch.Tensor | _Window:
        """The tensor, waiting for other threads to bring it; or a window for this one to go on with, made busy."""
        with self._changed:
            while True:
                self._check_open()
                tensor = self._arrived.pop(info.name, None)
                if tensor is not None:
                    return tensor
                due = self._find_due(window)
                if not due.is_busy:
                    due.is_busy = True
                    return due
                self._changed.wait()

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise StreamClosedError("the model was not loaded to its end: load it again")

    def _advance(self, window: _Window) -> None:
        """Opens a window that is busy, or waits for the next of its tensors, whichever. Then it is no longer busy."""
        pair: tuple[str, Tensor] | None = None
        failure: BaseException | None = None
        try:
            if window.stream is None:
                window.stream = self._open(window)
            else:
                pair = cast("tuple[str, Tensor] | None", next(window.stream, None))
                assert pair is not None, "it has a tensor that has not come"
                if window.coming == 1:
                    next(window.stream, None)  # ends it
        except BaseException as error:
            failure = error
            raise
        finally:
            with self._changed:
                window.is_busy = False
                self._failure = self._failure or failure
                if pair is not None and not self._closed:
                    self._arrived[pair[0]] = cast("torch.Tensor", pair[1])
                    window.coming -= 1
                closed = self._closed
                self._changed.notify_all()
            if closed and window.stream is not None:
                window.stream.close()

    def _open(self, window: _Window) -> slipstream.TensorStream:
        report = None if self._progress is None else self._progress.follow(window.number)
        return self._stream(window.tensors, report or False)

    def _read_alone(self, info: TensorInfo) -> torch.Tensor:
        with self._stream([info], False) as stream:
            ((_, tensor),) = stream
        return cast("torch.Tensor", tensor)

    def _stream(self, tensors: Sequence[TensorInfo], report: Report | bool) -> slipstream.TensorStream:
        """Begins to read some tensors, of the very files that were planned."""
        names = frozenset(info.name for info in tensors)
        stream = slipstream.stream(
            self._addresses(tensors),
            framework="torch",
            names=names.__contains__,
            options=self._current_options(),
            storage_options=self._storage_options,
            progress=report,
        )
        try:
            self._check_unchanged(stream.plan.checkpoint.blobs)
        except BaseException:
            stream.close()
            raise
        return stream

    def _addresses(self, tensors: Sequence[TensorInfo]) -> Uri | Sequence[Uri]:
        """The files of these tensors alone, so that no other header is read; on the web what was given, signed."""
        used = [self._blobs[number].uri for number in sorted({info.blob for info in tensors})]
        if any(uri.startswith(("http://", "https://")) for uri in used):
            return self._weights
        return used

    def _current_options(self) -> Options:
        populate = True if self._keeps and self._options.populate == "auto" else self._options.populate
        deadline_s = self._options.deadline_s
        if deadline_s is not None:  # of the whole load, not of a window
            deadline_s = max(0.001, deadline_s - (time.monotonic() - self._started))
        return replace(self._options, memory_limit=None, populate=populate, deadline_s=deadline_s)

    def _check_unchanged(self, found: Sequence[Blob]) -> None:
        planned = {blob.uri: blob for blob in self._blobs}
        for blob in found:
            before = planned.get(blob.uri)
            if before is None or (before.size, before.etag) != (blob.size, blob.etag):
                raise BlobChangedError(
                    f"{blob.uri} was changed or replaced since the load began: load again once its writer is done",
                    uri=blob.uri,
                )


def _check_largest(tensors: Sequence[TensorInfo], limit: int, blobs: Sequence[Blob]) -> None:
    largest = max(tensors, key=lambda info: info.nbytes, default=None)
    if largest is not None and largest.nbytes > limit:
        raise MemoryLimitError(
            f"the tensor {largest.name} has {largest.nbytes:,} bytes, more than memory_limit={limit:,}: raise that",
            uri=blobs[largest.blob].uri,
            offset=largest.start,
            length=largest.nbytes,
        )
