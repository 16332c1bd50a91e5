"""Who takes samples of a kind: loads, here; starts of vLLM, in `vllm.taker`.

runner  ──▶  SampleTaker.describe    which row of the tables an entry is
        ──▶  SampleTaker.check       whether it can run here
        ──▶  SampleTaker.take        one sample, from a storage that is ready
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from slipstream.bench.contenders import Availability, check_availability, find_contender, schemes_of
from slipstream.bench.experiments import Entry, Experiment, Kind
from slipstream.bench.models import Model, Report
from slipstream.bench.page_cache import settle_memory
from slipstream.bench.plan import PlannedSample, Row
from slipstream.bench.sampling import SampleRequest, SampleResult, take_sample
from slipstream.bench.storages.base import PlacedModel, Storage
from slipstream.bench.vllm.taker import VllmTaker

_LEAST_MARGIN_BYTES = 128 << 20
_MOST_MARGIN_BYTES = 1 << 30


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


class LoadTaker:
    """Loads by a contender, each in a process of its own. See SampleTaker."""

    def describe(self, experiment: Experiment, entry: Entry) -> Row:
        """See SampleTaker."""
        contender = find_contender(entry.contender)
        label = contender.label(entry.settings)
        return Row(
            entry=entry,
            label=entry.label or label,
            role=contender.role,
            needs_tensorizer=contender.needs_tensorizer,
        )

    def make_ready(self, model: Model, conditions: Conditions, report: Report) -> None:
        """See SampleTaker. The checksums that what comes is compared with."""
        model.reference(report)

    def tensorizer_copy(self, model: Model, conditions: Conditions, report: Report) -> Path:
        """See SampleTaker."""
        return model.tensorizer_copy(python=conditions.pythons.get("tensorizer"), report=report)

    def check(self, planned: PlannedSample, placed: PlacedModel, conditions: Conditions) -> Availability:
        """See SampleTaker."""
        entry = planned.row.entry
        return check_availability(
            find_contender(entry.contender),
            destination=planned.destination,
            schemes=schemes_of(placed.uris),
            settings=entry.settings,
            python=conditions.pythons.get(entry.contender),
        )

    def take(
        self, planned: PlannedSample, storage: Storage, placed: PlacedModel, conditions: Conditions
    ) -> SampleResult:
        """See SampleTaker."""
        experiment, entry = planned.experiment, planned.row.entry

        def prepare(pid: int) -> None:
            # What is only passed through needs no memory of the model's size.
            if entry.settings.get("method") != "discard" and experiment.keep:
                settle_memory(placed.model.nbytes, margin_bytes=_margin_bytes(placed.model.nbytes))
            storage.prepare(pid, page_cache=experiment.page_cache, tensorizer=planned.row.needs_tensorizer)

        request = SampleRequest(
            contender=find_contender(entry.contender),
            placed=placed,
            settings=entry.settings,
            destination=planned.destination,
            python=conditions.pythons.get(entry.contender),
            names=experiment.names,
            keep=experiment.keep,
            touch=experiment.touch,
            verify=entry.verify,
            timeout_s=conditions.timeout_s,
        )
        return take_sample(request, prepare, storage.counters)


TAKERS: Mapping[Kind, SampleTaker] = {"load": LoadTaker(), "vllm": VllmTaker()}
"""By the kind of an experiment."""


def _margin_bytes(nbytes: int) -> int:
    """For what a loader uses beside the tensors: copies in flight, libraries."""
    return min(_MOST_MARGIN_BYTES, _LEAST_MARGIN_BYTES + nbytes // 4)
