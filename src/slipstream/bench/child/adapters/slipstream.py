"""slipstream, by its public API: whole loads, loads while the interpreter's lock is watched, and headers alone."""

from __future__ import annotations

from ..job import Job, Tensors
from ..lock_probe import LockProbe

_HERE = ("framework",)  # settings that are no options of slipstream


def load(job: Job) -> Tensors:
    """Streams, in completion order. Where every tensor is kept, memory is made ready as `slipstream.load` does it."""
    import slipstream

    given = {name: value for name, value in job.settings.items() if name not in _HERE}
    options = slipstream.Options(**{"populate": job.keep, **given})
    stream = slipstream.stream(
        job.uris,
        device=job.destination,
        framework=job.framework,  # type: ignore[arg-type]  # one of those there are: the parent has looked
        names=job.names,
        options=options,
        storage_options=job.storage_options or None,
    )
    with stream as tensors:
        yield from tensors
        stats = tensors.stats()
    job.notes["strategies"] = sorted({f"{file.strategy}: {file.reason}" for file in stats.files})
    job.notes["fallbacks"] = list(stats.fallbacks)
    job.notes["reads"] = stats.reads
    job.notes["peak_buffer_bytes"] = stats.peak_buffer_bytes
    if stats.ring_bytes:
        for name in ("ring_bytes", "copies", "warm_up_seconds", "ring_seconds", "ring_wait_seconds"):
            job.notes[name] = getattr(stats, name)
    if any("://" in uri for uri in job.uris):
        for name in ("requests", "retries", "hedged", "connections", "peak_concurrency", "discarded_bytes"):
            job.notes[name] = getattr(stats, name)


def load_watched(job: Job) -> Tensors:
    """Streams, while another process watches who holds the interpreter's lock."""
    with LockProbe() as probe:
        yield from load(job)
    job.notes.update(lock_held_s=probe.held_seconds, lock_watched_s=probe.seconds, lock_readings=probe.readings)


def describe(job: Job) -> Tensors:
    """Reads headers only. What it hands out has a name, dtype, shape and size, and no bytes."""
    import slipstream

    checkpoint = slipstream.inspect(job.uris, storage_options=job.storage_options or None)
    job.notes["shards"] = len(checkpoint.blobs)
    yield from ((tensor.name, tensor) for tensor in checkpoint.tensors)
