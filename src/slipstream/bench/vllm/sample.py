"""One timed start of vLLM, as a sample: what `sampling.take_sample` is for loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from slipstream.bench.records import Figures
from slipstream.bench.sampling import SampleResult
from slipstream.bench.vllm.copies import refuse_other_answer
from slipstream.bench.vllm.start import TOKENS, Started, measure_start

if TYPE_CHECKING:
    from slipstream.bench.storages.base import Counters, PlacedModel
    from slipstream.bench.vllm.plan import VllmPlan


@dataclass(frozen=True, kw_only=True)
class VllmSampleRequest:
    """What one sample does.

    Attributes:
        plan: which model, by which vLLM.
        contender: with whose load format.
        placed: from where.
        timeout_s: from the start until /health answers.
    """

    plan: VllmPlan
    contender: str
    placed: PlacedModel
    timeout_s: float = 900.0


def take_vllm_sample(
    request: VllmSampleRequest, prepare: Callable[[int], None], counters: Callable[[], Counters] | None = None
) -> SampleResult:
    """Starts vLLM once, of which nothing is left afterwards.

    `seconds` is `health_s`. What counters count, and what the page cache grows by, goes on until the answers have come.
    That the right weights were loaded is told by an answer of eight tokens, which must be that of the default loader.

    Args:
        request: what it does.
        prepare: called with the id of the process that will start vLLM; what it raises ends the sample.
        counters: of the storage; without it none are recorded.

    Raises:
        SampleError: vLLM did not start, did not answer, or answered something else. The message is one paragraph
            without secrets.
        BenchError: there is no vLLM, or it does not serve this model.
    """
    served, answer = request.plan.served, request.plan.first_answer()
    started = measure_start(
        served.start_request(request.contender, request.placed, health_timeout_s=request.timeout_s), prepare, counters
    )
    refuse_other_answer(started.answer, answer)
    return SampleResult(
        figures=_figures(started),
        verified=True,
        checksum=sha256(started.answer.encode()).hexdigest(),
        notes=_notes(started, served.arguments),
        versions=served.engine.versions,
    )


def _figures(started: Started) -> Figures:
    before, after = started.counters or (None, None)
    growth = max(0, started.cached_bytes[1] - started.cached_bytes[0]) if started.cached_bytes else None
    return Figures(
        seconds=started.health_s,
        page_cache_growth_bytes=growth,
        device_read_bytes=_difference(before, after, "device_read_bytes"),
        network_received_bytes=_difference(before, after, "network_received_bytes"),
        health_s=started.health_s,
        first_token_s=started.first_token_s,
        weights_s=started.weights.seconds,
    )


def _notes(started: Started, arguments: tuple[str, ...]) -> Mapping[str, Any]:
    notes: dict[str, Any] = {
        "weights_s from": started.weights.source,
        "vllm reported": dict(started.weights.reported),
        "vllm arguments": " ".join(arguments),
        "compared by": f"the answer in {TOKENS} tokens",
        "answer": started.answer,
    }
    if started.cached_bytes:
        notes["cached_before_bytes"] = started.cached_bytes[0]
    return notes


def _difference(before: Counters | None, after: Counters | None, name: str) -> int | None:
    first, last = getattr(before, name, None), getattr(after, name, None)
    return None if first is None or last is None else last - first
