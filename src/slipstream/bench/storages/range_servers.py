"""The servers behind `range_store`: nginx, which is the faster one, or the range server of slipstream.testing.

    client  --GET, Range-->  nginx: so many bytes a second for each connection
                               └─ asks first:  the range server, which answers after so many milliseconds

Both serve the files below a folder, plain or over TLS with a certificate of an authority of their own, and both pass
for an S3 server: they answer `GET /bucket/key` whatever its signature.
"""

from __future__ import annotations

import http.client
import os
import ssl
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from slipstream.bench.storages.base import StorageUnavailableError
from slipstream.testing import nginx
from slipstream.testing.certificates import CertificateAuthority, ServerCertificate
from slipstream.testing.nginx import Nginx
from slipstream.testing.range_faults import Delay, Rate
from slipstream.testing.range_schedule import Fault
from slipstream.testing.range_server import Faults, RangeServer

_PIECE_S = 0.010  # a whole number of milliseconds, for which nginx pauses
_PROBE_BYTES = 8 << 20
_PROBES = 5
_LOG_FIELD_BYTES = -2


@dataclass(frozen=True)
class StoreLimits:
    """What a store gives to one connection.

    Attributes:
        connection_bytes_per_s: of each answer; None is as much as there is.
        first_byte_s: from a request to the first byte of its answer, at least.
    """

    connection_bytes_per_s: int | None = None
    first_byte_s: float = 0.0

    def facts(self) -> dict[str, float]:
        """As records have them: those that there are."""
        rate = self.connection_bytes_per_s
        found = {} if rate is None else {"connection_bytes_per_s": float(rate)}
        return found | ({"first_byte_s": self.first_byte_s} if self.first_byte_s else {})


class RangeServing(Protocol):
    """One of the two servers, while it runs.

    Attributes:
        name: for people.
        storage_options: what an S3 client needs to reach it.
    """

    name: str
    storage_options: Mapping[str, str]

    def url(self, path: str) -> str:
        """Of a file below the folder."""
        ...

    def sent_bytes(self) -> int:
        """Bytes of all bodies so far."""
        ...


@contextmanager
def serve_ranges(root: Path, scratch: Path, limits: StoreLimits, *, tls: bool) -> Iterator[RangeServing]:
    """Serves a folder until the end of the block, by nginx where that is installed.

    Args:
        root: the folder. What its symbolic links lead to is served too.
        scratch: another folder, for what the server needs while it runs.
        limits: of each connection.
        tls: whether https is spoken.

    Raises:
        StorageUnavailableError: there is no package that makes certificates.
        ServerError, OSError: it did not start.
    """
    certificate = _make_certificate(scratch / "certificates") if tls else None
    serve = _run_range_server if nginx.why_unavailable() else _run_nginx
    with serve(root, scratch, limits, certificate) as server:
        yield server


def why_no_tls() -> str:
    """Why nothing can be served over TLS here; "" where it can."""
    try:
        import trustme  # noqa: F401
    except ImportError:
        return "certificates take the package trustme: pip install 'slipstream[bench]'"
    return ""


def measure_connection(url: str, size: int, ca_bundle: str | None) -> dict[str, float]:
    """What one connection gets: medians over a few ranges of the size that loaders ask for.

    Raises:
        StorageUnavailableError: the server does not give what it was asked for.
    """
    parts = urlsplit(url)
    first_bytes, rates = [], []
    nbytes = min(_PROBE_BYTES, size)
    buffer = memoryview(bytearray(nbytes))
    with closing(_connect(url, ca_bundle)) as connection:
        for _ in range(_PROBES):
            start = time.perf_counter()
            connection.request("GET", parts.path, headers={"Range": f"bytes=0-{nbytes - 1}"})
            answer = connection.getresponse()
            begun = time.perf_counter()
            rest = buffer
            while rest and (count := answer.readinto(rest)):
                rest = rest[count:]
            answer.read()
            if rest or answer.status != http.client.PARTIAL_CONTENT:
                raise StorageUnavailableError(f"the emulated store answered {answer.status} with {nbytes - len(rest)} "
                                              f"of {nbytes} bytes")  # fmt: skip
            first_bytes.append(begun - start)
            rates.append(nbytes / (time.perf_counter() - begun))
    return {"first_byte_s": statistics.median(first_bytes), "connection_bytes_per_s": statistics.median(rates)}


class _CountingNginx:
    """nginx, which counts by its log of requests."""

    name = "nginx"

    def __init__(self, server: Nginx) -> None:
        self._server = server
        self._sent = self._read = 0
        self.storage_options: Mapping[str, str] = server.storage_options

    def url(self, path: str) -> str:
        return self._server.url(path)

    def sent_bytes(self) -> int:
        with self._server.access_log.open() as log:
            log.seek(self._read)
            while (line := log.readline()).endswith("\n"):
                self._sent += int(line.split()[_LOG_FIELD_BYTES])
                self._read = log.tell()
        return self._sent


class _CountingRangeServer:
    """The range server of the tests, which keeps every request."""

    name = "range server"

    def __init__(self, server: RangeServer, certificate: ServerCertificate | None) -> None:
        self._server = server
        self.storage_options: Mapping[str, str] = {
            "endpoint": server.url("").removesuffix("/"),
            "access_key_id": "any",
            "secret_access_key": "any",
            "region": "us-east-1",
            **({"ca_bundle": str(certificate.ca_bundle)} if certificate else {}),
        }

    def url(self, path: str) -> str:
        return self._server.url(path)

    def sent_bytes(self) -> int:
        return sum(request.body_bytes for request in self._server.requests)


@contextmanager
def _run_nginx(
    root: Path, scratch: Path, limits: StoreLimits, certificate: ServerCertificate | None
) -> Iterator[RangeServing]:
    rate = limits.connection_bytes_per_s
    with ExitStack() as stack:
        gate_port = None
        if limits.first_byte_s:
            gate = stack.enter_context(RangeServer(root))
            gate.put("go", b"")
            gate.set_faults(Faults(Delay(limits.first_byte_s)))
            gate_port = gate.port
        server = Nginx(
            root,
            tls=certificate,
            limit_rate=None if rate is None else str(rate),
            piece_bytes=None if rate is None else max(1, int(rate * _PIECE_S)),
            gate_port=gate_port,
            workers=max(2, (os.cpu_count() or 1) // 2),
            access_log=True,
            directory=scratch,
        )
        yield _CountingNginx(stack.enter_context(server))


@contextmanager
def _run_range_server(
    root: Path, scratch: Path, limits: StoreLimits, certificate: ServerCertificate | None
) -> Iterator[RangeServing]:
    faults: list[Fault] = [Delay(limits.first_byte_s)] if limits.first_byte_s else []
    if limits.connection_bytes_per_s is not None:
        faults.append(Rate(limits.connection_bytes_per_s))
    with RangeServer(root, tls=certificate) as server:
        server.set_faults(Faults(*faults))
        yield _CountingRangeServer(server, certificate)


def _make_certificate(folder: Path) -> ServerCertificate:
    if why := why_no_tls():
        raise StorageUnavailableError(why)
    folder.mkdir()
    return CertificateAuthority(folder).issue()


def _connect(url: str, ca_bundle: str | None) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=ca_bundle)
        return http.client.HTTPSConnection(parts.netloc, timeout=60, context=context)
    return http.client.HTTPConnection(parts.netloc, timeout=60)
