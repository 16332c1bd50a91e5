"""The floor over HTTP: the fastest plain receivers that we can write, without a tensor or a retry in the way.

All ask for 8 MiB ranges. `discard` throws them away, so it never touches new memory; `receive` does what a loader
cannot avoid and receives each one into its place in huge-page memory, with one connection for each thread. What they
cannot beat is the network and, on loopback, the server's share of the processors.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import numpy as np

from ..job import Job, Tensors
from .files import PIECE_BYTES, huge_pages, run_pieces

_HEAD_BYTES = 16 << 10
_CONNECTIONS = 16
_TIMEOUT_S = 60


def discard(job: Job) -> Tensors:
    """Has `curl --parallel` fetch all ranges to /dev/null. Settings: `connections` in each of so many `processes`."""
    connections, processes = _connections(job), int(job.settings.get("processes", 1))
    ranges = [
        (url, start, min(start + PIECE_BYTES, size))
        for url, size in zip(job.urls, job.sizes, strict=True)
        for start in range(0, size, PIECE_BYTES)
    ]
    # Settings go by standard input, as URLs may be secrets. Most hold for one transfer only, so each says them again.
    trust = [f'cacert = "{_ca_bundle(job)}"'] if _ca_bundle(job) else []
    fetch = ["silent", "show-error", "fail", 'output = "/dev/null"', *trust]
    command = [shutil.which("curl") or "curl", "--disable", "--noproxy", "*", "--parallel"]
    command += ["--parallel-max", str(connections), "--config", "-"]
    shares = [share for number in range(processes) if (share := ranges[number::processes])]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) for _ in shares]
    for process, share in zip(running, shares, strict=True):
        texts = ("\n".join([*fetch, f'url = "{url}"', f'range = "{start}-{end - 1}"']) for url, start, end in share)
        assert process.stdin is not None
        process.stdin.write("\nnext\n".join(texts) + "\n")
        process.stdin.close()
    failed = [code for process in running if (code := process.wait())]
    if failed:
        raise RuntimeError(f"curl ended with exit code {failed[0]}")
    job.discarded_bytes = sum(end - start for _, start, end in ranges)
    yield from ()


def receive(job: Job) -> Tensors:
    """Receives whole files into memory. Setting: `connections`, each with a thread of its own."""
    job.whole_files = True
    memory = [memoryview(huge_pages(size))[:size] for size in job.sizes]
    connections = _Connections(job)

    def read(file: int, start: int, end: int) -> None:
        connections.mine(job.urls[file]).receive(job.urls[file], start, memory[file][start:end])

    try:
        run_pieces(job.sizes, _connections(job), read)
    finally:
        connections.close()
    yield from zip(job.urls, (np.frombuffer(view, np.uint8) for view in memory), strict=True)


def _connections(job: Job) -> int:
    return int(job.settings.get("connections", _CONNECTIONS))


def _ca_bundle(job: Job) -> str | None:
    return job.storage_options.get("ca_bundle") or os.environ.get("AWS_CA_BUNDLE")


class _Connections:
    """One connection to each server for each thread that asks."""

    def __init__(self, job: Job) -> None:
        self._ca_bundle = _ca_bundle(job)
        self._local = threading.local()
        self._all: list[_Connection] = []

    def mine(self, url: str) -> _Connection:
        """This thread's."""
        mine: dict[str, _Connection] = self._local.__dict__
        server = "{0.scheme}://{0.netloc}".format(urlsplit(url))
        if server not in mine:
            mine[server] = _Connection(server, self._ca_bundle)
            self._all.append(mine[server])
        return mine[server]

    def close(self) -> None:
        """Closes all."""
        for connection in self._all:
            connection.close()


class _Connection:
    """A connection that receives ranges, one after another."""

    def __init__(self, server: str, ca_bundle: str | None) -> None:
        parts = urlsplit(server)
        host, secure = parts.hostname or "", parts.scheme == "https"
        self._host = parts.netloc
        self._socket = socket.create_connection((host, parts.port or (443 if secure else 80)), timeout=_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if secure:
            self._socket = ssl.create_default_context(cafile=ca_bundle).wrap_socket(self._socket, server_hostname=host)
        self._socket.settimeout(None)  # so that one call can wait for all of a range

    def receive(self, url: str, start: int, target: memoryview) -> None:
        """Fills the target with a file's bytes from `start` on."""
        parts = urlsplit(url)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
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
