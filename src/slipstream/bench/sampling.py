"""One timed sample, in a process of its own; the parent's side.

    the benchmark                       the sample's process (child/sample.py)
    --------------------------------------------------------------------------
    starts it, sends the job        ->  imports the contender's modules
                                    <-  ready
    prepare(pid): into its cgroup,
    memory settled, files cold and
    verified; counters read         ->  go: loads, touches every page
    counters and page cache read    <-  measured
                                    ->  verify: digests of every tensor, beside the reference's
    SampleResult                    <-  verified

So neither imports nor the cold pages of a library's own code are timed, nothing happens between the check of the page
cache and the load, and no check is timed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slipstream.bench.contenders import schemes_of
from slipstream.bench.errors import SampleError
from slipstream.bench.interpreters import child_command, child_environment
from slipstream.bench.page_cache import cached_bytes
from slipstream.bench.records import Figures
from slipstream.bench.redaction import find_secrets, redact_value
from slipstream.bench.sample_process import SampleProcess

if TYPE_CHECKING:
    from slipstream.bench.contenders import Contender
    from slipstream.bench.records import Setting
    from slipstream.bench.storages.base import Counters, PlacedModel

Touch = Literal["timed", "after"]
_START_TIMEOUT_S = 300.0  # torch from a cold and throttled disk


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """What one sample does.

    Attributes:
        contender: who loads.
        settings: with which settings.
        placed: what, from where.
        destination: "cpu", "cuda:0".
        python: the interpreter that runs it; None is this one. slipstream need not be installed there, numpy must.
        names: a glob that selects tensors; None is all.
        keep: whether every tensor is held until the end, or dropped before the next one is taken. What is dropped
            cannot be verified by its bytes.
        touch: when the pages of results are touched: as each tensor comes, inside the timed region; or after it, where
            so many small tensors come that touching would be most of what is timed.
        verify: whether the bytes are compared with the model's reference.
        timeout_s: for the load, and again for the check of what came.
    """

    contender: Contender
    placed: PlacedModel
    settings: Mapping[str, Setting] = field(default_factory=dict)
    destination: str = "cpu"
    python: Path | None = None
    names: str | None = None
    keep: bool = True
    touch: Touch = "timed"
    verify: bool = True
    timeout_s: float = 900.0


@dataclass(frozen=True, kw_only=True)
class SampleResult:
    """What one sample measured; fields as in `records.Record`."""

    figures: Figures
    verified: bool
    checksum: str
    notes: Mapping[str, Any]
    versions: Mapping[str, str]


def take_sample(
    request: SampleRequest, prepare: Callable[[int], None], counters: Callable[[], Counters] | None = None
) -> SampleResult:
    """Takes one sample in a fresh process, of which nothing is left afterwards.

    Args:
        request: what it does.
        prepare: called with the process's id when that is ready to start; what it raises ends the sample.
        counters: read right before and right after the timed region; without it none are recorded.

    Raises:
        UsageError: the contender has no such setting.
        SampleError: the contender failed, took too long, or handed out something else than the model. The message
            is one paragraph without secrets.
    """
    request.contender.check(request.settings)
    placed = request.placed
    reference = placed.model.reference() if request.verify else None
    environment = _environment(request)
    secrets = find_secrets(placed.environment, placed.storage_options, os.environ)
    files = _cached_files(request)
    with SampleProcess(
        child_command("sample", request.python), environment, name=request.contender.name, secrets=secrets
    ) as process:
        ready = process.ask(_job(request, reference), "ready", timeout_s=_START_TIMEOUT_S)
        prepare(process.pid)
        cached_before = cached_bytes(files)
        before = counters() if counters else None
        measured = process.ask("go", "measured", timeout_s=request.timeout_s)
        after = counters() if counters else None
        cached_after = cached_bytes(files)
        notes = {**measured["notes"], "cached_before_bytes": cached_before} if files else measured["notes"]
        verdict = None
        if request.verify and not measured["discarded_bytes"]:
            verdict = process.ask("verify", "verified", timeout_s=request.timeout_s)
            _refuse_differences(request, verdict["differences"])
            notes = {**notes, "compared_by": verdict["by"]}
        else:
            _refuse_incompleteness(request, measured)
    return SampleResult(
        figures=Figures(
            **measured["figures"],
            page_cache_growth_bytes=max(0, cached_after - cached_before) if files else None,
            device_read_bytes=_difference(before, after, "device_read_bytes"),
            network_received_bytes=_difference(before, after, "network_received_bytes"),
        ),
        verified=verdict is not None and request.keep,
        checksum=verdict["checksum"] if verdict else "",
        notes={name: redact_value(value, secrets) for name, value in notes.items()},
        versions=ready["versions"],
    )


def _job(request: SampleRequest, reference: Path | None) -> Mapping[str, object]:
    """The job as `child.job.Job` has it."""
    contender, placed = request.contender, request.placed
    schemes = schemes_of(placed.uris)
    return {
        "adapter": contender.adapter,
        "modules": contender.modules_for(schemes, request.settings),
        "distributions": contender.distributions,
        "programs": contender.programs_for(schemes),
        "settings": dict(request.settings),
        "uris": placed.uris,
        "urls": placed.urls,
        "sizes": placed.sizes,
        "tensorizer_uri": placed.tensorizer_uri,
        "storage_options": dict(placed.storage_options),
        "destination": request.destination,
        "names": request.names,
        "keep": request.keep,
        "touch_in_time": request.touch == "timed",
        "reference": str(reference) if reference else None,
        "parent": os.getpid(),
    }


def _environment(request: SampleRequest) -> dict[str, str]:
    """This process's, without settings; and without its way to a store where the storage has another one."""
    inherited = child_environment(request.python)
    if any(name.startswith("AWS_") for name in request.placed.environment):
        inherited = {name: value for name, value in inherited.items() if not name.startswith("AWS_")}
    return inherited | dict(request.placed.environment) | request.contender.environment(request.settings)


def _cached_files(request: SampleRequest) -> tuple[Path, ...]:
    """The local files that the contender reads; none where they are a server's."""
    placed = request.placed
    if not placed.is_local:
        return ()
    if request.contender.needs_tensorizer:
        return (placed.tensorizer_file,) if placed.tensorizer_file else ()
    return placed.files


def _refuse_differences(request: SampleRequest, differences: list[str]) -> None:
    if differences:
        raise SampleError(
            f"{request.contender.name} did not hand out the model: {'; '.join(differences)}; the sample has no figure"
        )


def _refuse_incompleteness(request: SampleRequest, measured: Mapping[str, Any]) -> None:
    """For samples whose bytes are not compared."""
    facts, figures = request.placed.model.facts, measured["figures"]
    stored = sum(request.placed.sizes)
    handed: tuple[int, ...]
    wanted: tuple[int, ...]
    if measured["discarded_bytes"] or measured["whole_files"]:
        handed, wanted = (figures["nbytes"],), (stored,)  # headers too
    elif request.names is None:
        handed, wanted = (figures["tensors"], figures["nbytes"]), (facts.tensors, facts.nbytes)
    else:
        return
    if handed != wanted:
        raise SampleError(f"{request.contender.name} handed out {handed}, where the model has {wanted}")


def _difference(before: Counters | None, after: Counters | None, name: str) -> int | None:
    first, last = getattr(before, name, None), getattr(after, name, None)
    return None if first is None or last is None else last - first
