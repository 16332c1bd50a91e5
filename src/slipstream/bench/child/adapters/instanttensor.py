"""InstantTensor, which loads to CUDA only."""

from __future__ import annotations

from ..job import Job, Tensors


def load(job: Job) -> Tensors:
    """Hands out copies of its ring buffer's tensors, its default.

    Settings: `buffer_size`, `chunk_size`, `concurrency`, `io_depth`, and `backend` by its name there.
    """
    import instanttensor

    job.refuse_names()
    settings = dict(job.settings)
    if "backend" in settings:
        settings["backend"] = instanttensor.Backend[settings["backend"]]
    with instanttensor.safe_open(job.uris, framework="pt", device=job.destination, **settings) as file:
        yield from file.tensors()
