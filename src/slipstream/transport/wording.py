"""The library's error for what could not be healed: what, where, how often it was tried, and what to check next."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from slipstream.errors import BlobChangedError, ReadError, SlipstreamError
from slipstream.transport.advice import advise_network, describe_fault, error_class, find_fault
from slipstream.transport.failures import Failure, Kind

if TYPE_CHECKING:
    from slipstream.transport.client import _Reading


def explain_failure(failure: Failure, reading: _Reading, problem: str) -> SlipstreamError:
    """The error for a failure.

    Args:
        failure: the last one.
        reading: what was being read.
        problem: why it is not tried again, where that is not the failure itself.
    """
    access, answer = reading.access, failure.answer
    seconds = monotonic() - reading.began
    tries = "1 attempt" if reading.failures == 1 else f"{reading.failures} attempts in {seconds:.1f} s"
    where = f"bytes {reading.position}-{reading.position + max(reading.remaining, 1) - 1}"
    notes = [f"endpoint {access.endpoint}", where, tries]
    if answer is not None and answer.request_id:
        notes.append(f"request id {answer.request_id}")
    text = f"{access.uri} could not be read: {_what(failure, access.kind)} ({', '.join(notes)})"
    clauses = [clause for clause in (problem, _next_step(failure, reading)) if clause]
    error = _class(failure)(
        ". ".join([text, *(clause[0].upper() + clause[1:] for clause in clauses)]),
        uri=access.uri,
        offset=reading.position,
        length=reading.remaining,
        attempts=reading.failures,
    )
    error.endpoint = access.endpoint
    if answer is not None:
        error.status, error.code = answer.status, answer.code or None
    return error


def _what(failure: Failure, kind: str) -> str:
    if failure.answer is None:
        return failure.text
    fault = find_fault(failure.answer.status, failure.answer.code or None)
    if fault == "other":
        return failure.text
    return f"{describe_fault(kind, fault)}, {failure.text}"  # type: ignore[arg-type]


def _class(failure: Failure) -> type[SlipstreamError]:
    if failure.kind is Kind.CHANGED:
        return BlobChangedError
    if failure.answer is None:
        return ReadError
    return error_class(find_fault(failure.answer.status, failure.answer.code or None))


def _next_step(failure: Failure, reading: _Reading) -> str:
    if failure.kind is Kind.CHANGED:
        return "it was changed while it was loaded: load it again once its writer is done"
    if failure.network is not None:
        return advise_network(reading.access.kind, failure.network)
    if failure.answer is not None:
        answer = failure.answer
        return reading.access.advise(answer.status, answer.code or None, answer.region or None)
    if failure.kind is Kind.LOST:
        return ""
    return "look at the server, and at what is between it and this computer: it breaks the rules of HTTP for ranges"
