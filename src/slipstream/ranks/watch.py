"""Notices that a shared load ends for one rank, and ends it for this one: in order where all ranks live, else at once.

    every 0.1 s    has a rank posted why it ends? has this one failed, or left? has a broadcast failed?
    every 0.5 s    a beat for the others, and a look whether the next rank's goes on

How a load ends in order. Whoever fails or leaves posts why. Each rank then begins no further broadcast and posts how
many it has begun; the highest number is how many all of them take part in. What a rank had begun to send by then is
good, the rest is anything, and nobody uses it. So every broadcast that was begun anywhere is ended everywhere: the
group stays usable, nobody waits for ever, and each rank's caller is given all that any other rank's was.

How it ends at once, where a rank has died or cannot be reached: nobody takes part in anything any more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from slipstream.errors import SlipstreamError
from slipstream.ranks.board import Board, BoardLostError
from slipstream.ranks.notices import Notice, note_break, note_death, note_failure, note_leave
from slipstream.ranks.rounds import News, Rounds
from slipstream.ranks.threads import make_thread

_LOOK_S = 0.1
_FIRST_LOOK_S = 0.002  # where ranks wait for one another every look is a delay: then pauses grow from this one on
_BEAT_S = 0.5
# Between two beats of a process that lives: it may swap, or hold the interpreter's lock for seconds.
_LONGEST_SILENCE_S = 30.0
# After a broadcast has failed. The usual cause is the closed connection of a process that was killed.
_SUSPICIOUS_SILENCE_S = 3.0
# How long a load goes on without the store while no bytes arrive.
_LONGEST_LOSS_S = 10.0
_FAREWELL_S = 2.0


class Watch:
    """One thread for one load, from the meeting of the ranks to the last broadcast. Its methods are for any thread."""

    def __init__(
        self, board: Board, rank: int, ranks: Sequence[int], places: Sequence[str], *, waits_for_all: bool = False
    ) -> None:
        """
        Args:
            board: of the load.
            rank: this process.
            ranks: the global rank of each.
            places: the host and process of each, for people.
            waits_for_all: whether the load ends here only when it has ended everywhere: what a device has sent may
                not have been received yet, and is gone with the process that sent it.
        """
        self._board = board
        self._rank = rank
        self._ranks = ranks
        self._places = places
        self._waits_for_all = waits_for_all
        self._changed = threading.Condition()  # guards the next three
        self._rounds: Rounds | None = None
        self._failure: BaseException | None = None
        self._notice: Notice | None = None
        self._ended = threading.Event()
        self._clean = False
        self._on_end: Callable[[bool], None] = lambda clean: None
        self._next = (rank + 1) % len(ranks)  # whose beats are listened to
        self._heard = "", time.monotonic()  # the last of them, and since when
        self._beats = 0
        self._next_beat = 0.0
        self._pause_s = _FIRST_LOOK_S
        self._quits = False
        self.thread = make_thread(self._run, "watch")

    def start(self, on_end: Callable[[bool], None]) -> None:
        """Begins. In the end the function is told whether every broadcast has ended, or some may never do."""
        self._on_end = on_end
        self.thread.start()

    def attach(self, rounds: Rounds) -> None:
        """Says that this rank has planned and can take part. Raises what has ended the load, if anything has."""
        with self._changed:
            self.check()
            self._rounds = rounds
            self._changed.notify_all()
        self._board.post("ready", self._rank)

    def fail(self, error: BaseException) -> None:
        """Says that this rank failed before it was ready, and gives the others a moment to answer."""
        with self._changed:
            self._failure = error
            self._changed.notify_all()
        self._ended.wait(_FAREWELL_S)

    def quit(self) -> None:
        """Ends the load because the interpreter ends: in order if the other ranks answer at once."""
        with self._changed:
            rounds = self._rounds
        if rounds is not None:
            rounds.stop()
            self._ended.wait(_FAREWELL_S)
        self._quits = True
        self.fail(RuntimeError("its program has ended"))

    def check(self) -> None:
        """Raises what has ended the load, if anything has. For who waits for other ranks before there are rounds."""
        with self._changed:
            if self._notice is not None:
                raise self._notice.to_error()

    def wait_ended(self, timeout_s: float) -> bool:
        """Waits until nothing of the load is under way between the ranks any more."""
        return self._ended.wait(timeout_s)

    @property
    def waits_for_all(self) -> bool:
        """Whether the load ends here only when it has ended everywhere."""
        return self._waits_for_all

    @property
    def is_ending(self) -> bool:
        """Whether the load is over for the caller here, so that it will be for all."""
        with self._changed:
            failed = self._failure is not None or self._notice is not None
            return failed or (self._rounds is not None and self._rounds.finished)

    def _run(self) -> None:
        try:
            notice = self._wait_end()
            self._clean = notice is None or self._end_together(notice)
            self._say_goodbye()
            if self._waits_for_all and self._clean:
                self._clean = self._wait_all_out()
        except BaseException as error:
            self._end_alone(error)
            if not isinstance(error, BoardLostError):
                raise
        finally:
            try:
                self._on_end(self._clean)
            finally:
                self._ended.set()

    # While the load goes on.

    def _wait_end(self) -> Notice | None:
        """Waits until all was passed round, or something ends the load early: then why."""
        lost_since: float | None = None
        while True:
            news = self._wait_news()
            if news is News.OVER:
                return None
            try:
                notice = self._find_notice(news)
                lost_since = None
            except BoardLostError:
                lost_since = lost_since or time.monotonic()
                if news is not None or time.monotonic() - max(lost_since, self._landed_at()) > _LONGEST_LOSS_S:
                    raise
                continue
            if notice is not None:
                return notice

    def _wait_news(self) -> News | None:
        with self._changed:
            rounds = self._rounds
            if rounds is None:
                if self._failure is None:
                    self._changed.wait(_LOOK_S)
                return News.FAILED if self._failure is not None else None
        return rounds.wait_news(_LOOK_S if rounds.is_open else self._grow_pause())

    def _grow_pause(self) -> float:
        self._pause_s = min(self._pause_s * 1.5, _LOOK_S / 2)
        return self._pause_s

    def _find_notice(self, news: News | None) -> Notice | None:
        """Why the load ends; None if it does not. Posts it, if nobody has."""
        listens = self._beat()
        match news:
            case News.FAILED:
                return self._board.post_end(note_failure(self._ranks[self._rank], self._own_failure()))
            case News.STOPPED:
                return self._board.post_end(note_leave(self._ranks[self._rank], *self._progress()))
            case News.BROKEN:
                return self._find_cause()
        self._open_rounds()
        return self._board.see_end() or (self._find_silence() if listens else None)

    def _open_rounds(self) -> None:
        """Lets pieces be passed round once every rank is ready to: one that fails before leaves nothing begun."""
        rounds = self._rounds
        if rounds is not None and not rounds.is_open and self._board.all_posted("ready", range(len(self._ranks))):
            rounds.open()

    def _find_cause(self) -> Notice:
        """Why a broadcast failed: that was posted, or a rank is silent, or nobody knows."""
        assert self._rounds is not None
        others = [rank for rank in range(len(self._ranks)) if rank != self._rank]
        before = {rank: self._board.see("beat", rank) for rank in others}
        deadline = time.monotonic() + _SUSPICIOUS_SILENCE_S
        while time.monotonic() < deadline:
            if (notice := self._board.see_end()) is not None:
                return notice
            self._beat()
            time.sleep(_LOOK_S)
        for rank in others:
            if self._board.see("beat", rank) == before[rank] and not self._is_away(rank):
                return self._post_death(rank, f"its connection broke, and {_SUSPICIOUS_SILENCE_S:.0f} s of silence")
        return self._board.post_end(note_break(self._rounds.breakage))

    def _find_silence(self) -> Notice | None:
        """Whether the next rank has said nothing for too long. Each listens to one, and so all are listened to."""
        while self._next != self._rank and self._is_away(self._next):
            self._next = (self._next + 1) % len(self._ranks)
            self._heard = "", time.monotonic()
        if self._next == self._rank:
            return None
        beat = self._board.see("beat", self._next) or ""
        now = time.monotonic()
        if beat != self._heard[0]:
            self._heard = beat, now
        if now - self._heard[1] < _LONGEST_SILENCE_S:
            return None
        return self._post_death(self._next, f"{_LONGEST_SILENCE_S:.0f} s of silence")

    def _is_away(self, rank: int) -> bool:
        """Whether nobody needs a rank any more."""
        return not self._waits_for_all and self._board.all_posted("out", [rank])

    def _post_death(self, rank: int, silence: str) -> Notice:
        return self._board.post_end(note_death(self._ranks[rank], self._places[rank], silence))

    def _beat(self) -> bool:
        """Tells the others that this process lives, if that is due; whether it was."""
        now = time.monotonic()
        if now < self._next_beat:
            return False
        if self._beats and now - self._next_beat > _LONGEST_SILENCE_S / 2:
            self._heard = self._heard[0], now  # this process was stopped itself, and has to listen first
        self._beats += 1
        self._board.post("beat", self._rank, str(self._beats))
        self._next_beat = now + _BEAT_S
        return True

    # When it ends.

    def _end_together(self, notice: Notice) -> bool:
        """Ends the load as the module's text says; whether all broadcasts have ended."""
        begun = self._freeze(notice, self._error_for_here(notice))
        self._board.post("count", self._rank, str(begun))
        if not notice.is_orderly:
            return self._abandon()
        counts = self._wait_counts()
        if counts is None:
            return self._abandon()
        if self._rounds is None:
            return max(counts) == 0
        self._rounds.finish_at(max(counts), counts)
        while True:
            news = self._rounds.wait_settled(_LOOK_S)
            if news is News.OVER:
                return True
            if news is News.BROKEN or self._is_hopeless():
                return self._abandon()

    def _wait_counts(self) -> list[int] | None:
        """How many broadcasts each rank has begun; None where not all can tell."""
        everyone = range(len(self._ranks))
        self._pause_s = _FIRST_LOOK_S
        while not self._board.all_posted("count", everyone):
            if self._is_hopeless():
                return None
            time.sleep(self._grow_pause())
        return [int(self._board.see("count", rank) or 0) for rank in everyone]

    def _is_hopeless(self) -> bool:
        """Whether a rank has given up or died, so that what is under way may never end."""
        silent = self._find_silence() if self._beat() else None
        return self._quits or silent is not None or self._board.see("lost", 0) is not None

    def _abandon(self) -> bool:
        """Gives up, and says so. Always False: the group cannot be used any more."""
        if self._rounds is not None:
            self._rounds.abandon()
        self._board.post("lost", 0)
        return False

    def _say_goodbye(self) -> None:
        """Says that nobody has to wait for this rank or listen to it."""
        rounds = self._rounds
        try:
            if rounds is not None and self._notice is None:
                self._board.post("count", self._rank, str(rounds.piece_count))
            self._board.post("out", self._rank)
        except BoardLostError:
            return  # whoever kept the store was over before

    def _wait_all_out(self) -> bool:
        """Waits until the load has ended everywhere; False where some rank may never get that far."""
        self._pause_s = _FIRST_LOOK_S
        with suppress(BoardLostError):  # whoever kept the store was over before
            while not self._board.all_posted("out", range(len(self._ranks))):
                if self._is_hopeless():
                    self._board.post_end(note_break("a rank was over before all had received what it sent"))
                    return self._abandon()
                time.sleep(self._grow_pause())
        return True

    def _end_alone(self, error: BaseException) -> None:
        """Ends the load for this rank: nothing can be told to the others, nor heard of them."""
        shown = error if isinstance(error, SlipstreamError) else SlipstreamError(f"a bug in the watch: {error!r}")
        self._freeze(Notice("broken", None, str(shown)), shown)
        if self._rounds is not None:
            self._rounds.abandon()

    def _freeze(self, notice: Notice, error: SlipstreamError | None) -> int:
        """Says why it ends to whoever waits here; how many broadcasts were begun, of which there will be no more."""
        with self._changed:
            self._notice = self._notice or notice
            self._changed.notify_all()
        return 0 if self._rounds is None else self._rounds.freeze(error)

    def _error_for_here(self, notice: Notice) -> SlipstreamError | None:
        """What the caller is told; nothing where it befell this rank itself, which knows."""
        return None if notice.is_orderly and notice.rank == self._ranks[self._rank] else notice.to_error()

    def _own_failure(self) -> BaseException:
        failure = self._failure if self._rounds is None else self._rounds.failure
        assert failure is not None, "a rank has failed without an error"
        return failure

    def _progress(self) -> tuple[int, int]:
        assert self._rounds is not None
        return self._rounds.progress

    def _landed_at(self) -> float:
        return 0.0 if self._rounds is None else self._rounds.landed_at
