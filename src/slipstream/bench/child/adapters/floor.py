"""The floor: what a plain reader gets out of the storage, by one of several ways."""

from __future__ import annotations

from ..job import Job, Tensors
from . import files, ranges

_WAYS = {
    "direct": files.read_direct,
    "populate": files.read_populated,
    "receive": ranges.receive,
    "discard": ranges.discard,
}


def load(job: Job) -> Tensors:
    """Reads whole files. Setting: `method`; without it the one that is mostly the fastest, O_DIRECT or `receive`."""
    job.refuse_names()
    return _WAYS[job.settings.get("method", "receive" if job.urls else "direct")](job)
