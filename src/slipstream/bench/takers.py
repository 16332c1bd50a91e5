"""Who takes samples of a kind: loads and the like, in `load_taker`; imports; starts of vLLM, in `vllm.taker`.

runner  ──▶  SampleTaker.describe    which row of the tables an entry is
        ──▶  SampleTaker.check       whether it can run here
        ──▶  SampleTaker.take        one sample, from a storage that is ready
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from slipstream.bench.child import lock_probe
from slipstream.bench.contenders import Availability
from slipstream.bench.experiments import Entry, Experiment, Kind
from slipstream.bench.import_taker import ImportTaker
from slipstream.bench.load_taker import LoadTaker
from slipstream.bench.models import Model, Report
from slipstream.bench.plan import PlannedSample, Row
from slipstream.bench.sampling import SampleResult
from slipstream.bench.storages.base import PlacedModel, Storage
from slipstream.bench.vllm.taker import VllmTaker


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What holds for all samples of a run.

    Attributes:
        pythons: interpreters of contenders that do not run in this one, by contender.
        timeout_s: of one load.
    """

    pythons: Mapping[str, Path]
    timeout_s: float = 900.0


class SampleTaker(Protocol):
    """Takes samples of one kind."""

    def describe(self, experiment: Experiment, entry: Entry) -> Row:
        """The row of an entry.

        Raises:
            UsageError: there is no such contender, or it has no such settings.
        """
        ...

    def make_ready(self, model: Model, conditions: Conditions, report: Report) -> None:
        """Makes what all samples of a model need.

        Raises:
            BenchError: none of them can be taken.
        """
        ...

    def tensorizer_copy(self, model: Model, conditions: Conditions, report: Report) -> Path:
        """The model in tensorizer's format; made if need be.

        Raises:
            BenchError: no row that loads it can be measured.
        """
        ...

    def check(self, planned: PlannedSample, placed: PlacedModel, conditions: Conditions) -> Availability:
        """Whether it can run here."""
        ...

    def take(
        self, planned: PlannedSample, storage: Storage, placed: PlacedModel, conditions: Conditions
    ) -> SampleResult:
        """Takes one sample. `placed` is what `storage.begin` gave for it.

        Raises:
            SampleError: it has no figure.
        """
        ...


TAKERS: Mapping[Kind, SampleTaker] = {
    "load": LoadTaker(),
    "headers": LoadTaker(".adapters.slipstream:describe", moves_bytes=False),
    "lock": LoadTaker(".adapters.slipstream:load_watched", why_not=lock_probe.why_unavailable),
    "import": ImportTaker(),
    "vllm": VllmTaker(),
}
"""By the kind of an experiment."""
