"""With which credentials a container is asked, and how they are shown to it.

What the caller gave comes first, then the environment, then profiles on disk, then the machine's own identity.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from slipstream.errors import AccessDeniedError, UsageError
from slipstream.sources.storage_options import StorageOptions
from slipstream.transport.access import StoreKind

_CLOUDS = ("AWS_", "AZURE_", "GOOGLE_", "GCE_", "STORAGE_EMULATOR_HOST", "IDENTITY_", "CLOUDSDK_")

Provider: TypeAlias = Callable[[], Mapping[str, Any]]
"""Makes credentials in the form obstore takes them, again whenever it is called."""


class Showing(StrEnum):
    """How a plain GET of a blob shows who asks."""

    NOTHING = "nothing"
    SIGNATURE = "signature"
    BEARER = "bearer"
    SAS = "sas"


@dataclass(frozen=True, slots=True)
class Container:
    """One bucket or container, and how it is reached. Picklable; its repr shows no secret.

    Attributes:
        kind: of store.
        name: of the bucket or container.
        root: its URI, with a slash at its end.
        account: Azure's, where the URI names it.
        endpoint: where the URI names it.
        options: the caller's.
    """

    kind: StoreKind
    name: str
    root: str
    account: str | None
    endpoint: str | None
    options: StorageOptions


@dataclass(frozen=True, slots=True)
class Credentials:
    """What was found. Its repr shows no secret.

    Attributes:
        showing: how a GET of a blob shows them.
        found: where they come from, for texts.
        config: settings for obstore's store, secrets among them.
        provider: makes the credentials, where obstore does not find them itself.
        lasting: whether signing costs no request and what is signed with does not expire by itself.
        secrets: every value that no text may show.
        endpoint: of the store, where the credentials name it.
    """

    showing: Showing
    found: str
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    provider: Provider | None = field(default=None, repr=False)
    lasting: bool = False
    secrets: tuple[str, ...] = field(default=(), repr=False)
    endpoint: str | None = None

    @property
    def anonymous(self) -> bool:
        """Whether nothing is shown."""
        return self.showing is Showing.NOTHING


def variable(*names: str) -> str | None:
    """The first of these environment variables that is set and not empty."""
    return next((value for name in names if (value := os.environ.get(name, "").strip())), None)


def cloud_variables() -> tuple[tuple[str, str], ...]:
    """The environment variables that clouds and their emulators are set up with. Secret."""
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith(_CLOUDS)))


def replace_cloud_variables(variables: Iterable[tuple[str, str]]) -> None:
    """Makes these the only ones of their kind in this process."""
    for name, _ in cloud_variables():
        del os.environ[name]
    os.environ.update(variables)


def is_set(*names: str) -> bool:
    """Whether one of these environment variables says yes."""
    return (variable(*names) or "").lower() in ("1", "true", "yes", "on")


def no_credentials(kind: str, looked: str, instead: str) -> AccessDeniedError:
    """The error where nothing was found, which says where it was looked for."""
    return AccessDeniedError(f"no {kind} credentials were found: looked at {looked}. {instead}")


def both_or_neither(first: str | None, second: str | None, names: str) -> None:
    """Refuses one half of a pair.

    Raises:
        UsageError: it is half.
    """
    if (first is None) != (second is None):
        raise UsageError(f"storage_options has only one of {names}: they belong together")
