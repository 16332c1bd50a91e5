"""Grants for one blob: signed URLs and bearer tokens, made when they are first needed and again before they expire."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from threading import Lock
from urllib.parse import parse_qs, quote

from slipstream.errors import AccessDeniedError
from slipstream.sources.azure_credentials import API_VERSION
from slipstream.sources.azure_signing import sign_blob
from slipstream.sources.base import SigningRefusedError
from slipstream.sources.credentials import Container, Provider, Showing
from slipstream.sources.store_requests import sign_url
from slipstream.sources.stores import OpenContainer, forget_container, open_container
from slipstream.transport.access import Grant, StoreKind
from slipstream.transport.advice import advise

VALID_S = 3600
"""How long a signed URL is good: a chunk is read in seconds, and a URL that leaks is soon worthless."""

# Renewed this long before, so that no request is made with what expires under it.
_MARGIN_S = 300
# A URL dies with the temporary credentials it was signed with, which do not say when: obstore renews them five minutes
# before they do, so a URL signed within the last four is good. Signing costs microseconds.
_TEMPORARY_S = 240


class StoreAccess:
    """Grants requests for one blob of an object store. See BlobAccess.

    Attributes:
        uri: the blob as the caller knows it.
    """

    def __init__(
        self,
        uri: str,
        container: Container,
        key: str,
        *,
        valid_s: int = VALID_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.uri = uri
        self._container = container
        self._key = key
        self._valid_s = valid_s
        self._clock = clock
        self._lock = Lock()
        self._grant: Grant | None = None
        self._opened: OpenContainer | None = None
        self._renew_at: float | None = None

    def __repr__(self) -> str:
        return f"StoreAccess({self.uri!r})"

    @property
    def kind(self) -> StoreKind:
        """See BlobAccess."""
        return self._container.kind

    @property
    def endpoint(self) -> str:
        """See BlobAccess."""
        return open_container(self._container).endpoint

    def grant(self, refused: Grant | None = None) -> Grant:
        """See BlobAccess.

        Raises:
            SigningRefusedError: the credentials may read but not sign.
            AccessDeniedError, ReadError: they could not be had or renewed.
        """
        with self._lock:
            if self._grant is not None and refused == self._grant and self._opened is not None:
                forget_container(self._opened)
            spent = self._renew_at is not None and self._clock() >= self._renew_at
            if self._grant is None or spent or refused == self._grant:
                made, self._renew_at = self._make()
                self._grant = self._grant if made == self._grant else made
            return self._grant

    def advise(self, status: int | None, code: str | None, region: str | None) -> str:
        """See BlobAccess."""
        found = open_container(self._container).credentials
        return advise(
            self.kind,
            status,
            code,
            anonymous=found.anonymous,
            credentials=found.found,
            region=region,
            container=self._container.name,
        )

    def _make(self) -> tuple[Grant, float | None]:
        """A grant, and when to make the next."""
        self._opened = opened = open_container(self._container)
        headers = dict(self._container.options.headers)
        plain = f"{opened.url}/{quote(self._key, safe='/-_.~')}"
        match opened.credentials.showing:
            case Showing.NOTHING:
                return _grant(opened, plain, headers), None
            case Showing.SAS:
                return self._make_shared_access(opened, plain, headers)
            case Showing.BEARER:
                return self._make_bearer(opened, plain, headers)
            case Showing.SIGNATURE:
                return self._make_signed(opened, plain, headers)

    def _make_signed(self, opened: OpenContainer, plain: str, headers: dict[str, str]) -> tuple[Grant, float]:
        now, lasting = self._clock(), opened.credentials.lasting
        renew_s = _TEMPORARY_S if self.kind == "s3" and not lasting else self._valid_s - _MARGIN_S
        expires_at = now + self._valid_s
        if self.kind == "az" and lasting:
            key = _provider(opened)()["access_key"]
            query = sign_blob(opened.account, key, self._container.name, self._key, expires_at)
            return _grant(opened, f"{plain}?{query}", headers, expires_at), now + renew_s
        url = self._sign_by_store(lasting)
        return _grant(opened, url, headers, expires_at), now + renew_s

    def _sign_by_store(self, lasting: bool) -> str:
        """By obstore, which for Google and Azure puts names into URLs and signatures that need encoding as they are."""
        if self.kind != "s3" and quote(self._key, safe="/-_.~") != self._key:
            text = f"{self.uri} has characters in its name that are not signed rightly for this store"
            raise SigningRefusedError(text, uri=self.uri)
        try:
            return sign_url(self._container, self._key, self._valid_s)
        except AccessDeniedError as error:
            if self.kind == "s3" or lasting:
                raise
            refusal = SigningRefusedError(error.message, uri=self.uri)
        raise refusal

    def _make_bearer(self, opened: OpenContainer, plain: str, headers: dict[str, str]) -> tuple[Grant, float | None]:
        made = _provider(opened)()
        headers["Authorization"] = f"Bearer {made['token']}"
        if self.kind == "az":
            headers["x-ms-version"] = API_VERSION
        if made["expires_at"] is None:
            return _grant(opened, plain, headers), None
        expires_at = made["expires_at"].timestamp()
        # Metadata services hand out the same token until a few minutes before its end: do not ask for each request.
        renew_at = max(expires_at - _MARGIN_S, min(self._clock() + 30, expires_at - 60))
        return _grant(opened, plain, headers, expires_at), renew_at

    def _make_shared_access(
        self, opened: OpenContainer, plain: str, headers: dict[str, str]
    ) -> tuple[Grant, float | None]:
        token = _provider(opened)()["sas_token"]
        expires_at = _shared_access_end(token)
        if expires_at is not None and expires_at <= self._clock():
            ended = datetime.fromtimestamp(expires_at, UTC).isoformat(" ", "seconds")
            found = opened.credentials.found
            raise AccessDeniedError(f"{self.uri}: the SAS token from {found} expired at {ended}: make a new one")
        return _grant(opened, f"{plain}?{token}", headers, expires_at), None


def _grant(opened: OpenContainer, url: str, headers: dict[str, str], expires_at: float | None = None) -> Grant:
    return Grant(url, headers, expires_at, opened.ca_file, opened.container.options.proxy)


def _provider(opened: OpenContainer) -> Provider:
    provider = opened.credentials.provider
    assert provider is not None, "bearer tokens and SAS tokens come from a provider"
    return provider


def _shared_access_end(token: str) -> float | None:
    """When a SAS token expires, by its own `se`; None where a policy on the container says it."""
    try:
        end = datetime.fromisoformat(parse_qs(token)["se"][0])
    except (LookupError, ValueError):
        return None
    return (end if end.tzinfo else end.replace(tzinfo=UTC)).timestamp()
