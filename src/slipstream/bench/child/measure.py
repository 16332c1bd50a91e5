"""The timed region: loads once, and says what that took."""

from __future__ import annotations

import gc
import os
import resource
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from . import tensors
from .job import Job, Tensors


class Measured(NamedTuple):
    """What one load did.

    Attributes:
        figures: as in `records.Figures`, those that this process can know.
        kept: what was handed out, by name; empty tensors stand for it where it was not kept.
        notes: what else was measured.
    """

    figures: dict[str, Any]
    kept: list[tuple[str, Any]]
    notes: dict[str, Any]


def measure(load: Callable[[Job], Tensors], job: Job) -> Measured:
    """Loads once and measures it. The process should have done nothing but imports before."""
    kept: list[tuple[str, Any]] = []
    first_tensor_at: float | None = None
    count = nbytes = 0
    gc.collect()
    memory_before = _memory("VmRSS") if _reset_peak_memory() else None
    read_before = _read_bytes()
    cpu_before = _cpu_seconds()
    start = time.perf_counter()
    for name, tensor in load(job):
        if first_tensor_at is None:
            first_tensor_at = time.perf_counter()
        if job.touch_in_time:
            tensors.touch(tensor)
        count += 1
        nbytes += tensor.nbytes
        kept.append((name, tensor if job.keep else Remembered(tensor)))
        del tensor
    if job.on_cuda:
        _synchronize()
    end = time.perf_counter()
    cpu_after = _cpu_seconds()
    read_after = _read_bytes()
    peak = None if memory_before is None else _memory("VmHWM") - memory_before
    notes: dict[str, Any] = {}
    if not job.touch_in_time:
        for _, tensor in kept if job.keep else ():
            tensors.touch(tensor)
        notes["touch_s"] = time.perf_counter() - end
    if read_before is not None and read_after is not None:
        notes["process_read_bytes"] = read_after - read_before
    figures = {
        "seconds": end - start,
        "first_tensor_s": None if first_tensor_at is None else first_tensor_at - start,
        "cpu_s": cpu_after - cpu_before,
        "peak_memory_bytes": peak,
        "nbytes": nbytes + job.discarded_bytes,
        "tensors": count,
    }
    return Measured(figures, kept, {**notes, **job.notes})


class Remembered:
    """What is left of a tensor that was dropped: all but its bytes."""

    def __init__(self, tensor: Any) -> None:
        self.dtype = tensors.dtype_name(tensor)
        self.shape = tensors.shape_of(tensor)


def warm_up(destination: str) -> None:
    """Makes the GPU's context, which takes a second and is no part of a load."""
    import torch

    torch.zeros(1, device=destination)
    torch.cuda.synchronize(destination)


def _synchronize() -> None:
    import torch

    torch.cuda.synchronize()


def _cpu_seconds() -> float:
    """Of this process, all its threads, and the programs that it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _reset_peak_memory() -> bool:
    """Sets VmHWM to VmRSS (proc(5): clear_refs); False where that is not allowed."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return False
    return True


def _memory(key: str) -> int:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(key + ":"):
                return int(line.split()[1]) << 10
    raise KeyError(key)


def _read_bytes() -> int | None:
    """What this process has had read from block devices (proc(5): io); None where it may not be known."""
    try:
        with open(f"/proc/{os.getpid()}/io") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("read_bytes:"))
    except (OSError, StopIteration):
        return None
