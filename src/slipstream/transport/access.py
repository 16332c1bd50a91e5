"""The seam between who may read a blob, and who reads it: a source grants, the client asks with the grant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

StoreKind: TypeAlias = Literal["s3", "gs", "az", "http"]
"""Whose error bodies and advice apply."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a GET of one blob is made with. Secret: its repr shows nothing of it.

    Attributes:
        url: where the blob is, signed where the store allows that.
        headers: sent to that URL's host and to no other, e.g. Authorization.
        expires_at: `time.time()` after which it is worth nothing; None where it holds for ever.
        ca_bundle: path of PEM certificates that are trusted besides the system's.
        proxy: URL of the proxy to go through; None is what the environment says.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    expires_at: float | None = field(default=None, repr=False)
    ca_bundle: str | None = None
    proxy: str | None = field(default=None, repr=False)


class BlobAccess(Protocol):
    """Grants requests for one blob. Safe to use from many threads at once; quick, once the first grant is made.

    Attributes:
        uri: the blob as the caller knows it, without a secret.
        kind: which store's wording errors and advice follow.
        endpoint: scheme, host and port that are asked, for messages.
    """

    @property
    def uri(self) -> str:
        """See above."""
        ...

    @property
    def kind(self) -> StoreKind:
        """See above."""
        ...

    @property
    def endpoint(self) -> str:
        """See above."""
        ...

    def grant(self, refused: Grant | None = None) -> Grant:
        """A grant that is good for at least a minute.

        Args:
            refused: a grant of this blob that the store has just called expired or invalid: another is made,
                unless that has happened in the meantime.

        Raises:
            AccessDeniedError: there are no credentials, or they cannot be renewed; the text says which were looked for.
        """
        ...

    def advise(self, status: int | None, code: str | None, region: str | None) -> str:
        """What to check after a refusal, in one clause without a secret; empty where nothing is known."""
        ...
