"""Who is measured over HTTP: slipstream, Run:ai's S3 client, and the plain receivers that are the floor.

See contenders.py. The jobs have URIs; Run:ai finds the server in its environment (remote_servers.py sets it).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from contenders import THROWN_AWAY, Contender, Job, Tensors, load_slipstream, runai_contender, slipstream_contender
from http_floors import discard_by_curl, receive
from lock_probe import LockProbe

FIXED = (4, 8, 16, 32, 64)


def inspect_slipstream(job: Job) -> Tensors:
    """Reads headers only."""
    import slipstream

    checkpoint = slipstream.inspect([*job.uris], storage_options=job.storage_options)
    job.notes["described"] = len(checkpoint.blobs), len(checkpoint.tensors)
    yield from ()


def watch_slipstream(job: Job) -> Tensors:
    """Streams, while another process watches the interpreter lock."""
    with LockProbe() as probe:
        kept = [tensor for _, tensor in load_slipstream(job)]  # dropping them is the caller's business
    job.notes.update(held_seconds=probe.held_seconds, watched_seconds=probe.seconds, readings=probe.readings)
    job.notes[THROWN_AWAY] = sum(tensor.nbytes for tensor in kept)
    yield from ()


def _fixed(connections: int) -> Contender:
    return slipstream_contender(f"slipstream, {connections} at once", concurrency=connections)


def _runai_s3(name: str, **environment: str) -> Contender:
    contender = runai_contender(name, **environment)
    return Contender(name, "peer", contender.load, (*contender.modules, "runai_model_streamer_s3"),
                     "runai-model-streamer-s3", environment)  # fmt: skip


def _floor(name: str, load: Callable[[Job], Tensors], *, discards: bool = False) -> Contender:
    return Contender(name, "floor", load, ("numpy",), discards=discards)


def _ours(name: str, load: Callable[[Job], Tensors]) -> Contender:
    return Contender(name, "slipstream", load, ("slipstream", "torch"), "slipstream")


OURS = slipstream_contender("slipstream")
OURS_FIXED = {connections: _fixed(connections) for connections in FIXED}
RUNAI_S3 = _runai_s3("Run:ai S3")
RUNAI_S3_FIXED = {
    connections: _runai_s3(f"Run:ai S3, concurrency {connections}", RUNAI_STREAMER_CONCURRENCY=str(connections))
    for connections in (8, 16, 32)
}
INSPECT = _ours("slipstream.inspect", inspect_slipstream)
WATCHED = _ours("slipstream, watched", watch_slipstream)
CURL = {
    parallel: _floor(
        f"curl to /dev/null, {parallel} at once", partial(discard_by_curl, parallel=parallel), discards=True
    )
    for parallel in (8, 16, 32, 64)
}
CURL_PROCESSES = _floor(
    "curl to /dev/null, 2 processes of 8", partial(discard_by_curl, parallel=8, processes=2), discards=True
)
RECEIVE = {
    threads: _floor(f"plain receiver into memory, {threads} threads", partial(receive, threads=threads))
    for threads in (8, 16, 32, 64)
}
EVERYONE = {
    contender.name: contender
    for contender in (
        OURS,
        *OURS_FIXED.values(),
        RUNAI_S3,
        *RUNAI_S3_FIXED.values(),
        INSPECT,
        WATCHED,
        *CURL.values(),
        CURL_PROCESSES,
        *RECEIVE.values(),
    )
}
