"""Reads what obstore raises: status, the store's own code and message, attempts; and says it in our own words.

obstore has few classes of errors, and every listing's failure is of one. The facts are in the text, whose form is that
of object_store's `RetryError`, and in the debug dump behind it (seen in obstore 0.12.1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from slipstream.errors import AccessDeniedError, BlobChangedError, ReadError, SlipstreamError, UsageError
from slipstream.sources.bucket_region import ask_bucket_region
from slipstream.transport.advice import (
    NetworkFault,
    advise,
    advise_network,
    describe_fault,
    describe_network,
    error_class,
    find_fault,
    parse_refusal,
)
from slipstream.transport.redaction import redact_text

if TYPE_CHECKING:
    from slipstream.sources.stores import OpenContainer

_REQUEST = re.compile(r"Error performing (?:\w+) (\S+) in ")
_STATUS = re.compile(r"non-2xx status code: (\d{3})[^:]*:? ?(.*)", re.DOTALL)
_ATTEMPTS = re.compile(r"after (\d+) retries")
_SECONDS = re.compile(r" in ([\d.]+)(ns|µs|ms|s)\b")
_UNITS = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_NETWORK: tuple[tuple[str, NetworkFault], ...] = (
    ("dns error", "dns"),
    ("ConnectionRefused", "refused"),
    ("InvalidContentType", "plain"),
    ("InvalidCertificate", "certificate"),
    ("UnknownIssuer", "certificate"),
    ("certificate", "certificate"),
    ("AlertReceived", "tls"),
    ("InvalidMessage", "tls"),
    ("tunnel", "proxy"),
    ("TimedOut", "timeout"),
    ("Timeout", "timeout"),
    ("ConnectionReset", "reset"),
    ("IncompleteMessage", "reset"),
    ("UnexpectedEof", "reset"),
)


@dataclass(frozen=True, slots=True)
class StoreFailure:
    """The facts of one failure. Holds nothing secret.

    Attributes:
        status: of HTTP, None where there was no answer.
        code: the store's own.
        message: the store's own, its first line.
        region: the right one, where the store said it.
        network: what kept an answer from coming, None where one came.
        attempts: how often it was tried.
        seconds: for how long.
        elsewhere: whether it was not the store but a service for credentials that was asked.
    """

    status: int | None
    code: str | None
    message: str | None
    region: str | None
    network: NetworkFault | None
    attempts: int
    seconds: float | None
    elsewhere: bool


def read_failure(text: str, endpoint: str) -> StoreFailure:
    """Takes obstore's text apart.

    Args:
        text: of the exception.
        endpoint: of the store, by which requests to other services are told.
    """
    said, _, debug = text.partition("\n\nDebug source:")
    request, status, again, seconds = (pattern.search(said) for pattern in (_REQUEST, _STATUS, _ATTEMPTS, _SECONDS))
    code, message, region = parse_refusal(status[2]) if status else (None, None, None)
    redirect = "without LOCATION" in said
    network = None if status or redirect else _find_network_fault(debug)
    return StoreFailure(
        int(status[1]) if status else 301 if redirect else None,
        code,
        message,
        region,
        network if request else None,
        int(again[1]) + 1 if again else 1,
        float(seconds[1]) * _UNITS[seconds[2]] if seconds else None,
        request is not None and request[1].startswith("http") and _host(request[1]) != _host(endpoint),
    )


def _host(url: str) -> tuple[str | None, int | None]:
    parts = urlsplit(url)
    return parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _find_network_fault(debug: str) -> NetworkFault:
    return next((fault for word, fault in _NETWORK if word in debug), "network")


def explain_failure(error: Exception, opened: OpenContainer, key: str, done: str) -> SlipstreamError:
    """The library's error for what obstore raised.

    Args:
        error: it; nothing of it is kept.
        opened: the container that was asked.
        key: or prefix.
        done: what was to be done with it: "listed", "read", "signed for".
    """
    failure = read_failure(str(error), opened.endpoint)
    uri = opened.container.root + key
    could_not = f"{uri} could not be {done}: "
    if failure.elsewhere:
        explained = _explain_credentials(failure, opened, could_not)
    elif failure.network is not None:
        explained = _explain_network(failure, opened, could_not)
    elif failure.status is None:
        explained = _explain_other(error, opened, could_not)
    else:
        explained = _explain_refusal(failure, opened, could_not)
    explained.uri, explained.attempts = uri, failure.attempts
    explained.status, explained.code, explained.endpoint = failure.status, failure.code, opened.endpoint
    return explained


def _explain_refusal(failure: StoreFailure, opened: OpenContainer, could_not: str) -> SlipstreamError:
    kind, credentials = opened.container.kind, opened.credentials
    fault = find_fault(failure.status, failure.code)
    region = failure.region or (ask_bucket_region(opened.url) if fault == "region" and kind == "s3" else None)
    advice = advise(
        kind,
        failure.status,
        failure.code,
        anonymous=credentials.anonymous,
        credentials=credentials.found,
        region=region,
        container=opened.container.name,
    )
    code = f" {failure.code}" if failure.code else ""
    message = f": {redact(failure.message, opened.secrets).rstrip('.')}" if failure.message else ""
    answer = f"{describe_fault(kind, fault)}, HTTP {failure.status}{code}{message}"
    made = BlobChangedError if fault == "changed" else error_class(fault)
    return made(_sentence(could_not + answer + _effort(failure, opened), advice))


def _explain_network(failure: StoreFailure, opened: OpenContainer, could_not: str) -> SlipstreamError:
    assert failure.network is not None, "only where no answer came"
    advice = advise_network(opened.container.kind, failure.network)
    return ReadError(_sentence(could_not + describe_network(failure.network) + _effort(failure, opened), advice))


def _explain_credentials(failure: StoreFailure, opened: OpenContainer, could_not: str) -> SlipstreamError:
    """A service that gives credentials was asked, and did not."""
    answer = f"HTTP {failure.status}" if failure.status else describe_network(failure.network or "network")
    code = f" {failure.code}" if failure.code else ""
    text = f"{could_not}{opened.credentials.found} gave no credentials, {answer}{code}"
    return AccessDeniedError(_sentence(text, "check that it has a role, or give credentials in storage_options"))


def _explain_other(error: Exception, opened: OpenContainer, could_not: str) -> SlipstreamError:
    """What came neither from a store nor from the network: credentials that could not be renewed, odd settings."""
    first = redact(str(error).partition("\n\nDebug source:")[0].split("\n")[0], opened.secrets)[:200]
    if "credential provider" in first:
        text = f"{could_not}{opened.credentials.found} gave no credentials"
        return AccessDeniedError(_sentence(text, "renew them, by logging in again"))
    if "invalid path" in first:
        text = f"{could_not}there is a key that slipstream cannot ask for, {first}"
        return ReadError(_sentence(text, "name the blobs themselves, or rename that one"))
    if isinstance(error, ValueError) or "onfiguration" in type(error).__name__:
        return UsageError(_sentence(could_not + first, "check the URI and storage_options"))
    return ReadError(f"{could_not}{first} (endpoint {opened.endpoint})")


def _effort(failure: StoreFailure, opened: OpenContainer) -> str:
    tries = "1 attempt" if failure.attempts == 1 else f"{failure.attempts} attempts"
    lasted = f" in {failure.seconds:.1f} s" if failure.attempts > 1 and failure.seconds else ""
    return f" (endpoint {opened.endpoint}, {tries}{lasted})"


def _sentence(text: str, advice: str) -> str:
    return f"{text}. {advice[:1].upper()}{advice[1:]}" if advice else text


def redact(text: str, secrets: tuple[str, ...]) -> str:
    """A foreign text without the secrets that are known and without what URLs hide."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return redact_text(text)
