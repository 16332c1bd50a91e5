"""A checkpoint behind a server of ranges that fails on command, and whole loads of it."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pytest

import slipstream
from slipstream import LoadStats, Options
from slipstream.errors import SlipstreamError
from slipstream.testing.checkpoints import write_safetensors
from slipstream.testing.range_server import RangeServer, SeenRequest
from tests.endings.sample import as_bytes

CHUNK_BYTES = 64 << 10
FIRST_LOOK_BYTES = 96 << 10
SIZES = (700_001, 40_000, 3, 0, 524_288, 1, 300_000, 131_072, 77_777, 600_000)
NAME = "model.safetensors"

# Short, so that what stalls is given up soon; long enough for a busy computer.
QUICK = Options(
    concurrency=4,
    chunk_bytes=CHUNK_BYTES,
    connect_timeout_s=2.0,
    first_byte_timeout_s=0.4,
    stall_timeout_s=0.4,
    attempts=4,
    hedge=False,
)


def quick(**changes: Any) -> Options:
    """QUICK, but for these."""
    return dataclasses.replace(QUICK, **changes)


PATIENT = quick(connect_timeout_s=30.0, first_byte_timeout_s=30.0, stall_timeout_s=30.0)
"""What stalls is waited for: nothing but what a test does ends it."""


def write_model(path: Path, sizes: Sequence[int] = SIZES, seed: int = 0, prefix: str = "") -> dict[str, bytes]:
    """Writes a checkpoint of vectors of these sizes; returns each tensor's bytes."""
    draw = random.Random(seed)
    tensors = {f"{prefix}{number:02}": draw.randbytes(size) for number, size in enumerate(sizes)}
    write_safetensors(path, {name: ("U8", (len(data),), data) for name, data in tensors.items()})
    return tensors


class Loaded(NamedTuple):
    """What a load brought."""

    tensors: dict[str, bytes]
    stats: LoadStats


@dataclasses.dataclass(frozen=True)
class Served:
    """A server, the checkpoint `model.safetensors` on it, and what its clients need to be told.

    Attributes:
        tensors: what a load of it must bring.
        root: the folder that is served.
    """

    server: RangeServer
    tensors: Mapping[str, bytes]
    root: Path
    storage_options: Mapping[str, object]

    @property
    def url(self) -> str:
        return self.server.url(NAME)

    @property
    def size(self) -> int:
        return (self.root / NAME).stat().st_size

    def load(self, options: Options = QUICK, url: str | None = None, **storage: object) -> Loaded:
        """Loads all of it."""
        return load(url or self.url, options, {**self.storage_options, **storage})

    def load_whole(self, options: Options = QUICK, url: str | None = None, **storage: object) -> LoadStats:
        """Loads all of it, and checks every byte."""
        loaded = self.load(options, url, **storage)
        assert loaded.tensors == self.tensors
        return loaded.stats

    def fail(self, options: Options = QUICK, url: str | None = None, **storage: object) -> SlipstreamError:
        """Loads until it fails; returns the error."""
        return fail(url or self.url, options, {**self.storage_options, **storage})

    def stream(self, options: Options = QUICK, **storage: object) -> slipstream.TensorStream:
        """Begins to load it."""
        given = {**self.storage_options, **storage}
        return slipstream.stream(self.url, framework="numpy", options=options, storage_options=given)


def load(uri: str | Sequence[str], options: Options = QUICK, storage: Mapping[str, object] | None = None) -> Loaded:
    """Loads a checkpoint."""
    with slipstream.stream(uri, framework="numpy", options=options, storage_options=storage) as stream:
        tensors = as_bytes(stream)
        return Loaded(tensors, stream.stats())


def fail(
    uri: str | Sequence[str], options: Options = QUICK, storage: Mapping[str, object] | None = None
) -> SlipstreamError:
    """Loads until it fails; returns the error."""
    try:
        load(uri, options, storage)
    except SlipstreamError as error:
        return error.with_traceback(None)  # whose frames would keep the load alive
    pytest.fail("it did not fail")


def sent_bytes(requests: Sequence[SeenRequest]) -> int:
    """Bytes of bodies that the server has sent for ranges."""
    return sum(request.body_bytes for request in requests if request.status == 206)


class RawServer:
    """Listens on 127.0.0.1, and does with each connection what a function says, in a thread of its own.

    Attributes:
        port: where it listens.
    """

    def __init__(self, serve: Callable[[socket.socket], object] | None = None, *, backlog: int = 64) -> None:
        """
        Args:
            serve: None accepts nothing: connections wait in the backlog, where TCP calls them made.
            backlog: how many may.
        """
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self.port: int = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        if serve is not None:
            self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for end in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in (self._listener, *self._connections):
            end.close()

    def _start(self, target: Callable[..., object], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            self._start(self._serve_one, connection)

    def _serve_one(self, connection: socket.socket) -> None:
        assert self._serve is not None
        with contextlib.suppress(OSError):  # the client may go
            self._serve(connection)
            connection.shutdown(socket.SHUT_RDWR)


def read_head(connection: socket.socket) -> bytes:
    """A request's head; empty where the client went."""
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connection.recv(1 << 16)
        if not piece:
            return b""
        head += piece
    return head
