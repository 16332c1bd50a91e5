"""One timed sample; the child's side of `bench.sampling`, which has the protocol. One JSON object a line:

    parent    the job
    child     {"said": "ready", "versions": {...}}
    parent    "go"
    child     {"said": "measured", "figures": {...}, "notes": {...}, ...}
    parent    "verify"
    child     {"said": "verified", "checksum": ..., "differences": [...], ...}

In the place of any answer: {"said": "failed", "reason": ...}. The process ends when its standard input does.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import IO, Any

from . import reference
from .job import Job, Tensors
from .lifetime import end_with_parent
from .measure import Measured, Remembered, measure, warm_up

_READ_BYTES = 8 << 20


def main() -> None:
    """Takes one sample."""
    end_with_parent(None)  # before anything else
    # What a library prints goes to stderr; stdout is for the protocol alone.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        _take(answers)
    except Exception as error:
        traceback.print_exc()
        _say(answers, "failed", reason=_describe(error))
    sys.stderr.flush()
    # Not `sys.exit`: libraries may hang when they are torn down, and what counts has been said.
    os._exit(0)


def _take(answers: IO[str]) -> None:
    said = sys.stdin.readline()
    if not said:
        return
    job = Job(**json.loads(said))
    end_with_parent(job.parent)
    for module in (*job.modules, "numpy"):
        importlib.import_module(module)
    load = find_adapter(job.adapter)
    if job.on_cuda:
        warm_up(job.destination)
    _say(answers, "ready", versions=find_versions(job.distributions, job.modules))
    if sys.stdin.readline().strip() != "go":
        return
    warm_code(job)
    measured = measure(load, job)
    facts = {"discarded_bytes": job.discarded_bytes, "whole_files": job.whole_files}
    _say(answers, "measured", figures=measured.figures, notes=measured.notes, **facts)
    if sys.stdin.readline().strip() == "verify":
        _say(answers, "verified", **_verify(measured, job))


def find_adapter(name: str) -> Callable[[Job], Tensors]:
    """The function that loads.

    Raises:
        ImportError, AttributeError: there is none.
    """
    module, _, function = name.partition(":")
    adapter: Callable[[Job], Tensors] = getattr(importlib.import_module(module, __package__), function)
    return adapter


def warm_code(job: Job) -> None:
    """Reads what the contender loads or runs only when it is called: a cold library is no cold model."""
    for name in job.distributions:
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for path in (str(file.locate()) for file in files if ".so" in file.name):
            if os.path.isfile(path):
                with open(path, "rb", buffering=0) as library:
                    while library.read(_READ_BYTES):
                        pass
    for program in job.programs:
        subprocess.run([program, "--version"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)


def find_versions(distributions: list[str], modules: list[str]) -> dict[str, str]:
    """The versions of those that are installed, under their names, and of what everyone stands on."""
    found = {"python": platform.python_version()}
    for name in (*distributions, "torch", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = getattr(sys.modules.get(name.replace("-", "_")), "__version__", None)
            if version is not None:  # run from its sources
                found[name] = str(version)
    return found


def _verify(measured: Measured, job: Job) -> dict[str, Any]:
    if job.reference is None:
        raise ValueError("there is nothing to compare with")
    with open(job.reference) as file:
        known = json.load(file)
    verdict = reference.compare(_handed_out(measured.kept, job), known, names=job.names, by_bytes=job.keep)
    return verdict._asdict()


def _handed_out(kept: list[tuple[str, Any]], job: Job) -> Any:
    if job.keep:
        return reference.handed_out(kept, whole_files=job.whole_files)
    assert all(isinstance(tensor, Remembered) for _, tensor in kept)
    return [reference.Handed(name, tensor.dtype, tensor.shape, bytes) for name, tensor in kept]


def _describe(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _say(answers: IO[str], said: str, **facts: Any) -> None:
    print(json.dumps({"said": said, **facts}), file=answers, flush=True)
