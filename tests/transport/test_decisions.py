"""What is decided without I/O: who repeats whom, how long to pause, how many at once, what may be shown."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import slipstream
from slipstream.reading import schedule as schedule_module
from slipstream.reading.in_flight import Read
from slipstream.reading.schedule import Schedule
from slipstream.reading.stragglers import Peers
from slipstream.reading.tuning import ConcurrencyTuner
from slipstream.transport import transfer as transfer_module
from slipstream.transport.failures import explain_answer
from slipstream.transport.limit import BandwidthLimit
from slipstream.transport.redaction import redact_text, redact_url
from slipstream.transport.retry import RetryBudget, pause_before
from slipstream.transport.transfer import Transfer, TransferStopped
from tests.transport.serving import Served, quick


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for module in (schedule_module, transfer_module):
            monkeypatch.setattr(module, "monotonic", lambda: self.now)


def begin(served: Served, clock: Clock, *, concurrency: int = 4) -> tuple[Schedule, Read]:
    """A schedule with twelve reads done in a hundredth of a second each, and one that has been under way for ten."""
    reads = slipstream.plan(served.url, options=quick(concurrency=concurrency))
    schedule = Schedule(reads, 1.0, hedge=True)
    straggler = take(schedule)
    for _ in range(12):
        read = take(schedule)
        clock.now += 0.01
        finish(schedule, read)
    clock.now += 10.0
    return schedule, straggler


def take(schedule: Schedule) -> Read:
    read = schedule.wait_read()
    assert read is not None
    return read


def finish(schedule: Schedule, read: Read) -> None:
    assert schedule.win(read)
    schedule.finish_read(read, 1)


def take_the_rest(schedule: Schedule) -> list[Read]:
    """Whatever is handed out until nothing more may be."""
    taken = []
    while schedule._pending or schedule._current:
        read = take(schedule)
        taken.append(read)
        finish(schedule, read)
    return taken


def test_a_straggler_is_repeated_from_where_it_is(plain: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second read asks for what the first has not yet, and only for that."""
    schedule, straggler = begin(plain, Clock(monkeypatch))
    straggler.transfer.landed = 1000
    rival = take(schedule)
    assert (rival.start, rival.end) == (straggler.start + 1000, straggler.end)
    assert rival.rival is straggler
    assert straggler.rival is rival
    assert schedule.hedged == 1


def test_where_both_straggle_the_older_makes_room(plain: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second read that stalls as the first did is no reason to wait for a timeout, nor for more than two at once."""
    clock = Clock(monkeypatch)
    schedule, first = begin(plain, clock)
    first.transfer.landed = 1000
    second = take(schedule)
    second.transfer.landed = 500
    clock.now += 10.0
    third = take(schedule)
    assert (third.start, third.end, third.chunk_start) == (second.start + 500, first.end, first.chunk_start)
    assert third.rival is second
    assert first.lost
    assert first.transfer.stopped
    assert not schedule.win(first)
    schedule.lose(first)
    assert schedule.win(third)
    assert set(schedule.find_others(third)) == {first, second}
    assert schedule.hedged == 2


def test_an_older_read_that_goes_on_is_not_displaced(plain: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one of two does not straggle there is no third."""
    clock = Clock(monkeypatch)
    schedule, first = begin(plain, clock)
    take(schedule)
    clock.now += 10.0
    first.transfer.landed = first.end - first.start
    take(schedule)
    assert not first.lost
    assert schedule.hedged == 1


def test_a_loser_is_not_repeated(plain: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a read's loss and its end its chunk may be the caller's already: nobody is sent to read it."""
    schedule, straggler = begin(plain, Clock(monkeypatch))
    rival = take(schedule)
    finish(schedule, rival)
    assert all(read.chunk_start != straggler.chunk_start for read in take_the_rest(schedule))
    assert not schedule.win(straggler)
    schedule.lose(straggler)


def test_a_winner_is_not_repeated(plain: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a read's victory and the note of it nobody is sent to read its chunk either."""
    schedule, straggler = begin(plain, Clock(monkeypatch))
    rival = take(schedule)
    assert schedule.win(straggler)
    schedule.lose(rival)
    assert all(read.chunk_start != straggler.chunk_start for read in take_the_rest(schedule))
    schedule.finish_read(straggler, 1)


def test_only_the_first_of_two_wins(plain: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """An op is whole once, whichever read of a chunk ends first."""
    schedule, straggler = begin(plain, Clock(monkeypatch))
    rival = take(schedule)
    assert schedule.win(rival)
    assert not schedule.win(straggler)


@pytest.mark.parametrize("which", ["straggler", "rival"])
def test_one_of_two_may_fail(plain: Served, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    """The failure of one read is no failure of the load while the other goes on; that of both is."""
    schedule, straggler = begin(plain, Clock(monkeypatch))
    rival = take(schedule)
    first, second = (straggler, rival) if which == "straggler" else (rival, straggler)
    schedule.fail(first, OSError("first"))
    assert not schedule.finished
    schedule.fail(second, OSError("second"))
    with pytest.raises(OSError, match="second"):
        schedule.wait_whole()


def test_a_read_that_pauses_is_not_repeated(plain: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that has asked to wait is not asked by another."""
    schedule, straggler = begin(plain, Clock(monkeypatch))
    straggler.transfer.waiting = True
    assert take(schedule).rival is None


def test_no_second_read_beyond_the_concurrency(plain: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second read takes a place as any other."""
    schedule, straggler = begin(plain, Clock(monkeypatch), concurrency=2)
    take(schedule)
    assert schedule.peak_concurrency == 2
    assert len(schedule._in_flight) == 2
    assert straggler in schedule._in_flight


def test_alike_reads_are_no_stragglers() -> None:
    """What takes as long as its peers is left alone, however long that is; without peers everything is."""
    peers = Peers()
    assert not peers.is_straggler(1 << 20, 0, 1e6, at_the_end=True)
    for _ in range(20):
        peers.note(8 << 20, 10.0)
    assert not peers.is_straggler(8 << 20, 4 << 20, 12.0, at_the_end=True)
    assert not peers.is_straggler(8 << 20, 8_300_000, 100.0, at_the_end=False)  # nearly done
    assert peers.is_straggler(8 << 20, 0, 100.0, at_the_end=False)


@given(st.lists(st.tuples(st.floats(0.01, 2), st.integers(0, 10**9), st.booleans(), st.booleans()), max_size=60))
@settings(max_examples=60, derandomize=True, deadline=None, database=None)
def test_the_tuner_stays_within_its_bounds(steps: list[tuple[float, int, bool, bool]]) -> None:
    """Whatever is observed, at least one read may be in flight and at most as many as allowed."""
    tuner, now, landed, throttled = ConcurrencyTuner(8, 64, 0.0, float), 0.0, 0, 0
    for seconds, count, full, refused in steps:
        now, landed, throttled = now + seconds, landed + count, throttled + refused
        before = tuner.level
        level = tuner.observe(now, landed, 0.05, throttled, full=full)
        assert level == tuner.level
        assert 1 <= level <= 64
        if refused:
            assert level <= max(before, 1)


def test_the_tuner_backs_off() -> None:
    """A store that goes on to ask for less is given less and less."""
    tuner = ConcurrencyTuner(64, 64, 0.0, float)
    levels = [tuner.observe(0.1 * count, count * 10**8, 0.1, count * 64, full=True) for count in range(1, 20)]
    assert levels[0] < 64
    assert levels[-1] <= 2


def test_a_number_is_never_tuned(plain: Served) -> None:
    """A fixed concurrency is not searched."""
    schedule = Schedule(slipstream.plan(plain.url, options=quick(concurrency=5)), 1.0)
    for read in [take(schedule) for _ in range(5)]:
        finish(schedule, read)
        assert schedule.tune(throttled=3) == 5


def test_pauses_grow_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """They double, with jitter, up to some seconds; a store's own wish is never undercut."""
    monkeypatch.undo()
    for attempt in range(1, 12):
        longest = min(0.1 * 2 ** (attempt - 1), 5.0)
        drawn = [pause_before(attempt) for _ in range(50)]
        assert longest / 4 <= min(drawn) <= max(drawn) <= longest
        assert len(set(drawn)) > 40
    assert all(3.0 <= pause_before(1, 3.0) <= 4.5 for _ in range(50))


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("7", 7, 7),
        (" 7 ", 7, 7),
        ("100000", 60, 60),
        ("9" * 400, 60, 60),
    ],
)
def test_retry_after(value: str, least: float, most: float) -> None:
    """A number or a date; never more than a minute, never less than nothing."""
    seconds = explain_answer(503, {"retry-after": value}, "").retry_after_s
    assert seconds is not None
    assert least <= seconds <= most


def test_retry_after_a_date() -> None:
    """As far as it is from now; one that has passed is now."""
    for ahead_s, least, most in ((20, 15, 20), (-20, 0, 0)):
        value = formatdate(time.time() + ahead_s, usegmt=True)
        seconds = explain_answer(503, {"retry-after": value}, "").retry_after_s
        assert seconds is not None
        assert least <= seconds <= most


@pytest.mark.parametrize("value", ["soon", "-5", "1.5", "", "Mon, 99 Foo 2026 00:00:00 GMT", "\u0667x"])
def test_nonsense_for_retry_after(value: str) -> None:
    """It is as none."""
    assert explain_answer(503, {"retry-after": value}, "").retry_after_s is None


def test_the_retry_budget() -> None:
    """So many, and one more for every four successes; none at all where none was given."""
    budget = RetryBudget(2)
    assert [budget.try_spend() for _ in range(3)] == [True, True, False]
    for _ in range(4):
        budget.earn()
    assert [budget.try_spend() for _ in range(2)] == [True, False]
    none = RetryBudget(0)
    for _ in range(100):
        none.earn()
    assert not none.try_spend()


def test_the_bandwidth_limit_adds_up() -> None:
    """What is charged is waited for, all together; a pause earns hardly anything."""
    limit = BandwidthLimit(1_000_000)
    waits = [limit.charge(100_000) for _ in range(10)]
    assert waits == sorted(waits)
    assert 0.9 < waits[-1] <= 1.0


def test_a_stopped_transfer_begins_nothing() -> None:
    """After stop, no connection may write; a pause ends at once."""
    transfer = Transfer()
    transfer.stop()
    with pytest.raises(TransferStopped):
        transfer.enter(_Nothing())
    with pytest.raises(TransferStopped):
        transfer.pause(60.0)


class _Nothing:
    def abort(self) -> None:
        pass


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/a", "https://h/a"),
        ("https://h:1/a?sig=s", "https://h:1/a?(redacted)"),
        ("https://me:secret@h/a@b?x#y", "https://h/a@b?(redacted)"),
        ("https://me:secret@[::1/a?x", "https://[::1/a?(redacted)"),
        ("https://me:sec/ret@h/a", "https://h/a"),
        ("https://me:sec?ret@h/a", "https://h/a?(redacted)"),
        ("me:secret@h:3128", "h:3128"),
        ("", ""),
    ],
)
def test_what_of_a_url_is_shown(url: str, shown: str) -> None:
    """Neither user information nor a query, of malformed ones neither."""
    assert redact_url(url) == shown


def test_what_of_a_text_is_shown() -> None:
    """Queries go, also without a host before them; questions stay."""
    said = "GET /a?sig=secret&x=1 of http://me:secret@h/a?sig=secret failed. Why? Who knows?"
    assert redact_text(said) == "GET /a?(redacted) of http://h/a?(redacted) failed. Why? Who knows?"
