"""What the caller iterates over: a load that is under way, and its figures."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from slipstream.delivery.base import FrameworkName, import_framework
from slipstream.errors import StreamClosedError
from slipstream.options import Options
from slipstream.reading.base import Copier
from slipstream.reading.buffers import copy_region
from slipstream.reading.deliveries import Reading
from slipstream.reading.engine import Engine
from slipstream.reading.in_flight import OpInFlight
from slipstream.sources.registry import Sources
from slipstream.types import FileStats, LoadStats, Progress, ReadPlan

if TYPE_CHECKING:
    from slipstream.delivery.base import Tensor
    from slipstream.delivery.jax import Placement

_REPORT_EVERY_S = 0.1


class TensorStream:
    """An iterator of (name, tensor), in completion order, that is also a context manager.

    Reading begins when it is made and goes on while the caller works. Leaving the `with` block, an
    exception in it, exhaustion and garbage collection all stop the workers and close the files.

    Ownership: a tensor handed out is the caller's. It stays valid, and may be written to, for as long
    as it or a view of it lives, also after the stream is closed; writing never changes the file. Its
    memory goes back when the last view dies. Tensors of mapped files are views of the file: save over
    it by renaming a new one into its place, as safetensors does. Whoever writes into it changes them, and
    whoever truncates it takes their pages away (SIGBUS), as with every mapping.

    Thread-safety: one thread iterates at a time; tensors may be dropped in any thread, and `stats` and
    `close` called from any.

    Raises (while iterating):
        ReadError: the storage failed; with uri, offset and length.
        BlobChangedError: a file was changed or replaced during the load.
        MemoryLimitError: the caller holds all of `memory_limit`.
        RankError: the load is shared, and another rank has died or has left early. What another rank fails with is
            raised here as well, under its own class.
        StreamClosedError: the stream was closed before its end, or made in a process that has since forked.
    """

    def __init__(
        self,
        plan: ReadPlan,
        framework: FrameworkName,
        options: Options,
        sources: Sources,
        *,
        populate: bool = False,
        placement: Placement | None = None,
        copier: Copier | None = None,
        warm_up_s: float = 0.0,
        report: Callable[[Progress], object] | None = None,
        started: tuple[float, float] | None = None,
        engine: Reading | None = None,
    ) -> None:
        self.plan = plan
        self._report = report
        self._started, self._cpu_started = started or (time.perf_counter(), time.process_time())
        self._first_s: float | None = None
        self._ended: tuple[float, float] | None = None
        self._tensors = 0
        self._bytes = 0
        self._source_bytes = 0
        self._closed = False
        self._failed = False
        self._process = os.getpid()
        self._pairs: list[tuple[str, Tensor]] = []  # made and not yet handed out, last first
        self._reported = 0.0
        self._sources = sources
        self._warm_up_s = warm_up_s
        self._engine: Reading = engine or Engine(plan, options, sources, populate=populate, copier=copier)
        try:
            self._framework = import_framework(framework, placement)  # while the first reads are under way
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[str, Tensor]:
        if os.getpid() != self._process:
            self._check_open()
        while True:
            if not self._pairs:
                self._refill()
            try:
                return self._pairs.pop()
            except IndexError:
                pass  # another thread has just closed the stream: the next refill says so

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_engine"):
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<TensorStream {state}: {self._tensors} of {self.plan.tensor_count} tensors delivered>"

    def close(self) -> None:
        """Stops reading, waits for the reads under way, and closes the files. Tensors handed out live on."""
        self._closed = True
        self._pairs.clear()
        if os.getpid() == self._process:  # a forked child has none of the threads
            self._engine.close()

    def stats(self) -> LoadStats:
        """The figures so far; final once the stream has ended."""
        now, cpu_now = self._ended or (time.perf_counter(), time.process_time())
        schedule = self._engine.schedule
        return LoadStats(
            bytes=self._bytes,
            tensors=self._tensors,
            seconds=now - self._started,
            first_tensor_seconds=self._first_s,
            cpu_seconds=cpu_now - self._cpu_started,
            reads=schedule.requests,
            fallbacks=self._engine.fallbacks,
            peak_buffer_bytes=self._engine.peak_bytes,
            files=_file_stats(self._engine.plan),
            ranks=self._engine.ranks,
            received_bytes=self._engine.received_bytes,
            hedged=schedule.hedged,
            peak_concurrency=schedule.peak_concurrency,
            source_bytes=self._source_bytes,
            **_network_stats(self._sources),
            **self._ring_stats(),
        )

    def _ring_stats(self) -> dict[str, Any]:
        ring = self._engine.ring_statistics()
        if ring is None:
            return {"warm_up_seconds": self._warm_up_s}
        return {
            "ring_bytes": ring.ring_bytes,
            "copies": ring.copies,
            "warm_up_seconds": self._warm_up_s,
            "ring_seconds": ring.making_s,
            "ring_wait_seconds": ring.waited_s,
        }

    def _refill(self) -> None:
        """Makes the tensors of the next whole op; raises StopIteration when there is none."""
        self._raise_interruption()
        if self._ended and not self._failed:
            raise StopIteration
        self._check_open()
        try:
            in_flight = self._wait_whole()
            if in_flight is not None:
                self._pairs = list(reversed(self._view(in_flight)))
        except Exception as error:
            import traceback  # here, because only errors need it

            traceback.clear_frames(error.__traceback__)  # holding the error must not keep memory
            self._failed = True
            self._end()
            raise
        if in_flight is None:
            self._check_open()
            self._end()
            raise StopIteration

    def _raise_interruption(self) -> None:
        """Raises what a signal handler raised while a tensor was unmapped; see Ledger."""
        ledger = self._engine.schedule.ledger
        if ledger.interruption is not None:
            interruption, ledger.interruption = ledger.interruption, None
            raise interruption

    def _end(self) -> None:
        self._ended = (time.perf_counter(), time.process_time())
        self.close()

    def _check_open(self) -> None:
        if os.getpid() != self._process:
            raise StreamClosedError("the stream belongs to the process that made it: open another after the fork")
        if self._closed:
            raise StreamClosedError("the stream is closed: iterate inside its `with` block, or open another")

    def _wait_whole(self) -> OpInFlight | None:
        schedule = self._engine.schedule
        if self._report is None:
            return schedule.wait_whole()
        while True:
            in_flight = schedule.wait_whole(_REPORT_EVERY_S)
            over = in_flight is None and schedule.finished
            self._report_progress(self._report, at_once=over)
            if in_flight is not None or over:
                return in_flight

    def _report_progress(self, report: Callable[[Progress], object], *, at_once: bool) -> None:
        now = time.perf_counter()
        if now - self._reported < _REPORT_EVERY_S and not at_once:
            return
        self._reported = now
        report(
            Progress(
                bytes_read=self._engine.schedule.bytes_read,
                bytes_total=self.plan.nbytes,
                tensors_delivered=self._tensors,
                tensors_total=self.plan.tensor_count,
                seconds=now - self._started,
            )
        )

    def _view(self, in_flight: OpInFlight) -> Sequence[tuple[str, Tensor]]:
        op, region, landing = in_flight.op, in_flight.region, in_flight.landing
        in_flight.region = in_flight.landing = None  # the worker that finished it may hold on to them for a moment more
        self._bytes += op.nbytes
        self._source_bytes += op.source_bytes
        self._tensors += len(op.tensors)
        if self._first_s is None:
            self._first_s = time.perf_counter() - self._started
        if landing is not None:
            return landing.hand_out()
        assert region is not None
        if not op.copies:
            return self._framework.view_tensors(op.tensors, region)
        end_lease = self._engine.schedule.ledger.end_lease
        pairs: list[tuple[str, Tensor]] = []
        for info in op.tensors:
            copy = copy_region(region, info.start, info.end, partial(end_lease, info.nbytes))
            pairs += self._framework.view_tensors((info,), copy)
        return pairs


def _file_stats(plan: ReadPlan) -> tuple[FileStats, ...]:
    read_bytes = [0] * len(plan.choices)
    for op in plan.ops:
        read_bytes[op.blob] += op.nbytes
    return tuple(
        FileStats(blob.uri, choice.strategy, choice.reason, length)
        for blob, choice, length in zip(plan.checkpoint.blobs, plan.choices, read_bytes, strict=True)
        if choice is not None
    )


def _network_stats(sources: Sources) -> dict[str, int]:
    if not sources.network_used:
        return {}
    network = sources.client.statistics()
    return {
        "requests": network.requests,
        "retries": network.retries,
        "connections": network.connections,
        "discarded_bytes": network.discarded_bytes,
    }
