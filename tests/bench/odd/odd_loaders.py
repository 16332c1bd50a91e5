"""Adapters that do what contenders must not, and one that does what they must; for the tests of samples.

They run in a sample's own process, which finds them on its PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Tensors = Iterator[tuple[str, Any]]
_DTYPES: dict[str, Any] = {"F32": np.dtype("<f4"), "U8": np.dtype("u1")}


def mapped(job: Any) -> Tensors:
    """The model, mapped: nothing of it is read before it is touched."""
    for path in job.uris:
        stored = np.memmap(path, np.uint8, "r")
        header_end = 8 + int.from_bytes(stored[:8].tobytes(), "little")
        for name, facts in json.loads(stored[8:header_end].tobytes()).items():
            start, end = facts["data_offsets"]
            data = stored[header_end + start : header_end + end]
            yield name, np.frombuffer(data, np.uint8).view(_DTYPES[facts["dtype"]]).reshape(facts["shape"])


def copied(job: Any) -> Tensors:
    """The model, each tensor in memory of its own."""
    for name, tensor in mapped(job):
        yield name, tensor.copy()


def other_byte(job: Any) -> Tensors:
    """One bit of the last tensor is another one."""
    tensors = dict(copied(job))
    tensors[list(tensors)[-1]].reshape(-1).view(np.uint8)[-1] ^= 1
    yield from tensors.items()


def recycled(job: Any) -> Tensors:
    """Every tensor is right when it is handed out, and overwritten by the next one."""
    tensors = dict(mapped(job))
    buffer = np.empty(max(tensor.nbytes for tensor in tensors.values()), np.uint8)
    for name, tensor in tensors.items():
        view = buffer[: tensor.nbytes].view(tensor.dtype).reshape(tensor.shape)
        view[...] = tensor
        yield name, view


def missing(job: Any) -> Tensors:
    """One tensor does not come."""
    yield from list(copied(job))[1:]


def twice(job: Any) -> Tensors:
    """One tensor comes twice."""
    tensors = list(copied(job))
    yield from (*tensors, tensors[0])


def extra(job: Any) -> Tensors:
    """One tensor comes that the model does not have."""
    yield from copied(job)
    yield "ghost", np.zeros(1, np.float32)


def other_dtype(job: Any) -> Tensors:
    """The right bytes, as another type."""
    for name, tensor in copied(job):
        yield name, tensor.view(np.int32) if tensor.dtype == np.float32 else tensor


def other_shape(job: Any) -> Tensors:
    """The right bytes, in another shape."""
    for name, tensor in copied(job):
        yield name, tensor.reshape(-1)


def selected(job: Any) -> Tensors:
    """Those tensors that were asked for."""
    yield from ((name, tensor) for name, tensor in copied(job) if job.wants(name))


def discarding(job: Any) -> Tensors:
    """Reads everything, or `short` bytes less, and hands out nothing."""
    job.discarded_bytes = sum(len(Path(path).read_bytes()) for path in job.uris) - job.settings.get("short", 0)
    yield from ()


def noisy(job: Any) -> Tensors:
    """Prints as it goes, in Python and below it."""
    print("a line on stdout", flush=True)
    os.write(1, b'{"said": "measured"}\n')
    subprocess.run([sys.executable, "-c", "print('from below')"], check=True)
    job.notes["url"] = "https://user:password@host/key?X-Amz-Signature=abcdef"
    yield from copied(job)


def failing(job: Any) -> Tensors:
    """Raises, with a secret and a signed URL in its message."""
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    raise ValueError(
        f"no {secret}\nat https://host/key?X-Amz-Credential={secret}&X-Amz-Signature=abcdef of https://host"
    )
    yield "never", None


def exiting(job: Any) -> Tensors:
    """Ends the process, with a secret in its last words."""
    sys.stderr.write("y" * 5000 + f"last words {os.environ['AWS_SECRET_ACCESS_KEY']}\n")
    sys.stderr.flush()
    os._exit(3)
    yield "never", None


def killed(job: Any) -> Tensors:
    """Is killed, as the kernel does for want of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    yield "never", None


def hanging(job: Any) -> Tensors:
    """Starts a program and waits for ever; writes both ids to the file `ids`."""
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(10000)"])
    ids = Path(job.settings["ids"])
    ids.with_suffix(".unfinished").write_text(f"{os.getpid()} {program.pid}")
    ids.with_suffix(".unfinished").rename(ids)
    time.sleep(10_000)
    yield "never", None
