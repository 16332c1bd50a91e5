"""Reads ranges of blobs over HTTP into memory, and heals what can be healed.

read_into ── until all of the range has landed ──┐
  _attempt    grant, connection, request, body   │  a Failure: pause and go on from where it broke,
                                                 │  or one of the library's errors (wording.py)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from urllib.parse import urlsplit

from slipstream.options import Options
from slipstream.transport.access import BlobAccess, Grant
from slipstream.transport.answers import Part, Pin, check_part, find_validator, redirected, unsatisfied_size
from slipstream.transport.connection import Connection, Head
from slipstream.transport.failures import Failure, Kind, explain_answer, explain_os_error
from slipstream.transport.limit import BandwidthLimit
from slipstream.transport.origin import split_url
from slipstream.transport.pool import Pool
from slipstream.transport.redaction import find_secrets
from slipstream.transport.retry import RetryBudget, pause_before
from slipstream.transport.transfer import Transfer, TransferStopped
from slipstream.transport.wording import explain_failure

_MOST_REDIRECTS = 5
_MOST_STALE = 256  # of one pool; each is found out at once
_SLOWEST_BYTES = 16 << 10  # in `stall_timeout_s`: less is a stall, however steadily it trickles
_REDIRECTS = (301, 302, 303, 307, 308)
_GONE = (400, 401, 403, 404, 410)


@dataclass(frozen=True, slots=True)
class NetworkStats:
    """What a client did so far.

    Attributes:
        requests: HTTP requests sent, also those that failed.
        retries: attempts made again after one failed.
        connections: opened.
        throttled: answers that asked for fewer requests.
        discarded_bytes: received and not used.
    """

    requests: int = 0
    retries: int = 0
    connections: int = 0
    throttled: int = 0
    discarded_bytes: int = 0


class RangeClient:
    """The connections, the budget and the figures of one load. Safe to use from many threads, in one process."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._pool = Pool()
        self._budget = RetryBudget(options.retries)
        self._limit = None if options.bandwidth_limit is None else BandwidthLimit(options.bandwidth_limit)
        self._deadline = None if options.deadline_s is None else monotonic() + options.deadline_s
        self._lock = Lock()  # guards those below
        self._closed = False
        self._transfers: set[Transfer] = set()  # under way
        self._counts = dict.fromkeys(NetworkStats.__slots__, 0)
        self._moved: dict[str, str] = {}  # where a granted URL was redirected to

    def __repr__(self) -> str:
        return f"<RangeClient {self.statistics()}>"

    def statistics(self) -> NetworkStats:
        """The figures so far."""
        with self._lock:
            return NetworkStats(**self._counts)

    @property
    def throttled(self) -> int:
        """As in `statistics`, for who asks after every read."""
        return self._counts["throttled"]

    def count(self, **more: int) -> None:
        """Adds to the figures."""
        with self._lock:
            for name, number in more.items():
                self._counts[name] += number

    def close(self) -> None:
        """Stops what is being read, without waiting for that, and closes all connections. Safe to call again."""
        with self._lock:
            self._closed = True
            transfers = list(self._transfers)
        for transfer in transfers:
            transfer.begin_stop()
        self._pool.close()

    def discover(self, access: BlobAccess, length: int) -> tuple[bytes, Pin]:
        """The first `length` bytes of a blob, or all of a shorter one, and what it is: in one request.

        Raises:
            SlipstreamError: see `read_into`.
        """
        target = bytearray(length)
        reading = _Reading(access, None, 0, memoryview(target), Transfer())
        self._read_tracked(reading)
        assert reading.pin is not None
        return bytes(memoryview(target)[: min(length, reading.pin.size)]), reading.pin

    def read_into(self, access: BlobAccess, pin: Pin, start: int, target: memoryview, transfer: Transfer) -> None:
        """Fills the target with the blob's bytes from `start` on.

        Args:
            access: to the blob.
            pin: what it must be.
            start: first byte, in the blob.
            target: writable, and inside the blob. Only this thread writes to it, and not after this call.
            transfer: to watch and stop it by.

        Raises:
            TransferStopped: somebody stopped the transfer.
            BlobNotFoundError, AccessDeniedError, BlobChangedError, UsageError, ReadError: what could not be healed;
                they say what, where, how often it was tried, and what to check next.
        """
        self._read_tracked(_Reading(access, pin, start, target, transfer))

    def _read_tracked(self, reading: _Reading) -> None:
        """Reads so that `close` can stop it."""
        with self._lock:
            self._transfers.add(reading.transfer)
            if self._closed:
                reading.transfer.begin_stop()
        try:
            self._read(reading)
        finally:
            with self._lock:
                self._transfers.discard(reading.transfer)

    def _read(self, reading: _Reading) -> None:
        while not reading.is_done:
            landed = reading.transfer.landed
            failure = self._try(reading)
            if failure is None or reading.transfer.landed > landed:
                reading.note_progress()
            if failure is None:
                self._budget.earn()
                continue
            if reading.transfer.stopped:
                raise TransferStopped
            pause_s = self._heal(failure, reading)
            if pause_s:
                reading.transfer.pause(pause_s)

    def _try(self, reading: _Reading) -> Failure | None:
        """One attempt. Its failure is kept as a value: frames and contexts would keep the target's memory alive."""
        try:
            self._attempt(reading)
        except Failure as failure:
            failure.__context__ = None
            return failure.with_traceback(None)
        return None

    def _heal(self, failure: Failure, reading: _Reading) -> float:
        """Seconds to wait before the next attempt; raises where there is none."""
        if failure.kind is Kind.STALE and reading.stale < _MOST_STALE:
            reading.stale += 1
            return 0.0
        reading.failures += 1
        reading.failures_in_row += 1
        again_at_once = failure.kind is Kind.EXPIRED
        pause_s = 0.0 if again_at_once else pause_before(reading.failures_in_row, failure.retry_after_s)
        problem = self._why_not_again(failure, reading, pause_s)
        if problem is not None:
            raise explain_failure(failure, reading, problem)
        self.count(retries=1, throttled=int(failure.kind is Kind.BUSY))
        if again_at_once:
            reading.refused = reading.grant
        return pause_s

    def _why_not_again(self, failure: Failure, reading: _Reading, pause_s: float) -> str | None:
        """Why there is no further attempt after a pause, in words for the error; None where there is one."""
        if failure.kind in (Kind.REFUSED, Kind.CHANGED):
            return ""
        if failure.kind is Kind.EXPIRED:
            if reading.refused is not None:  # a new grant was refused too
                return ""
            renewed = reading.access.grant(reading.grant)
            return "" if renewed is reading.grant else None
        if self._deadline is not None and monotonic() + pause_s >= self._deadline:
            return f"the limit deadline_s={self._options.deadline_s:g} leaves no time for another attempt: raise it"
        if reading.failures_in_row >= self._options.attempts:
            return ""
        if not self._budget.try_spend():
            return (
                f"the load's budget of retries={self._budget.retries} is used up: raise it, or look why so much fails"
            )
        return None

    def _attempt(self, reading: _Reading) -> None:
        """One request for what has not landed yet."""
        reading.grant = reading.access.grant(reading.refused)
        granted = reading.grant.url
        url = remembered = self._moved.get(granted, granted)
        for _ in range(_MOST_REDIRECTS + 1):
            try:
                url_next = self._request(reading, reading.grant, url)
            except Failure as failure:
                if url == remembered != granted:
                    self._forget_move(granted, remembered, failure)
                raise
            if url_next is None:
                if url != granted:
                    self._moved[granted] = url
                return
            url = url_next
        raise Failure(Kind.REFUSED, f"it redirects more than {_MOST_REDIRECTS} times")

    def _forget_move(self, granted: str, remembered: str, failure: Failure) -> None:
        """Asks the granted URL again where a place it once redirected to has gone: for good, or as it seems."""
        is_gone = failure.answer is not None and failure.answer.status in _GONE
        if (is_gone or failure.network is not None) and self._moved.get(granted) == remembered:
            self._moved.pop(granted, None)
        if is_gone:
            raise Failure(Kind.STALE, "the place it was redirected to is no longer good") from None

    def _request(self, reading: _Reading, grant: Grant, url: str) -> str | None:
        """Asks one URL for the range and receives it; returns where it redirects to instead, if it does."""
        origin, target = split_url(url, grant)
        kept = self._pool.take(origin)
        connection = kept or Connection(origin)
        whole = False
        try:
            reading.transfer.enter(connection)
            try:
                if not kept:
                    connection.open(timeout_s=self._timeout(self._options.connect_timeout_s))
                    self.count(connections=1)
                self.count(requests=1)
                reading.transfer.requests += 1
                headers = reading.headers(grant if _same_host(url, grant.url) else None)
                head = connection.request(target, headers, timeout_s=self._timeout(self._options.first_byte_timeout_s))
                if head.status in _REDIRECTS and not _is_region_error(reading.access, head):
                    return redirected(url, head)
                part = self._check(reading, head, connection, url)
                if part is not None:
                    self._receive(connection, reading, part)
                whole = head.keeps_alive
            finally:
                reading.transfer.leave()
        finally:
            if whole:
                self._pool.give_back(connection)
            else:
                connection.close()
        return None

    def _check(self, reading: _Reading, head: Head, connection: Connection, url: str) -> Part | None:
        """What the body will be; None where the blob is empty, and is only being discovered."""
        if head.status in (200, 206):
            part = check_part(head, reading.position, reading.remaining, reading.pin)
            reading.found(part.pin)
            return part
        body = connection.receive_error(head, timeout_s=self._timeout(self._options.connect_timeout_s))
        self.count(discarded_bytes=len(body))
        if head.status == 416:
            size = unsatisfied_size(head)
            if not size and reading.pin is None:  # from its first byte on there is nothing: it is empty
                reading.found(Pin(0, find_validator(head)))
                return None
            if reading.pin is not None:
                shorter = "" if size is None else f": it now has {size:,} bytes"
                raise Failure(Kind.CHANGED, f"HTTP 416, the range is beyond its end{shorter}")
        assert reading.grant is not None
        secrets = find_secrets(url, reading.grant.headers)
        raise explain_answer(head.status, head.headers, body.decode("utf-8", "replace"), secrets)

    def _receive(self, connection: Connection, reading: _Reading, part: Part) -> None:
        """Receives the body into the target. The loop runs once for each 16 KB with TLS: every line counts."""
        transfer, target, limit = reading.transfer, reading.target, self._limit
        connection.set_timeout(self._timeout(self._options.stall_timeout_s))
        position = transfer.landed
        end = position + part.length
        count = connection.take_rest(target[position:end])
        position += count
        transfer.landed = position
        if limit is not None:
            transfer.pause(limit.charge(count))
        receive_more = connection.receive_more
        mark, mark_position = monotonic(), position
        look_at = self._next_look(mark)
        try:
            while position < end:
                stop = end if limit is None else min(end, position + limit.slice_bytes)
                count = receive_more(stop - position, target[position:stop])
                if not count:
                    text = f"the connection was closed {end - position:,} bytes before the end of the range"
                    raise Failure(Kind.LOST, text, network="reset")
                position += count
                transfer.landed = position
                now = monotonic()
                if now >= look_at:
                    self._check_speed(position - mark_position, now - mark)
                    mark, mark_position, look_at = now, position, self._next_look(now)
                if limit is not None and (wait_s := limit.charge(count)):
                    transfer.pause(wait_s)
        except OSError as error:
            raise explain_os_error(error, "receiving") from None

    def _next_look(self, now: float) -> float:
        """When to look whether enough has come, and whether there is time for more."""
        look_at = now + self._options.stall_timeout_s
        return look_at if self._deadline is None else min(look_at, self._deadline)

    def _check_speed(self, count: int, seconds: float) -> None:
        self._timeout(0.0)
        if count < _SLOWEST_BYTES and self._limit is None:
            raise Failure(Kind.LOST, f"only {count:,} bytes came in {seconds:.1f} s", network="timeout")

    def _timeout(self, seconds: float) -> float:
        """The timeout for a call, shortened by the deadline."""
        if self._deadline is None:
            return seconds
        left = self._deadline - monotonic()
        if left <= 0:
            raise Failure(Kind.LOST, "the time for the load is over")
        return min(seconds, left)


class _Reading:
    """One range being read, over all attempts.

    Attributes:
        access: to the blob.
        pin: what the blob must be; None until it has been found out.
        start: first byte of the range.
        target: the memory for all of it.
        transfer: how far it is.
        grant: of the present attempt.
        refused: the grant that was called expired, if one was.
        failures: attempts that failed.
        failures_in_row: those since the last byte came.
        stale: kept connections that turned out to be closed.
        began: `monotonic()` at the first attempt.
    """

    def __init__(self, access: BlobAccess, pin: Pin | None, start: int, target: memoryview, transfer: Transfer) -> None:
        self.access = access
        self.pin = pin
        self.start = start
        self.target = target
        self.transfer = transfer
        self.grant: Grant | None = None
        self.refused: Grant | None = None
        self.failures = 0
        self.failures_in_row = 0
        self.stale = 0
        self.began = monotonic()

    @property
    def is_done(self) -> bool:
        """Whether the target is full, or the blob at its end."""
        return self.transfer.landed == self._wanted

    @property
    def position(self) -> int:
        """The next byte to ask for, in the blob."""
        return self.start + self.transfer.landed

    @property
    def remaining(self) -> int:
        """How many bytes to ask for."""
        return self._wanted - self.transfer.landed

    @property
    def _wanted(self) -> int:
        return len(self.target) if self.pin is None else min(len(self.target), self.pin.size - self.start)

    def found(self, pin: Pin) -> None:
        """Notes what the blob is, on the first answer."""
        if self.pin is None:
            self.pin = pin

    def note_progress(self) -> None:
        """Notes that bytes came: what failed before is healed."""
        self.failures_in_row = 0
        self.refused = None

    def headers(self, grant: Grant | None) -> Mapping[str, str]:
        """What a request for the rest of the range is made with; nothing of the grant for another host."""
        headers = {
            "User-Agent": "slipstream",
            "Accept-Encoding": "identity",
            "Range": f"bytes={self.position}-{self.position + self.remaining - 1}",
        }
        etag = None if self.pin is None else self.pin.etag
        if etag is not None and not etag.startswith("W/"):  # a weak one never matches (RFC 9110, 13.1.1)
            headers["If-Match"] = etag
        return headers if grant is None else {**headers, **grant.headers}


def _same_host(url: str, other: str) -> bool:
    """Whether two URLs lead to one server: only then one's credentials may go to the other."""
    return url == other or urlsplit(url)[:2] == urlsplit(other)[:2]


def _is_region_error(access: BlobAccess, head: Head) -> bool:
    """S3 answers 301 or 307 without a usable place when the bucket is in another region."""
    return access.kind == "s3" and ("x-amz-bucket-region" in head.headers or "location" not in head.headers)
