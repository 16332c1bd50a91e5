"""Runs a load that ranks share: reads this rank's pieces, passes all pieces round, hands whole ops to the caller.

    workers    read this rank's pieces     an Engine of its own, over its part of the plan
    pump       says which were read        from the engine's schedule to the rounds
    courier    broadcasts, in order        its own pieces once they are read, others' into memory that waits for them
    lander     waits for broadcasts        and says which have ended
    watch      notices how it ends         see watch.py

    storage --workers--> memory of the op --courier, backend--> the same op of every other rank
                              |
                              +--> caller, once every piece of it was passed round

Nothing is copied on the way: a rank reads into the memory that tensors stand in, sends from there, and receives there.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from queue import SimpleQueue
from threading import get_ident
from typing import TYPE_CHECKING

from slipstream.errors import DeviceError, ReadError
from slipstream.options import Options
from slipstream.planning.partition import choose_piece_bytes, own_reads, partition_reads, share_concurrency
from slipstream.ranks.landing import Lander
from slipstream.ranks.passage import HostPassage, MakePassage
from slipstream.ranks.rounds import Rounds, Turn
from slipstream.ranks.team import Passing, Team, hold_for_ever
from slipstream.ranks.threads import make_thread
from slipstream.ranks.watch import Watch
from slipstream.reading.buffers import Ledger
from slipstream.reading.engine import Engine, memory_error
from slipstream.reading.in_flight import OpInFlight
from slipstream.reading.ring import RingStatistics
from slipstream.reading.schedule import Schedule
from slipstream.sources.registry import Sources
from slipstream.types import ReadPlan

if TYPE_CHECKING:
    from slipstream.ranks.passage import Memory

# How long `close` waits for broadcasts that other ranks have begun. They end as soon as the slowest rank takes part,
# and need nobody who waits; but a process that ends at once would break them.
_LEAVE_WAIT_S = 2.0
_LOOK_S = 0.1  # how often one who waits for all ranks looks whether the stream was closed


class SharedDeliveries:
    """What the stream takes ops from: the rounds for the ops, this rank's own schedule for the figures of reading."""

    def __init__(self, rounds: Rounds, own: Schedule, lander: Lander | None, watch: Watch) -> None:
        """
        Args:
            rounds, own, lander: of the load.
            watch: of the load.
        """
        self._rounds = rounds
        self._own = own
        self._lander = lander
        self._watch = watch
        self._ending_thread: int | None = None

    def wait_whole(self, timeout_s: float | None = None) -> OpInFlight | None:
        """See Deliveries. Where tensors are wanted elsewhere, they are brought there in the caller's thread."""
        target = self._rounds.wait_whole(timeout_s)
        if target is not None and self._lander is not None:
            try:
                self._lander.land(target, self._rounds.ledger)
            except BaseException as error:
                self._rounds.fail(error)  # so that the other ranks hear of it, and not of one that left
                raise
        if target is None and self._watch.waits_for_all and self._rounds.all_delivered:
            self._wait_for_all()
        return target

    @property
    def interrupted_here(self) -> bool:
        """Whether this thread is inside `wait_whole`, and a signal handler is asking."""
        return self._rounds.interrupted_here or self._ending_thread == get_ident()

    @property
    def ledger(self) -> Ledger:
        """See Deliveries, likewise all below."""
        return self._rounds.ledger

    @property
    def finished(self) -> bool:
        return self._rounds.finished

    @property
    def bytes_read(self) -> int:
        return self._rounds.bytes_read

    @property
    def requests(self) -> int:
        return self._own.requests

    @property
    def hedged(self) -> int:
        return self._own.hedged

    @property
    def peak_concurrency(self) -> int:
        return self._own.peak_concurrency

    def _wait_for_all(self) -> None:
        """Waits until the load has ended on all ranks, unless the caller closes it; see Watch."""
        self._ending_thread = get_ident()
        try:
            while not self._rounds.stopped and not self._watch.wait_ended(_LOOK_S):
                pass
        finally:
            self._ending_thread = None


class RankEngine:
    """One rank's part of a shared load. Made running; `close` ends it. See Reading.

    Attributes:
        plan: what this rank reads itself.
        schedule: what the caller waits for.
        ranks: how many share the load.
    """

    def __init__(
        self,
        plan: ReadPlan,
        options: Options,
        sources: Sources,
        team: Team,
        *,
        lander: Lander | None = None,
        make_passage: MakePassage = HostPassage,
        populate: bool = False,
    ) -> None:
        """Takes the sources over, and closes them in the end.

        Args:
            plan: of the whole load, with the same ops on every rank.
            team: the ranks.
            lander: brings tensors to where they are wanted, if that is not the memory that they are received into.
            make_passage: makes the memory that they are received into.
            populate: see Engine.
        """
        pieces = partition_reads(plan.ops, team.size, piece_bytes=choose_piece_bytes(plan.nbytes, team.size))
        self._rounds = Rounds(
            plan,
            pieces,
            team.rank,
            options.memory_wait_s,
            count_held=options.count_held,
            make_passage=make_passage,
        )
        self._team = team
        self._lander = lander
        self.ranks = team.size
        self.plan = replace(plan, ops=own_reads(plan.ops, pieces, team.rank), memory_limit=None, staging=None)
        if options.concurrency == "auto":
            self.plan = share_concurrency(self.plan, team.neighbours)
        populate = populate and plan.memory_limit is None and plan.staging is None
        self._engine = Engine(self.plan, options, sources, populate=populate, places=self._rounds)
        self.schedule = SharedDeliveries(self._rounds, self._engine.schedule, lander, team.watch)
        self._passing: SimpleQueue[tuple[Turn, Passing] | None] = SimpleQueue()  # under way, in order; None ends it
        self._threads = [
            make_thread(self._pump, "pump"),
            make_thread(self._pass_round, "courier"),
            make_thread(self._land, "lander"),
        ]
        try:
            for thread in self._threads:
                thread.start()
            team.watch.attach(self._rounds)
        except BaseException:
            self._rounds.stop()
            self._engine.close()
            raise

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """See Engine."""
        return (*self._engine.fallbacks, *(self._lander.notes() if self._lander else ()))

    @property
    def peak_bytes(self) -> int:
        """See Engine."""
        return self._rounds.ledger.peak_bytes

    def ring_statistics(self) -> RingStatistics | None:
        """See Engine. Of the slots that bytes go to a device through, where they do."""
        return self._rounds.passage.statistics()

    @property
    def received_bytes(self) -> int:
        """See LoadStats."""
        return self._rounds.received_bytes

    def close(self) -> None:
        """Stops reading, and ends the load for the other ranks too if it is not over. Safe to call again.

        Does not wait where Engine.close does not, nor in a thread of its own.
        """
        self._rounds.stop()
        self._engine.close()
        if self.schedule.interrupted_here or threading.current_thread() in (*self._threads, self._team.watch.thread):
            return
        if self._team.watch.wait_ended(_LEAVE_WAIT_S):
            for thread in (*self._threads, self._team.watch.thread):
                thread.join(_LEAVE_WAIT_S)

    def _pump(self) -> None:
        """Tells the rounds of each piece that this rank has read."""
        try:
            while (landed := self._engine.schedule.wait_whole()) is not None:
                self._hand_over(landed)
                del landed  # waiting must not keep a region alive
        except BaseException as error:
            self._rounds.fail(error)

    def _hand_over(self, landed: OpInFlight) -> None:
        landed.region = (
            None  # the rounds have it; the worker that finished it may hold on to `landed` for a moment more
        )
        self._rounds.note_read(landed.op)

    def _pass_round(self) -> None:
        """Passes piece after piece round, in the order that all ranks keep."""
        turn: Turn | None = None
        try:
            while (step := self._rounds.wait_step()) != "done":
                if step == "room":
                    self._engine.schedule.wake()
                    continue
                turn = step
                self._broadcast(turn)
                del step  # waiting must not keep a region alive
                turn = None
        except BaseException as error:
            if turn is not None:
                self._rounds.note_ended(turn, error)
            self._rounds.fail(error)
        finally:
            self._passing.put(None)

    def _land(self) -> None:
        """Tells the rounds of each broadcast that has ended."""
        while (entry := self._passing.get()) is not None:
            turn, passing = entry
            error = self._wait_passed(passing)
            del passing, entry  # what is told of may be handed out at once
            self._rounds.note_ended(turn, error)
            del turn

    def _wait_passed(self, passing: Passing) -> BaseException | None:
        """Waits for a broadcast's end; what it failed with, if it did, or was given up for."""
        try:
            while not passing.wait():
                if self._rounds.is_abandoned:
                    hold_for_ever(passing)
                    return RuntimeError("given up")
        except BaseException as error:
            return error
        return None

    def _broadcast(self, turn: Turn) -> None:
        """Takes part in the broadcast of a piece, also where its bytes are of no use here: the others wait for it."""
        memory: Memory | None = None
        try:
            memory = self._rounds.find_memory(turn)
        except DeviceError as error:
            self._rounds.fail(error)
        except OSError as error:
            self._rounds.fail(self._explain(error, turn))
        if memory is None:
            turn = turn._replace(target=None)
            memory = self._rounds.passage.find_spare(turn.piece.nbytes)
        self._passing.put((turn, self._team.broadcast(memory, turn.piece.owner)))

    def _explain(self, error: OSError, turn: Turn) -> ReadError:
        assert turn.target is not None
        op = turn.target.op
        explained = memory_error(op, self.plan.checkpoint.blobs[op.blob].uri, error)
        explained.__cause__ = error
        return explained
