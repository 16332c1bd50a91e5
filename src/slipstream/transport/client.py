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
from slipstream.transport.answers import Part, Pin, check_part, redirected, unsatisfied_size
from slipstream.transport.connection import Connection, Head
from slipstream.transport.failures import Failure, Kind, explain_answer, explain_os_error
from slipstream.transport.limit import BandwidthLimit
from slipstream.transport.origin import Origin, split_url
from slipstream.transport.pool import Pool
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
        self._lock = Lock()  # guards the two below
        self._counts = dict.fromkeys(NetworkStats.__slots__, 0)
        self._moved: dict[str, str] = {}  # where a granted URL was redirected to

    def __repr__(self) -> str:
        return f"<RangeClient {self.statistics()}>"

    def statistics(self) -> NetworkStats:
        """The figures so far."""
        with self._lock:
            return NetworkStats(**self._counts)

    def count(self, **more: int) -> None:
        """Adds to the figures."""
        with self._lock:
            for name, number in more.items():
                self._counts[name] += number

    def close(self) -> None:
        """Closes idle connections; those in use are closed when their range ends."""
        self._pool.close()

    def discover(self, access: BlobAccess, length: int) -> tuple[bytes, Pin]:
        """The first `length` bytes of a blob, or all of a shorter one, and what it is: in one request.

        Raises:
            SlipstreamError: see `read_into`.
        """
        target = bytearray(length)
        reading = _Reading(access, None, 0, memoryview(target), Transfer())
        self._read(reading)
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
        self._read(_Reading(access, pin, start, target, transfer))

    def _read(self, reading: _Reading) -> None:
        while not reading.is_done:
            landed = reading.transfer.landed
            try:
                self._attempt(reading)
                self._budget.earn()
            except Failure as failure:
                if reading.transfer.stopped:
                    raise TransferStopped from None
                if reading.transfer.landed > landed:
                    reading.note_progress()
                pause_s = self._heal(failure, reading)
            else:
                reading.note_progress()
                continue
            if pause_s:
                reading.transfer.pause(pause_s)

    def _heal(self, failure: Failure, reading: _Reading) -> float:
        """Seconds to wait before the next attempt; raises where there is none."""
        if failure.kind is Kind.STALE and reading.stale < _MOST_STALE:
            reading.stale += 1
            return 0.0
        reading.failures += 1
        reading.failures_in_row += 1
        problem = self._why_not_again(failure, reading)
        if problem is not None:
            raise explain_failure(failure, reading, problem) from None
        self.count(retries=1, throttled=int(failure.kind is Kind.BUSY))
        if failure.kind is Kind.EXPIRED:
            reading.refused = reading.grant
            return 0.0
        return pause_before(reading.failures_in_row, failure.retry_after_s)

    def _why_not_again(self, failure: Failure, reading: _Reading) -> str | None:
        """Why there is no further attempt, in words for the error; None where there is one."""
        if failure.kind in (Kind.REFUSED, Kind.CHANGED):
            return ""
        if failure.kind is Kind.EXPIRED:
            if reading.refused is not None:  # a new grant was refused too
                return ""
            renewed = reading.access.grant(reading.grant)
            return "" if renewed is reading.grant else None
        if self._deadline is not None and monotonic() >= self._deadline:
            return f"deadline_s={self._options.deadline_s:g} has passed"
        if reading.failures_in_row >= self._options.attempts:
            return ""
        if not self._budget.try_spend():
            return f"the load's budget of retries={self._budget.retries} is used up"
        return None

    def _attempt(self, reading: _Reading) -> None:
        """One request for what has not landed yet."""
        reading.grant = reading.access.grant(reading.refused)
        url = self._moved.get(reading.grant.url, reading.grant.url)
        for _ in range(_MOST_REDIRECTS + 1):
            url_next = self._request(reading, reading.grant, url)
            if url_next is None:
                if url != reading.grant.url:
                    self._moved[reading.grant.url] = url
                return
            url = url_next
        raise Failure(Kind.REFUSED, f"it redirects more than {_MOST_REDIRECTS} times")

    def _request(self, reading: _Reading, grant: Grant, url: str) -> str | None:
        """Asks one URL for the range and receives it; returns where it redirects to instead, if it does."""
        origin, target = split_url(url, grant)
        connection = self._connect(origin)
        whole = False
        try:
            reading.transfer.enter(connection)
            try:
                self.count(requests=1)
                reading.transfer.requests += 1
                headers = reading.headers(grant if _same_host(url, grant.url) else None)
                head = connection.request(target, headers, timeout_s=self._timeout(self._options.first_byte_timeout_s))
                if head.status in _REDIRECTS and not _is_region_error(reading.access, head):
                    return redirected(url, head)
                part = self._check(reading, head, connection, grant, url)
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

    def _connect(self, origin: Origin) -> Connection:
        connection = self._pool.take(origin)
        if connection is None:
            connection = Connection(origin, timeout_s=self._timeout(self._options.connect_timeout_s))
            self.count(connections=1)
        return connection

    def _check(self, reading: _Reading, head: Head, connection: Connection, grant: Grant, url: str) -> Part | None:
        """What the body will be; None where the blob is empty, and is only being discovered."""
        if head.status in (200, 206):
            part = check_part(head, reading.position, reading.remaining, reading.pin)
            reading.found(part.pin)
            return part
        if head.status == 416:
            size = unsatisfied_size(head)
            if size == 0 and reading.pin is None:
                connection.receive_error(head)
                reading.found(Pin(0, head.headers.get("etag")))
                return None
            shorter = "" if size is None else f": it now has {size:,} bytes"
            raise Failure(Kind.CHANGED, f"HTTP 416, the range is beyond its end{shorter}")
        if url != grant.url and head.status in _GONE and self._moved.pop(grant.url, ""):
            raise Failure(Kind.STALE, "the place it was redirected to is no longer good")
        connection.set_timeout(self._timeout(self._options.connect_timeout_s))
        body = connection.receive_error(head)
        self.count(discarded_bytes=len(body))
        raise explain_answer(head.status, head.headers, body)

    def _receive(self, connection: Connection, reading: _Reading, part: Part) -> None:
        """Receives the body into the target. The loop runs once for each 16 KB with TLS: every line counts."""
        transfer, target, limit = reading.transfer, reading.target, self._limit
        stall_s = self._options.stall_timeout_s
        connection.set_timeout(self._timeout(stall_s))
        position = transfer.landed
        end = position + part.length
        position += connection.take_rest(target[position:end])
        transfer.landed = position
        receive_more = connection.receive_more
        mark, mark_position = monotonic(), position
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
                if now - mark >= stall_s:
                    self._check_speed(position - mark_position, now - mark)
                    mark, mark_position = now, position
                if limit is not None and (wait_s := limit.charge(count)):
                    transfer.pause(wait_s)
        except OSError as error:
            raise explain_os_error(error, "receiving") from None

    def _check_speed(self, count: int, seconds: float) -> None:
        if count < _SLOWEST_BYTES and self._limit is None:
            raise Failure(Kind.LOST, f"only {count:,} bytes came in {seconds:.0f} s", network="timeout")
        self._timeout(0.0)

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
