"""The floor over HTTP: the fastest plain receivers that we can write, without a header, a tensor or a retry in the way.

All ask for 8 MiB ranges. `curl` throws them away, so it never touches new memory; `receive` does what a loader cannot
avoid and receives each one into its place in huge-page memory, with one connection for each thread. What they cannot
beat is the network and, on loopback, the server's share of the processors.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import numpy as np

from contenders import THROWN_AWAY, Job, Tensors
from raw_readers import PIECE_BYTES, huge_pages, run_pieces

_HEAD_BYTES = 16 << 10


def discard_by_curl(job: Job, parallel: int, processes: int = 1) -> Tensors:
    """Has `curl --parallel` fetch all ranges to /dev/null, so many at once in each process."""
    ranges = [
        (uri, start, min(start + PIECE_BYTES, size))
        for uri, size in zip(job.uris, _sizes(job), strict=True)
        for start in range(0, size, PIECE_BYTES)
    ]
    # Settings go by standard input. Most hold for one transfer only, so each range says them again.
    trust = [f'cacert = "{job.storage_options["ca_bundle"]}"'] if "ca_bundle" in job.storage_options else []
    fetch = ["silent", "show-error", "fail", 'output = "/dev/null"', *trust]
    command = ["curl", "--disable", "--noproxy", "*", "--parallel", "--parallel-max", str(parallel), "--config", "-"]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) for _ in range(processes)
    ]
    for number, process in enumerate(running):
        share = ranges[number::processes]
        texts = ("\n".join([*fetch, f'url = "{uri}"', f'range = "{start}-{end - 1}"']) for uri, start, end in share)
        assert process.stdin is not None
        process.stdin.write("\nnext\n".join(texts) + "\n")
        process.stdin.close()
    failed = [code for process in running if (code := process.wait())]
    if failed:
        raise RuntimeError(f"curl ended with {failed[0]}")
    job.notes[THROWN_AWAY] = sum(end - start for _, start, end in ranges)
    yield from ()


def receive(job: Job, threads: int) -> Tensors:
    """Receives whole files into memory, one connection for each thread."""
    sizes = _sizes(job)
    memory = [memoryview(huge_pages(size)) for size in sizes]
    connections = _Connections(job)

    def read(file: int, start: int, end: int) -> None:
        connections.mine().receive(urlsplit(job.uris[file]).path, start, memory[file][start:end])

    with closing(connections):
        run_pieces(sizes, threads, read)
    yield from zip((path.name for path in job.files), (np.frombuffer(view, np.uint8) for view in memory), strict=True)


class _Connections:
    """One connection for each thread that asks."""

    def __init__(self, job: Job) -> None:
        self._url = urlsplit(job.uris[0])
        self._ca_bundle = job.storage_options.get("ca_bundle")
        self._local = threading.local()
        self._all: list[_Connection] = []

    def mine(self) -> _Connection:
        """This thread's."""
        if not hasattr(self._local, "connection"):
            self._local.connection = _Connection(self._url.hostname or "", self._url.port or 0, self._ca_bundle)
            self._all.append(self._local.connection)
        found: _Connection = self._local.connection
        return found

    def close(self) -> None:
        """Closes all."""
        for connection in self._all:
            connection.close()


class _Connection:
    def __init__(self, host: str, port: int, ca_bundle: str | None) -> None:
        self._host = f"{host}:{port}"
        self._socket = socket.create_connection((host, port))
        if ca_bundle is not None:
            self._socket = ssl.create_default_context(cafile=ca_bundle).wrap_socket(self._socket, server_hostname=host)
        self._socket.settimeout(None)  # so that one call can wait for all of a range

    def receive(self, path: str, start: int, target: memoryview) -> None:
        """Fills the target with a file's bytes from `start` on."""
        wanted = f"Range: bytes={start}-{start + len(target) - 1}"
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\n{wanted}\r\n\r\n".encode())
        head = bytearray()
        while (end := head.find(b"\r\n\r\n")) < 0:
            more = self._socket.recv(_HEAD_BYTES)
            if not more:
                raise OSError("the server closed the connection")
            head += more
        if not head.startswith(b"HTTP/1.1 206 "):
            raise OSError(f"the server answered {bytes(head[:40])!r}")
        begun = head[end + 4 :]
        target[: len(begun)] = begun
        for count in self._counts(target[len(begun) :]):
            if not count:
                raise OSError("the server closed the connection in the middle of a range")

    def _counts(self, rest: memoryview) -> Iterator[int]:
        while rest:
            if isinstance(self._socket, ssl.SSLSocket):
                count = self._socket.recv_into(rest)
            else:
                count = self._socket.recv_into(rest, len(rest), socket.MSG_WAITALL)
            yield count
            rest = rest[count:]

    def close(self) -> None:
        """Closes it."""
        self._socket.close()


def _sizes(job: Job) -> list[int]:
    return [os.path.getsize(path) for path in job.files]
