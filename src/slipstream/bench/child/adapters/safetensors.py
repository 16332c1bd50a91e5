"""safetensors, the reference loader, in its three ways: one tensor after the other, all at once, and prefetched."""

from __future__ import annotations

from typing import Any

from ..job import Job, Tensors


def load(job: Job) -> Tensors:
    """Takes every tensor in the order in which the file has them.

    Settings: `backend`, "mmap" or "pread"; `method`, "get_tensor", "get_tensors" (a file in one call) or "prefetch"
    (0.9, to CUDA, with so many `threads`).
    """
    from safetensors import safe_open

    method = job.settings.get("method", "get_tensor")
    framework = "pt" if job.framework == "torch" else "np"
    for path in job.uris:
        with safe_open(path, framework=framework, device=job.destination, **_backend(job)) as file:
            if method == "get_tensors":
                yield from ((name, tensor) for name, tensor in file.get_tensors().items() if job.wants(name))
            elif method == "prefetch":
                yield from _prefetch(file, job)
            else:
                for name in file.offset_keys():
                    if job.wants(name):
                        yield name, file.get_tensor(name)


def _backend(job: Job) -> Any:
    """Said only where it was set: releases before 0.8 have no such argument."""
    return {"backend": job.settings["backend"]} if "backend" in job.settings else {}


def _prefetch(file: Any, job: Job) -> Tensors:
    threads = {"threads": job.settings["threads"]} if "threads" in job.settings else {}
    plan = None if job.names is None else {name: None for name in file.offset_keys() if job.wants(name)}
    with file.prefetch(plan, **threads) as loader:
        yield from loader
