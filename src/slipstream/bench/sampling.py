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

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from slipstream.bench.contenders import Contender
    from slipstream.bench.records import Figures, Setting
    from slipstream.bench.storages.base import Counters, PlacedModel

Touch = Literal["timed", "after"]


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
    """Takes one sample in a fresh process.

    Args:
        request: what it does.
        prepare: called with the process's id when that is ready to start; what it raises ends the sample.
        counters: read right before and right after the timed region; without it none are recorded.

    Raises:
        SampleError: the contender failed, took too long, or handed out something else than the model. The message
            is one paragraph without secrets.
    """
    raise NotImplementedError
