"""What `storage_options=` may say, under the names that each cloud's Python libraries use.

{"key": "...", "secret": "...", "endpoint_url": "..."}          s3fs, pandas
{"aws_access_key_id": "...", "aws_endpoint_url": "..."}         boto3, obstore, polars
{"s3": {"anon": True}, "az": {"account_name": "..."}}           for each scheme of one call
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias, cast

from slipstream.errors import UsageError
from slipstream.sources.connection_string import parse_connection_string
from slipstream.sources.option_names import find_option, nearest_name, scope_of
from slipstream.transport.access import StoreKind

_ENDPOINT = re.compile(r"(?i)https?://[^\s/?#@]+(/[^\s?#]*)?")

Given: TypeAlias = Mapping[str, object]
"""What a caller passes: names to text, booleans or mappings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageOptions:
    """How one kind of store is reached. Frozen, hashable, picklable; its repr shows no secret.

    What is None is taken from the environment where the cloud has a variable for it, else from its usual default.

    Attributes:
        endpoint: scheme, host and port, where it is not the cloud's own.
        region: of the S3 bucket.
        access_key_id: S3.
        secret_access_key: S3.
        session_token: S3, of temporary credentials.
        profile: a section of `~/.aws/config`; needs boto3.
        role_arn: an S3 role to assume; needs boto3.
        anonymous: ask without credentials, as public buckets allow.
        virtual_hosted_style: whether an S3 bucket is in the host name; None chooses what suits the endpoint.
        account_name: Azure storage account.
        account_key: Azure.
        sas_token: Azure shared access signature.
        tenant_id: Azure service principal.
        client_id: Azure service principal, or the managed identity of several.
        client_secret: Azure service principal.
        bearer_token: an OAuth token that the caller renews; Google, Azure, HTTP.
        service_account: path of a Google credentials file.
        service_account_key: the content of one.
        ca_bundle: path of PEM certificates that are trusted besides the system's.
        proxy: URL of the proxy for all requests; may hold a password.
        headers: sent with every request.
    """

    endpoint: str | None = None
    region: str | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None
    role_arn: str | None = None
    anonymous: bool = False
    virtual_hosted_style: bool | None = None
    account_name: str | None = None
    account_key: str | None = field(default=None, repr=False)
    sas_token: str | None = field(default=None, repr=False)
    tenant_id: str | None = None
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    bearer_token: str | None = field(default=None, repr=False)
    service_account: str | None = None
    service_account_key: str | None = field(default=None, repr=False)
    ca_bundle: str | None = None
    proxy: str | None = field(default=None, repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def secrets(self) -> tuple[str, ...]:
        """Every value that no text may show. Shorter ones are left out: they would be found in any text."""
        hidden = [getattr(self, option.name) for option in fields(self) if not option.repr]
        headers = [value for _, value in self.headers]
        return tuple(value for value in (*hidden, *headers) if isinstance(value, str) and len(value) >= 4)


def parse_storage_options(given: Given | None, kind: StoreKind) -> StorageOptions:
    """Reads a caller's `storage_options=` for one kind of store.

    Flat names hold for every kind that knows them; those in a mapping under a scheme's name hold for that
    scheme and come first.

    Args:
        given: as in `stream`; None is no option.
        kind: whose options are wanted.

    Raises:
        UsageError: a name that no kind of store knows, or a value of the wrong type. No text shows a value.
    """
    if given is None:
        return StorageOptions()
    if not isinstance(given, Mapping):
        raise UsageError(f"storage_options is a {type(given).__name__}; it is a mapping of names to values")
    flat: dict[str, object] = {}
    scoped: dict[str, object] = {}
    for name, value in given.items():
        scope = scope_of(name) if isinstance(value, Mapping) else None
        if scope is None:
            flat[name] = value
        elif scope == kind:
            scoped.update(cast(Given, value))
        else:
            _read_options(cast(Given, value), scope)  # so that a mistake in it is told whatever is loaded
    values = _read_options(_flattened(flat), kind) | _read_options(_flattened(scoped), kind)
    return _with_connection_string(values)


def _flattened(given: Given) -> Given:
    """Lifts what s3fs takes in a mapping of its own, `client_kwargs`, to the names beside it."""
    inner = given.get("client_kwargs")
    if not isinstance(inner, Mapping):
        return given
    return {**{name: value for name, value in given.items() if name != "client_kwargs"}, **inner}


def _read_options(given: Given, kind: StoreKind) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, value in given.items():
        if not isinstance(name, str):
            raise UsageError(f"storage_options has a name of type {type(name).__name__}; names are text")
        option = find_option(name, kind)
        if option is None:
            raise UsageError(f"storage_options has no {_shown(name)}{nearest_name(name, kind)}")
        if value is not None and option != "ignored":
            values.update(_READERS.get(option, _read_text)(option, name, value))
    return values


def _shown(name: str) -> str:
    """An unknown name, for a text; cut, because someone may have put a value in its place."""
    return repr(name if len(name) <= 24 else name[:8] + "...")


def _read_text(option: str, name: str, value: object) -> dict[str, object]:
    if not isinstance(value, str) or not value.strip() or "\n" in value.strip():
        raise _wrong(name, value, "one line of text")
    return {option: value.strip()}


def _read_path(option: str, name: str, value: object) -> dict[str, object]:
    path = value.__fspath__() if hasattr(value, "__fspath__") else value
    return _read_text(option, name, os.path.expanduser(path) if isinstance(path, str) else path)


def _read_endpoint(option: str, name: str, value: object) -> dict[str, object]:
    if not isinstance(value, str) or not _ENDPOINT.fullmatch(value.strip()):
        raise UsageError(
            f"storage_options has {name} that is no URL of a server; write for example https://minio.example.com:9000, "
            "with its scheme and without user, password or query"
        )
    return {option: value.strip().rstrip("/")}


def _read_truth(option: str, name: str, value: object) -> dict[str, object]:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    truth = words.get(value.strip().lower()) if isinstance(value, str) else value
    if not isinstance(truth, bool):
        raise _wrong(name, value, "True or False")
    return {option: truth}


def _read_addressing(option: str, name: str, value: object) -> dict[str, object]:
    styles = {"path": False, "virtual": True, "auto": None}
    if not isinstance(value, str) or value not in styles:
        raise _wrong(name, value, '"path", "virtual" or "auto"')
    return {"virtual_hosted_style": styles[value]}


def _read_headers(option: str, name: str, value: object) -> dict[str, object]:
    items = list(value.items()) if isinstance(value, Mapping) else [(None, None)]
    if not all(isinstance(text, str) and _is_header_text(text) for item in items for text in item):
        raise _wrong(name, value, "a mapping of header names to one line of text each")
    return {option: tuple(sorted(items))}


def _is_header_text(text: str) -> bool:
    return not set("\r\n\0") & set(text) and all(ord(character) < 256 for character in text)


def _read_verify(option: str, name: str, value: object) -> dict[str, object]:
    if value is True:
        return {}
    if value is False:
        raise UsageError(
            f"storage_options has {name}=False: slipstream always checks certificates; "
            'trust the server\'s own authority instead, with {"ca_bundle": "ca.pem"}'
        )
    return _read_path("ca_bundle", name, value)


def _read_account_key_file(option: str, name: str, value: object) -> dict[str, object]:
    """A Google service account's key, as JSON text or as the mapping it is."""
    try:
        content = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        content = None
    if not isinstance(content, Mapping):
        raise _wrong(name, value, "the JSON text or mapping of a credentials file")
    return {option: json.dumps(dict(content))}


def _read_google_token(option: str, name: str, value: object) -> dict[str, object]:
    """What gcsfs calls token: a word, a path, a mapping, or an OAuth token."""
    if value == "anon":
        return {"anonymous": True}
    if value in ("google_default", "cloud", "cache"):
        return {}
    if isinstance(value, Mapping):
        return _read_account_key_file("service_account_key", name, value)
    if isinstance(value, str) and value.endswith(".json"):
        return _read_path("service_account", name, value)
    return _read_text("bearer_token", name, value)


_READERS: Mapping[str, Callable[[str, str, object], dict[str, object]]] = {
    "anonymous": _read_truth,
    "virtual_hosted_style": _read_truth,
    "addressing_style": _read_addressing,
    "headers": _read_headers,
    "verify": _read_verify,
    "endpoint": _read_endpoint,
    "ca_bundle": _read_path,
    "service_account": _read_path,
    "service_account_key": _read_account_key_file,
    "google_token": _read_google_token,
}


def _wrong(name: str, value: object, wanted: str) -> UsageError:
    kind = "empty or not one line" if isinstance(value, str) else f"a {type(value).__name__}"
    return UsageError(f"storage_options has {name} that is {kind}; it is {wanted}")


def _with_connection_string(values: dict[str, object]) -> StorageOptions:
    text = values.pop("connection_string", None)
    options = StorageOptions(**cast(dict[str, Any], values))
    return options if text is None else merge_connection_string(options, str(text))


def merge_connection_string(options: StorageOptions, text: str) -> StorageOptions:
    """Adds what an Azure connection string says to what the options leave open.

    Raises:
        UsageError: it is not a connection string.
    """
    said: dict[str, Any] = parse_connection_string(text)
    return replace(options, **{name: value for name, value in said.items() if getattr(options, name) is None})
