"""The copy of a model that vLLM's load format tensorizer reads: made once, tried once, the verdict kept.

Two ways are tried, in this order, each with a start that must answer as the default loader's does:

    by vLLM's own recipe        `tensorize_vllm_model`: the model as it is in vLLM's memory
    of the checkpoint as it is  its tensors, which vLLM then loads as it would load the checkpoint's

With vLLM 0.32 on CPUs neither serves: once loaded, linear weights are packed for the kernels and no parameters any
more, so the first way writes a file without them; and the second skips what packs them, so the first request fails.
That is not assumed but found out, and the reason in the table is what was seen.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.bench.errors import BenchError, SampleError
from slipstream.bench.interpreters import child_environment
from slipstream.bench.sample_process import SampleProcess
from slipstream.bench.vllm.engine import INSIDE, QUIET
from slipstream.bench.vllm.served import Served, keep_finding, read_finding
from slipstream.bench.vllm.side_files import write_side_files
from slipstream.bench.vllm.start import engine_variables, measure_start

if TYPE_CHECKING:
    from slipstream.bench.models import Report

_TIMEOUT_S = 3600.0
_WHOLE = 0.9  # of the model's bytes; quantised tensors may be packed more tightly, but not by so much


def find_copy(served: Served, answer: str, report: Report | None = None) -> Path:
    """The copy from which vLLM can serve the model; made and tried if need be.

    Args:
        served: which model, by which vLLM.
        answer: the default loader's, which must come from the copy, too.
        report: shown how it goes.

    Raises:
        BenchError: there is none; the message says what was tried.
    """
    verdict = served.folder / "tensorizer" / "verdict.json"
    kept = read_finding(verdict)
    if kept is not None and kept["reason"]:
        raise BenchError(str(kept["reason"]))
    if kept is not None and Path(kept["copy"]).exists():
        return Path(kept["copy"])
    failures = []
    for words, make in {"by vLLM's own recipe": _serialise, "of the checkpoint as it is": _convert}.items():
        try:
            copy = make(served, report)
            if report is not None:
                report(f"starting vLLM with a copy {words}, untimed", 0, 0)
            started = measure_start(served.start_request("tensorizer", served.where_it_lies(copy)))
            refuse_other_answer(started.answer, answer)
        except BenchError as error:
            failures.append(f"With one {words}: {error}")
            continue
        keep_finding(verdict, copy=str(copy), reason="")
        return copy
    reason = f"vLLM {served.engine.version} on {served.engine.device} serves no copy. {'. '.join(failures)}"
    keep_finding(verdict, copy="", reason=reason)
    raise BenchError(reason)


def refuse_other_answer(answer: str, wanted: str) -> None:
    """
    Raises:
        SampleError: it is another one, so other weights were loaded.
    """
    if answer != wanted:
        raise SampleError(f"it answers {answer!r}, and with the default loader {wanted!r}: other weights were loaded")


def _serialise(served: Served, report: Report | None) -> Path:
    """By vLLM's own recipe.

    Raises:
        SampleError: it failed, or left weights out.
    """
    if report is not None:
        report(f"serialising {served.model.name} for vLLM's load format tensorizer", 0, 0)
    folder = served.folder / "tensorizer"
    source, target = folder / "source", folder / "model.tensors"
    unfinished = folder / f"model.tensors.{os.getpid()}.unfinished"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    try:
        write_side_files(served.model, source)
        for file in served.model.files:
            (source / file.name).symlink_to(file)
        environment = child_environment(served.engine.python) | QUIET | engine_variables(served.engine, served.cache)
        asked = {"arguments": ["--model", str(source), *served.arguments], "target": str(unfinished)}
        command = [str(served.engine.python), str(INSIDE / "serialise.py")]
        with SampleProcess(command, environment, name="it") as process:
            process.ask(asked, "serialised", timeout_s=_TIMEOUT_S)
        written, whole = unfinished.stat().st_size, served.model.nbytes
        if written < whole * _WHOLE:
            raise SampleError(f"it has {written:,} bytes of the model's {whole:,}, so most weights are not in it")
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
        shutil.rmtree(source, ignore_errors=True)
    return target


def _convert(served: Served, report: Report | None) -> Path:
    """As it is."""
    return served.model.tensorizer_copy(python=served.engine.python, report=report)
