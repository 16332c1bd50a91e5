"""One timed sample, in a process of its own.

    the benchmark                    this process
    ---------------------------------------------------------------
    starts it                   ->   imports the contender's modules
                                <-   {"ready": true}
    settles memory, makes the
    files cold or warm, checks  ->   "go": loads, touches every page
    writes the sample           <-   {"seconds": ..., ...}

So neither imports nor the cold pages of a library's own code are timed, and nothing happens between the check
of the page cache and the load. As a program: `python sample.py SPEC`, with SPEC as `take_sample` writes it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import contenders
import remote_contenders
from contenders import THROWN_AWAY, Contender, Job

EVERYONE: Mapping[str, Contender] = contenders.EVERYONE | remote_contenders.EVERYONE
_SAMPLE_TIMEOUT_S = 600.0
_PAGE_BYTES = 4096
_SETTINGS = ("AWS_", "RUNAI_STREAMER_", "SLIPSTREAM_")  # variables that a sample does not inherit


@dataclass(frozen=True)
class Spec:
    """What one sample does.

    Attributes:
        contender: a name in `EVERYONE`.
        model: what it loads.
        names: a glob that selects tensors, or None for all.
        keep: whether every tensor is held until the end, or dropped before the next one is taken.
        touch: when the pages are touched: as each tensor comes, inside the timed region; or after it, where so
            many small tensors come that touching would be most of what is timed. Then it is timed apart.
        uris: where a server has the model's files, and `model` is what it serves; none where files are read.
        storage_options: how the server is reached.
        environment: variables set for this sample's process, besides the contender's own.
        verify: whether every tensor is compared with the files of `model` afterwards, byte by byte. Needs `keep`.
    """

    contender: str
    model: str
    names: str | None = None
    keep: bool = True
    touch: str = "timed"
    uris: tuple[str, ...] = ()
    storage_options: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    verify: bool = False


@dataclass(frozen=True)
class Sample:
    """What one sample measured.

    Attributes:
        seconds: from the call that opens the files until the last tensor is there and the contender is closed.
        first_tensor_seconds: until the first tensor came.
        touch_seconds: for the touching after the timed region; 0 where it was inside.
        bytes: of all tensors handed out.
        tensors: how many.
        cpu_seconds: user and system time of the process in the timed region, all threads, and of programs it ran.
        peak_bytes: most resident memory in the timed region above that before it; mapped files count.
        notes: what the contender says of itself.
    """

    seconds: float
    first_tensor_seconds: float
    touch_seconds: float
    bytes: int
    tensors: int
    cpu_seconds: float
    peak_bytes: int
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def gigabytes_per_second(self) -> float:
        """10^9 bytes per second."""
        return self.bytes / self.seconds / 1e9

    @property
    def cpu_seconds_per_gigabyte(self) -> float:
        """CPU time for 10^9 bytes; 0 where there were none."""
        return self.cpu_seconds / (self.bytes / 1e9) if self.bytes else 0.0


def take_sample(spec: Spec, prepare: Callable[[], None]) -> Sample:
    """Takes one sample in a fresh process; `prepare` is called when that is ready to start.

    Raises:
        RuntimeError: the contender failed or took longer than ten minutes; with what it wrote to stderr.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_SETTINGS)}
    environment |= {**spec.environment, **EVERYONE[spec.contender].environment}
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(asdict(spec))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=environment,
            text=True,
        )
        with process:
            deadline = threading.Timer(_SAMPLE_TIMEOUT_S, process.kill)
            deadline.start()
            try:
                assert process.stdout is not None
                ready = process.stdout.readline()
                if ready:
                    prepare()
                answer = process.communicate("go\n")[0] if ready else ""
            except BaseException:
                process.kill()
                raise
            finally:
                deadline.cancel()
        complaints.seek(0)
        if process.returncode or not answer:
            raise RuntimeError(f"{spec.contender} ended with {process.returncode}\n{complaints.read()[-4000:]}")
    return Sample(**json.loads(answer))


def touch(tensor: Any) -> int:
    """Reads one byte of every page of a torch tensor or a numpy array, so that each must be in memory."""
    data = as_bytes(tensor)
    return int(data[::_PAGE_BYTES].sum()) + int(data[-1]) if data.size else 0


def as_bytes(tensor: Any) -> Any:
    """The bytes of a torch tensor or a numpy array, in order, as an array; a signed one where it was one of bytes."""
    if hasattr(tensor, "untyped_storage"):
        import torch

        return tensor.detach().reshape(-1).view(torch.uint8).numpy()
    return tensor if tensor.dtype.itemsize == 1 else tensor.reshape(-1).view("u1")


def measure(contender: Contender, job: Job, *, keep: bool, touch_in_time: bool, verify: bool = False) -> Sample:
    """Loads once and measures it. The process should have done nothing but imports before.

    Raises:
        RuntimeError: `verify`, and a tensor has other bytes than the file.
    """
    kept: list[Any] = []
    names: list[str] = []
    first_tensor_at: float | None = None
    count = nbytes = 0
    gc.collect()
    _reset_peak_memory()
    memory_before = _memory("VmRSS")
    cpu_before = _cpu_seconds()
    start = time.perf_counter()
    for name, tensor in contender.load(job):
        if first_tensor_at is None:
            first_tensor_at = time.perf_counter()
        if touch_in_time:
            touch(tensor)
        if keep:
            kept.append(tensor)
            names.append(name)
        else:
            count += 1
            nbytes += tensor.nbytes
        del tensor
    end = time.perf_counter()
    cpu_after = _cpu_seconds()
    peak = _memory("VmHWM")
    if not touch_in_time:
        for tensor in kept:
            touch(tensor)
    touched = time.perf_counter()
    nbytes += job.notes.pop(THROWN_AWAY, 0)
    if verify:
        compare_with_files(dict(zip(names, kept, strict=True)), job)
        job.notes["verified"] = True
    return Sample(
        seconds=end - start,
        first_tensor_seconds=(first_tensor_at or end) - start,
        touch_seconds=0.0 if touch_in_time else touched - end,
        bytes=nbytes + sum(tensor.nbytes for tensor in kept),
        tensors=count + len(kept),
        cpu_seconds=cpu_after - cpu_before,
        peak_bytes=peak - memory_before,
        notes=job.notes,
    )


def compare_with_files(tensors: Mapping[str, Any], job: Job) -> None:
    """Compares what a loader handed out with the model's files, which are read as the format says and by no loader.

    Raises:
        RuntimeError: a tensor is missing, or differs.
    """
    import numpy as np

    for path in job.files:
        stored = np.memmap(path, np.uint8, "r")
        header_end = 8 + int.from_bytes(stored[:8].tobytes(), "little")
        header = json.loads(stored[8:header_end].tobytes())
        for name in header.keys() - {"__metadata__"}:
            if name not in tensors:
                raise RuntimeError(f"{name} is missing")
            start, end = header[name]["data_offsets"]
            if not np.array_equal(as_bytes(tensors[name]), stored[header_end + start : header_end + end]):
                raise RuntimeError(f"{name} differs from {path.name}")


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _reset_peak_memory() -> None:
    """Sets VmHWM to VmRSS (proc(5): clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def _memory(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) << 10
    raise KeyError(key)


def _main() -> None:
    # What a library prints goes to stderr; stdout is for the two lines of the protocol alone.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    spec = Spec(**json.loads(sys.argv[1]))
    contender = EVERYONE[spec.contender]
    for module in (*contender.modules, "numpy"):
        importlib.import_module(module)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    if not sys.stdin.readline():
        return
    job = Job(Path(spec.model), spec.names, tuple(spec.uris), spec.storage_options)
    sample = measure(contender, job, keep=spec.keep, touch_in_time=spec.touch == "timed", verify=spec.verify)
    print(json.dumps(asdict(sample)), file=answers, flush=True)


if __name__ == "__main__":
    _main()
