"""Samples of loads, each by a contender in a process of its own. See `takers.SampleTaker`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.bench.contenders import Availability, Contender, check_availability, find_contender, schemes_of
from slipstream.bench.page_cache import settle_memory
from slipstream.bench.plan import PlannedSample, Row
from slipstream.bench.sampling import SampleRequest, SampleResult, take_sample

if TYPE_CHECKING:
    from slipstream.bench.experiment import Entry, Experiment
    from slipstream.bench.models import Model, Report
    from slipstream.bench.storages.base import PlacedModel, Storage
    from slipstream.bench.takers import Conditions

_LEAST_MARGIN_BYTES = 128 << 20
_MOST_MARGIN_BYTES = 1 << 30


class LoadTaker:
    """Loads by a contender; or, with an adapter of its own, something else that it does with a model."""

    def __init__(self, adapter: str = "", *, moves_bytes: bool = True, why_not: Callable[[], str] = lambda: "") -> None:
        """
        Args:
            adapter: what is run instead of the contender's, as in `Contender.adapter`.
            moves_bytes: whether it hands out tensors, or only descriptions of them.
            why_not: why nothing of the kind can be measured here; "" where it can.
        """
        self._adapter = adapter
        self._moves_bytes = moves_bytes
        self._why_not = why_not

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
        if why := self._why_not():
            return Availability(why)
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
            if entry.settings.get("method") != "discard" and experiment.keep and self._moves_bytes:
                settle_memory(placed.model.nbytes, margin_bytes=_margin_bytes(placed.model.nbytes))
            storage.prepare(pid, page_cache=experiment.page_cache, tensorizer=planned.row.needs_tensorizer)

        request = SampleRequest(
            contender=self._contender(entry),
            placed=placed,
            settings=entry.settings,
            destination=planned.destination,
            python=conditions.pythons.get(entry.contender),
            names=experiment.names,
            keep=experiment.keep and self._moves_bytes,
            touch=experiment.touch if self._moves_bytes else "after",
            verify=entry.verify,
            timeout_s=conditions.timeout_s,
        )
        result = take_sample(request, prepare, storage.counters)
        return result if self._moves_bytes else replace(result, figures=replace(result.figures, nbytes=None))

    def _contender(self, entry: Entry) -> Contender:
        contender = find_contender(entry.contender)
        return replace(contender, adapter=self._adapter) if self._adapter else contender


def _margin_bytes(nbytes: int) -> int:
    """For what a loader uses beside the tensors: copies in flight, libraries."""
    return min(_MOST_MARGIN_BYTES, _LEAST_MARGIN_BYTES + nbytes // 4)
