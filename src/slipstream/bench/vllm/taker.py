"""Starts of vLLM, as the runner takes samples of any kind. See `takers.SampleTaker`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.bench.contenders import Availability, schemes_of
from slipstream.bench.errors import BenchError
from slipstream.bench.page_cache import settle_memory
from slipstream.bench.plan import PlannedSample, Row
from slipstream.bench.vllm.formats import find_format
from slipstream.bench.vllm.plan import VllmPlan
from slipstream.bench.vllm.sample import VllmSampleRequest, take_vllm_sample
from slipstream.errors import UsageError

if TYPE_CHECKING:
    from slipstream.bench.experiments import Entry, Experiment
    from slipstream.bench.models import Model, Report
    from slipstream.bench.sampling import SampleResult
    from slipstream.bench.storages.base import PlacedModel, Storage
    from slipstream.bench.takers import Conditions

_MOST_MARGIN_BYTES = 1 << 30  # what vLLM takes beside the weights
INTERPRETER = "vllm"  # of --python vllm=PATH


class VllmTaker:
    """Starts of vLLM with a contender's load format. See SampleTaker."""

    def __init__(self) -> None:
        self._plans: dict[tuple[Model, Path | None], VllmPlan] = {}

    def describe(self, experiment: Experiment, entry: Entry) -> Row:
        """See SampleTaker."""
        load_format = find_format(entry.contender)
        if entry.settings:
            raise UsageError(f"a load format of vLLM has no settings here, and {entry.contender} is given some")
        return Row(
            entry=entry,
            label=entry.label or load_format.label,
            role=load_format.role,
            needs_tensorizer=load_format.needs_tensorizer,
        )

    def make_ready(self, model: Model, conditions: Conditions, report: Report) -> None:
        """See SampleTaker. A first start, untimed. Where that fails, `check` says so of every row."""
        with suppress(BenchError):
            self._plan(model, conditions).first_answer(report)

    def tensorizer_copy(self, model: Model, conditions: Conditions, report: Report) -> Path:
        """See SampleTaker. As vLLM's load format tensorizer reads it."""
        return self._plan(model, conditions).tensorizer_copy(report)

    def check(self, planned: PlannedSample, placed: PlacedModel, conditions: Conditions) -> Availability:
        """See SampleTaker."""
        plan = self._plan(planned.model, conditions)
        reason = plan.why_not(
            planned.row.entry.contender, schemes=schemes_of(placed.uris), destination=planned.destination
        )
        return Availability(reason)

    def take(
        self, planned: PlannedSample, storage: Storage, placed: PlacedModel, conditions: Conditions
    ) -> SampleResult:
        """See SampleTaker."""

        def prepare(pid: int) -> None:
            settle_memory(placed.model.nbytes, margin_bytes=min(placed.model.nbytes, _MOST_MARGIN_BYTES))
            storage.prepare(pid, page_cache=planned.experiment.page_cache, tensorizer=planned.row.needs_tensorizer)

        request = VllmSampleRequest(
            plan=self._plan(planned.model, conditions),
            contender=planned.row.entry.contender,
            placed=placed,
            timeout_s=conditions.timeout_s,
        )
        return take_vllm_sample(request, prepare, storage.counters)

    def _plan(self, model: Model, conditions: Conditions) -> VllmPlan:
        key = (model, conditions.pythons.get(INTERPRETER))
        return self._plans.setdefault(key, VllmPlan(*key))
