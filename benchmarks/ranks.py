"""How fast ranks share a load on one machine, and how fast Gloo passes bytes round there.

    python benchmarks/ranks.py store DIRECTORY --ranks 4 --rate 300 --rounds 3
    python benchmarks/ranks.py collectives --ranks 4

`store` serves a checkpoint at a fixed total rate, whoever asks, as a store does whose bandwidth is bought by the
gigabit; one rank alone, all together, and all of them each for itself load it in turns. `collectives` compares
broadcasts from changing owners with all-gathers of equal parts, by sizes and by how many are under way.
docs/distributed.md quotes both.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

_SLICE_BYTES = 256 << 10
_TOTAL_BYTES = 1 << 30  # that each collective measurement passes round
MIB = 1 << 20


class Allowance:
    """A number of bytes per second that all connections share, kept over a fiftieth of a second."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._lock = threading.Lock()
        self._free_at = 0.0
        self.sent = 0

    def wait(self, nbytes: int) -> None:
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - 0.02) + nbytes / self._bytes_per_s
            self.sent += nbytes
            pause_s = self._free_at - now
        if pause_s > 0:
            time.sleep(pause_s)


class Handler(http.server.BaseHTTPRequestHandler):
    """GET of ranges, by sendfile."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16

    def __init__(self, folder: Path, allowance: Allowance, *args: object) -> None:
        self.folder = folder
        self.allowance = allowance
        super().__init__(*args)  # type: ignore[arg-type]

    def log_message(self, *args: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        with open(self.folder / Path(self.path).name, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1, size)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
            self.send_header("Content-Length", str(end - start))
            self.send_header("ETag", f'"{size}"')
            self.end_headers()
            self.wfile.flush()
            with contextlib.suppress(ConnectionError):  # of the slower of two requests for one range
                while start < end:
                    length = min(_SLICE_BYTES, end - start)
                    self.allowance.wait(length)
                    start += os.sendfile(self.connection.fileno(), file.fileno(), start, length)


@contextmanager
def limited_store(folder: Path, bytes_per_s: float) -> Iterator[tuple[str, Allowance]]:
    """The folder's files behind HTTP at a total rate: the URL before a name, and what counts the bytes sent."""
    allowance = Allowance(bytes_per_s)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, folder, allowance))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", allowance
    finally:
        server.shutdown()
        server.server_close()


def measure_store(folder: Path, ranks: int, rate: float, rounds: int) -> None:
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    nbytes = sum((folder / name).stat().st_size for name in names)
    for name in names:
        (folder / name).read_bytes()  # from the page cache, so that the rate is the only limit
    ways = {
        "one rank": (1, "load"),
        f"{ranks} ranks together": (ranks, "load"),
        f"{ranks} ranks, each for itself": (ranks, "load-apart"),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    with limited_store(folder, rate) as (url, allowance):
        for _ in range(rounds):
            for way, (size, task) in ways.items():
                allowance.sent = 0
                figures = run_ranks(size, task, *(url + name for name in names))
                slowest = max(each["seconds"] for each in figures)
                cpu = sum(each["cpu_seconds"] for each in figures)
                times[way].append(slowest)
                print(
                    f"{way:>24}: {slowest:6.2f} s, {nbytes / slowest / 1e6:6.0f} MB/s to each, "
                    f"{allowance.sent / nbytes:.4f} of the checkpoint sent, {cpu:5.2f} CPU s",
                    flush=True,
                )
    alone, *others = (statistics.median(found) for found in times.values())
    print(f"{nbytes / 1e9:.2f} GB at {rate / 1e6:.0f} MB/s, medians: one rank {alone:.2f} s")
    for way, seconds in zip([*ways][1:], others, strict=True):
        print(f"{way:>24}: {seconds:.2f} s, {seconds / alone:.3f} x the time of one rank alone")


def run_ranks(size: int, *arguments: str) -> list[dict[str, float]]:
    """Runs this program in so many processes; what each of them prints."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "rank", str(rank), str(size), str(store.port), *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank in range(size)
    ]
    texts = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a rank failed")
    return [json.loads(text.splitlines()[-1]) for text in texts]


def be_rank(rank: int, size: int, port: int, task: str, arguments: Sequence[str]) -> None:
    torch.set_num_threads(1)
    import warnings

    warnings.simplefilter("ignore", FutureWarning)  # all_gather_into_tensor has a newer name in newer releases
    store = TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    dist.barrier()
    if task.startswith("load"):
        load(arguments, together=task == "load")
    else:
        kind, piece_bytes, under_way, threads = arguments
        pass_round(kind, int(piece_bytes), int(under_way), int(threads))
    dist.barrier()
    dist.destroy_process_group()


def load(uris: Sequence[str], *, together: bool) -> None:
    import slipstream

    with slipstream.stream(list(uris), distributed=together) as tensors:
        for _, tensor in tensors:
            del tensor
    stats = tensors.stats()
    print(json.dumps({"seconds": stats.seconds, "cpu_seconds": stats.cpu_seconds, "received": stats.received_bytes}))


def pass_round(kind: str, piece_bytes: int, under_way: int, threads: int) -> None:
    """Passes as many bytes round as a load of a gigabyte would, out of memory that was touched before."""
    rank, size = dist.get_rank(), dist.get_world_size()
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._threads = threads
    options._timeout = timedelta(seconds=60)
    options._devices = [dist.ProcessGroupGloo.create_device(interface="lo")]
    group = dist.new_group(backend="gloo", pg_options=options)
    buffers = [torch.ones(piece_bytes, dtype=torch.uint8) for _ in range(under_way)]
    part = piece_bytes // size
    dist.barrier()
    began, cpu = time.perf_counter(), time.process_time()
    works: list[dist.Work] = []
    for number in range(_TOTAL_BYTES // piece_bytes):
        buffer = buffers[number % under_way]
        if len(works) == under_way:
            works.pop(0).wait()
        if kind == "broadcast":
            work = dist.broadcast(buffer, number % size, group=group, async_op=True)
        else:
            own = buffer[rank * part : (rank + 1) * part]
            work = dist.all_gather_into_tensor(buffer, own, group=group, async_op=True)
        assert work is not None
        works.append(work)
    for work in works:
        work.wait()
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "cpu_seconds": time.process_time() - cpu}))


def measure_collectives(ranks: int) -> None:
    print(f"{_TOTAL_BYTES / 1e9:.2f} GB to {ranks} ranks: GB/s that each rank gets, CPU seconds per GB of all ranks")
    for kind in ("broadcast", "all_gather"):
        for piece_mib in (2, 16, 64):
            for under_way, threads in ((1, 2), (4, 2)):
                arguments = (kind, str(piece_mib * MIB), str(under_way), str(threads))
                rates, cpu = [], []
                for _ in range(3):
                    figures = run_ranks(ranks, "collective", *arguments)
                    rates.append(_TOTAL_BYTES / max(each["seconds"] for each in figures) / 1e9)
                    cpu.append(sum(each["cpu_seconds"] for each in figures) / _TOTAL_BYTES * 1e9)
                print(
                    f"{kind:>10}, pieces of {piece_mib:2} MiB, {under_way} under way, {threads} threads: "
                    f"{statistics.median(rates):5.2f} GB/s ({min(rates):.2f} to {max(rates):.2f}), "
                    f"{statistics.median(cpu):5.2f} CPU s/GB",
                    flush=True,
                )


def main() -> None:
    if sys.argv[1:2] == ["rank"]:
        rank, size, port = map(int, sys.argv[2:5])
        be_rank(rank, size, port, sys.argv[5], sys.argv[6:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["store", "collectives"])
    parser.add_argument("directory", type=Path, nargs="?")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--rate", type=float, default=300.0, help="MB/s in all")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.what == "collectives":
        measure_collectives(given.ranks)
    elif given.directory is None:
        parser.error("store takes a DIRECTORY with a checkpoint")
    else:
        measure_store(given.directory, given.ranks, given.rate * 1e6, given.rounds)


if __name__ == "__main__":
    main()
