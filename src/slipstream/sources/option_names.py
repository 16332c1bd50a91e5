"""The names that options go by: ours, and those of s3fs, boto3, obstore, polars, adlfs and gcsfs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from slipstream.sources.schemes import SCHEMES
from slipstream.transport.access import StoreKind

_SCOPES: Mapping[str, StoreKind] = {**SCHEMES, "azure": "az"}

# Names that mean the same for every kind of store.
_COMMON: Mapping[str, str] = {
    "anonymous": "anonymous",
    "anon": "anonymous",
    "skip_signature": "anonymous",
    "ca_bundle": "ca_bundle",
    "verify": "verify",
    "headers": "headers",
    "proxy": "proxy",
    "proxy_url": "proxy",
    "use_ssl": "ignored",  # the endpoint's scheme says it
    "allow_http": "ignored",
}
_ENDPOINT: Mapping[str, str] = {"endpoint": "endpoint", "endpoint_url": "endpoint"}
_NAMES: Mapping[StoreKind, Mapping[str, str]] = {
    "s3": {
        **_COMMON,
        **_ENDPOINT,
        "endpoint_url_s3": "endpoint",
        "region": "region",
        "region_name": "region",
        "default_region": "region",
        "access_key_id": "access_key_id",
        "key": "access_key_id",
        "secret_access_key": "secret_access_key",
        "secret": "secret_access_key",
        "session_token": "session_token",
        "token": "session_token",
        "profile": "profile",
        "profile_name": "profile",
        "role_arn": "role_arn",
        "virtual_hosted_style": "virtual_hosted_style",
        "virtual_hosted_style_request": "virtual_hosted_style",
        "addressing_style": "addressing_style",
    },
    "gs": {
        **_COMMON,
        **_ENDPOINT,
        "base_url": "endpoint",
        "bearer_token": "bearer_token",
        "token": "google_token",
        "service_account": "service_account",
        "service_account_path": "service_account",
        "application_credentials": "service_account",
        "service_account_key": "service_account_key",
        "project": "ignored",  # gcsfs wants it for making buckets
    },
    "az": {
        **_COMMON,
        **_ENDPOINT,
        "account_host": "endpoint",
        "account_name": "account_name",
        "account_key": "account_key",
        "access_key": "account_key",
        "sas_token": "sas_token",
        "sas_key": "sas_token",
        "connection_string": "connection_string",
        "bearer_token": "bearer_token",
        "token": "bearer_token",
        "tenant_id": "tenant_id",
        "client_id": "client_id",
        "client_secret": "client_secret",
    },
    "http": {**_COMMON, "bearer_token": "bearer_token", "token": "bearer_token"},
}
_PREFIXES = ("aws_", "azure_storage_", "azure_", "google_")


def scope_of(name: object) -> StoreKind | None:
    """The kind of store that a name such as "s3" holds options for, None for an option's own name."""
    return _SCOPES.get(name.lower()) if isinstance(name, str) else None


def find_option(name: str, kind: StoreKind) -> str | None:
    """What a name means for one kind of store: an option, "ignored" where only another kind knows it, else None."""
    plain = _plain(name)
    if plain in _NAMES[kind]:
        return _NAMES[kind][plain]
    return "ignored" if any(plain in names for names in _NAMES.values()) else None


def nearest_name(name: str, kind: StoreKind) -> str:
    """The clause of a refusal that says what may have been meant."""
    names = sorted({name for names in (_NAMES[kind], *_NAMES.values()) for name in names})
    near = difflib.get_close_matches(_plain(name), names, n=1, cutoff=0.6)
    if near:
        return f'; did you mean "{near[0]}"?'
    return f"; for this store it knows {', '.join(sorted(set(_NAMES[kind].values()) - _INNER))}"


_INNER = {"ignored", "verify", "google_token", "addressing_style"}


def _plain(name: str) -> str:
    """A name without its cloud's prefix and in one spelling: AWS_ACCESS_KEY_ID is access_key_id."""
    plain = name.strip().lower().replace("-", "_")
    for prefix in _PREFIXES:
        if plain.startswith(prefix):
            return plain.removeprefix(prefix)
    return plain
