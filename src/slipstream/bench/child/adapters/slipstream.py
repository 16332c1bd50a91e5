"""slipstream, by its public API."""

from __future__ import annotations

from ..job import Job, Tensors

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
    if any("://" in uri for uri in job.uris):
        for name in ("requests", "retries", "hedged", "connections", "peak_concurrency", "discarded_bytes"):
            job.notes[name] = getattr(stats, name)
