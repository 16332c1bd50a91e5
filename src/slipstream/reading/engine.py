"""Runs the plan: starts workers, and has them read until whole ops can be handed to the caller.

Schedule   decides            (schedule.py)
workers    read               (this file; one thread each, all equal, from one shared schedule)
readers    know the storage   (readers.py opens and closes them; mapped.py, direct.py, buffered.py, gds.py, ranged.py)
Gatherer   reads strips       (gather.py)
the ring   is passed through  (staged.py), where tensors do not stand in the memory that is read into
"""

from __future__ import annotations

import contextlib
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from slipstream.errors import ReadError, SlipstreamError
from slipstream.options import Options
from slipstream.reading.base import BlobReader, Copier, Places
from slipstream.reading.buffers import Region, allocate_region, make_region
from slipstream.reading.in_flight import OpInFlight, Read
from slipstream.reading.memory import populate_memory
from slipstream.reading.readers import Readers, warn
from slipstream.reading.ring import RingStatistics
from slipstream.reading.schedule import Schedule
from slipstream.reading.staged import StagedReads
from slipstream.sources.registry import Sources
from slipstream.transport.transfer import TransferStopped
from slipstream.types import ReadOp, ReadPlan, Strategy

if TYPE_CHECKING:
    from slipstream.reading.gather import Gatherer

# How long `close` waits for all reads that are under way. A read takes milliseconds; a network file system
# that hangs may take for ever, and its thread (a daemon) then ends whenever the read does.
_CLOSE_WAIT_S = 10.0
# A process may have 65,530 mappings (vm.max_map_count). A selection with very many gaps is read into
# memory from the heap instead, as far as malloc makes no mappings of its own for it.
MOST_MAPPINGS = 16_384
# Memory is populated in pieces: whoever makes a mapping meanwhile waits for the present one.
_POPULATED_AT_ONCE = 8 << 20


class Engine:
    """One load's workers and open files. Made running; `close` ends it; at most one caller's thread.

    Attributes:
        plan: what is read here.
        schedule: what the caller waits for.
        ranks: how many processes share the load, this one counted.
        received_bytes: what came from others than the storage.
    """

    ranks = 1
    received_bytes = 0

    def __init__(
        self,
        plan: ReadPlan,
        options: Options,
        sources: Sources,
        *,
        populate: bool = False,
        copier: Copier | None = None,
        places: Places | None = None,
    ) -> None:
        """Takes the sources over, and closes them in the end.

        Args:
            populate: whether memory is made ready ahead of the reads; see `_populate`.
            copier: what lands the tensors of a plan with a ring.
            places: who gives the memory that ops are read into, where that is not the engine itself.
        """
        self.plan = self._plan = plan
        self._places = places
        self._sources = sources
        hedge = options.hedge and sources.network_used
        admit = (lambda op: True) if places is None else places.admit
        self.schedule = Schedule(plan, options.memory_wait_s, hedge=hedge, count_held=options.count_held, admit=admit)
        self._staged: StagedReads | None = None
        if plan.staging is not None:
            assert copier is not None, "a plan with a ring wants a copier"
            self._staged = StagedReads(plan.staging, copier, self.schedule.ledger.end_lease)
        self._readers = Readers(plan, sources)
        self._gatherer = _make_gatherer(plan)
        self._maps_too_many = len(plan.ops) > MOST_MAPPINGS
        self._workers: list[threading.Thread] = []
        self._lock = threading.Lock()  # guards the field below; never held during I/O or with another lock
        self._running = 0
        self._growing = threading.Lock()  # guards the start of further workers, and `_closing`
        self._closing = False
        self._most_workers = sum(-(-op.nbytes // self._chunk_bytes(op)) + 1 for op in plan.ops)
        self._populator: threading.Thread | None = None
        try:
            if populate and plan.memory_limit is None and plan.staging is None and self._has_ranged:
                self._start_populator()
            self._start_workers(plan.concurrency)
        except BaseException:  # also a KeyboardInterrupt, while a thread was starting
            self.close()
            raise

    def _start_workers(self, wanted: int) -> None:
        """Starts workers until there are as many as wanted and of use, or as the system allows."""
        while len(self._workers) < min(wanted, self._most_workers):
            if not self._start_worker():
                self._most_workers = len(self._workers)

    def _start_worker(self) -> bool:
        """Starts one more worker; False where the system allows no further one, but there are some."""
        number = len(self._workers)
        worker = threading.Thread(target=self._work, name=f"slipstream-{number}", daemon=True)
        with self._lock:
            self._running += 1
        try:
            worker.start()
        except RuntimeError as error:
            self._leave()
            if not self._workers:
                text = f"no thread can be started ({error}): raise the limit on processes (ulimit -u), or on memory"
                raise SlipstreamError(text) from error
            warn(f"no more than {number} reads in flight: {error}")
            return False
        self._workers.append(worker)
        return True

    def _start_populator(self) -> None:
        populator = threading.Thread(target=self._populate, name="slipstream-memory", daemon=True)
        with contextlib.suppress(RuntimeError):  # without it everything takes longer, but nothing is amiss
            populator.start()
            self._populator = populator

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """What was refused by the kernel or a file system, and what was done instead."""
        return (*self._readers.fallbacks, *(self._staged.notes() if self._staged else ()))

    def ring_statistics(self) -> RingStatistics | None:
        """The figures of the ring, where there is one."""
        return self._staged.statistics() if self._staged else None

    @property
    def peak_bytes(self) -> int:
        """The most memory that was leased at once, and on the host what is read along with columns passed through."""
        on_host = self._plan.limited_by == "memory_limit"
        passing = self._gatherer.peak_bytes if self._gatherer is not None and on_host else 0
        return self.schedule.ledger.peak_bytes + passing

    def close(self) -> None:
        """Stops the workers, waits for the reads under way, and closes the files. Safe to call again.

        Does not wait where it must not: in a worker, whose garbage collection may find a forgotten
        stream, and in a signal handler that interrupted the schedule. The workers end all the same.
        """
        self.schedule.stop()
        if self._staged is not None:
            self._staged.stop()
        if self._gatherer is not None:
            self._gatherer.close()
        threads = [*self._workers, *([self._populator] if self._populator else [])]
        if self.schedule.interrupted_here or threading.current_thread() in threads:
            return
        with self._growing:
            self._closing = True
        deadline = time.monotonic() + _CLOSE_WAIT_S
        for worker in threads:
            worker.join(max(deadline - time.monotonic(), 0.0))
            if worker.is_alive():
                warn(f"a read is stuck in the kernel; its thread {worker.name} ends when the read does")
        self._workers = [worker for worker in self._workers if worker.is_alive()]
        if self._staged and not self._workers:
            self._staged.end()
        self._sources.close()

    def _work(self) -> None:
        """What each worker does: take a chunk, read it, until there is none."""
        try:
            while (read := self.schedule.wait_read()) is not None:
                try:
                    self._read_one(read)
                    self._adjust_workers()
                except BaseException as error:
                    _clear_frames(error)  # an error must not keep regions alive
                    self.schedule.fail(read, error)
                finally:
                    last = self.schedule.leave_chunk(read)
                    if self._staged:
                        self._staged.leave(read, last=last)
                del read  # waiting must not keep a region alive
        finally:
            self._leave()

    def _read_one(self, read: Read) -> None:
        """Reads one chunk. Where others do so too, the first to end stops them before the memory may be handed out."""
        try:
            requests = self._read(read)
        except TransferStopped:
            self._discard(read)
            return
        if not self.schedule.win(read):
            self._discard(read)
            return
        for other in self.schedule.find_others(read):
            other.transfer.stop()
        if self._staged:
            self._staged.copy(read)
        self._readers.count_down(read.target.op.blob, read.end - read.chunk_start)
        self.schedule.finish_read(read, requests)

    def _populate(self) -> None:
        """Gives the memory of ops its pages before anything is received into it, in the order of the reads.

        Clearing a page costs time in which its reader's connection stands still, and on a virtual machine whose host
        takes back free memory many times as much (docs/performance.md). What is ahead of the reads costs them nothing.
        """
        # Without memory, on an old kernel, or at the end of the load: the reads will tell.
        with contextlib.suppress(OSError, ReadError, TransferStopped):
            while (target := self.schedule.take_untouched()) is not None:
                if self._strategy(target.op.blob) is not Strategy.RANGED or not target.op.nbytes:
                    continue
                region = self._make_region(target)
                for start in range(0, len(region.view) if region.owns_pages else 0, _POPULATED_AT_ONCE):
                    if self.schedule.stopped:
                        return
                    populate_memory(region.address + start, min(_POPULATED_AT_ONCE, len(region.view) - start))
                del target, region  # waiting for the lock must not keep a region alive

    def _discard(self, read: Read) -> None:
        """Forgets a read that somebody else has finished, or that nobody waits for any more."""
        transfer = read.transfer
        unused = max(transfer.landed - read.kept_bytes, 0) + transfer.discarded
        self._sources.client.count(discarded_bytes=unused)
        self.schedule.lose(read)

    def _adjust_workers(self) -> None:
        """Lets the schedule judge how many reads in flight are fastest, and starts workers that it wants more."""
        if self._plan.most_concurrency > self._plan.concurrency:
            wanted = self.schedule.tune(self._sources.client.throttled)
            if wanted > len(self._workers):
                with self._growing:
                    if not self._closing:
                        self._start_workers(wanted)

    def _read(self, read: Read) -> int:
        """Reads one chunk, into a slot or the region of its op; returns the requests made."""
        target = read.target
        if self._staged:
            if target.op.nbytes:
                reader = self._readers.find(target.op)
                return self._staged.read(read, reader, partial(self._read_into, read, reader))
            self._staged.land(target)
            return 0
        if not target.op.nbytes:
            target.region = allocate_region(target.op.start, target.op.end, lambda address, length: None)
            return 0
        region = self._make_region(target)
        return self._read_into(read, self._readers.find(target.op), region)

    def _read_into(self, read: Read, reader: BlobReader, region: Region) -> int:
        """Makes the chunk stand in a region, be it the op's own or a slot; gathered, where it lies in strips."""
        op = read.target.op
        if self._gatherer is None or op.gather is None:
            return reader.read(region, read.start, read.end, read.transfer)
        note = partial(self._readers.note_fallback, op.blob)
        return self._gatherer.read(reader, op, region, read.start, read.end, read.transfer, note)

    def _make_region(self, target: OpInFlight) -> Region:
        """The op's memory, made by whoever needs it first."""
        reader = self._readers.find(target.op)
        with target.making:
            if target.region is None:
                target.region = self._map(target.op, reader)
            return target.region

    def _map(self, op: ReadOp, reader: BlobReader) -> Region:
        end_lease = partial(self.schedule.ledger.end_lease, op.nbytes)
        try:
            if self._places is not None:
                return self._places.place(op, reader.map_op)
            return make_region(op, reader.map_op, end_lease, on_heap=self._maps_too_many or op.gather is not None)
        except OSError as error:
            raise memory_error(op, self._plan.checkpoint.blobs[op.blob].uri, error) from error

    def _leave(self) -> None:
        """The last worker to leave closes the files and the connections."""
        with self._lock:
            self._running -= 1
            over = self._running == 0
        if over:
            self._readers.close()
            if self._staged:
                self._staged.end()
            self._sources.close()

    @property
    def _has_ranged(self) -> bool:
        return any(choice is not None and choice.strategy is Strategy.RANGED for choice in self._plan.choices)

    def _strategy(self, blob: int) -> Strategy | None:
        choice = self._plan.choices[blob]
        return choice.strategy if choice else None

    def _chunk_bytes(self, op: ReadOp) -> int:
        if op.gather is not None:
            return op.gather.step_bytes
        choice = self._plan.choices[op.blob]
        return choice.chunk_bytes if choice else 1


def memory_error(op: ReadOp, uri: str, error: OSError) -> ReadError:
    """The error for an op that the system gives no memory for."""
    return ReadError(
        f"no memory for {op.nbytes:,} bytes of {uri} from offset {op.start} on ({error.strerror}): "
        "free memory, set memory_limit and drop tensors, or raise vm.max_map_count",
        uri=uri,
        offset=op.start,
        length=op.nbytes,
    )


def _make_gatherer(plan: ReadPlan) -> Gatherer | None:
    if all(op.gather is None for op in plan.ops):
        return None
    from slipstream.reading.gather import Gatherer  # here, because it needs NumPy, and few loads need it

    return Gatherer(plan)


def _clear_frames(error: BaseException) -> None:
    import traceback  # here, because few loads need it

    traceback.clear_frames(error.__traceback__)
