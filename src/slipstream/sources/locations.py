"""Where a blob of an object store is: what its URI says, taken apart.

    s3://bucket/key                                       gs://bucket/key
    az://container/key                                    the account comes from the options or the environment
    abfss://container@account.dfs.core.windows.net/key    https://account.blob.core.windows.net/container/key

A key is taken literally, except in an `https://` URL, whose path is percent-encoded as in every URL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from slipstream.errors import UsageError
from slipstream.sources.schemes import SCHEMES
from slipstream.transport.access import StoreKind

_EXAMPLES: Mapping[str, str] = {
    "s3": "s3://bucket/model/model.safetensors",
    "s3a": "s3a://bucket/model/model.safetensors",
    "gs": "gs://bucket/model/model.safetensors",
    "gcs": "gcs://bucket/model/model.safetensors",
    "az": "az://container/model/model.safetensors",
    "abfs": "abfs://container@account.dfs.core.windows.net/model/model.safetensors",
    "abfss": "abfss://container@account.dfs.core.windows.net/model/model.safetensors",
    "https": "https://account.blob.core.windows.net/container/model/model.safetensors",
}
# Exactly Microsoft's own domains (global, China, US government): credentials go to these hosts.
_AZURE_HOST = re.compile(
    r"([a-z0-9]{3,24})\.(?:blob|dfs)(\.core\.(?:windows\.net|chinacloudapi\.cn|usgovcloudapi\.net))"
)
# S3 allows 3 to 63 characters; Google up to 222 with dots; old S3 buckets have capitals and underscores.
_CONTAINER = re.compile(r"[A-Za-z0-9$][A-Za-z0-9._$-]{0,221}")


@dataclass(frozen=True, slots=True)
class Location:
    """A blob or a prefix in one container.

    Attributes:
        kind: which kind of store.
        container: what S3 and Google call a bucket.
        key: literal, without a slash at its beginning; ends with one where the URI did.
        root: the URI of the container itself, with a slash at its end; `uri` begins with it.
        account: Azure's, where the URI names it.
        endpoint: the account's own, where the URI names it.
    """

    kind: StoreKind
    container: str
    key: str
    root: str
    account: str | None = None
    endpoint: str | None = None

    @property
    def uri(self) -> str:
        """What the caller would write for it."""
        return self.root + (quote(self.key) if self.root.startswith("https:") else self.key)

    @property
    def name(self) -> str:
        """The last component of the key."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> Location:
        """The prefix it lies directly under."""
        head = self.key.rstrip("/").rpartition("/")[0]
        return self.at(head + "/" if head else "")

    def at(self, key: str) -> Location:
        """Another key of the same container."""
        return replace(self, key=key)


def is_blob_url(uri: str) -> bool:
    """Whether an `https://` URL is one of Azure's, for which there are credentials and listings."""
    scheme, _, rest = uri.partition("://")
    return scheme.lower() == "https" and _AZURE_HOST.fullmatch(re.split(r"[/?#]", rest)[0].lower()) is not None


def parse_location(uri: str) -> Location:
    """Takes a URI of an object store apart.

    Raises:
        UsageError: it is not of a form above; the text gives one that is, and never a query string.
    """
    scheme, separator, rest = uri.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _EXAMPLES:
        raise UsageError(f"{_without_query(uri)} is not a URI of an object store, such as {_EXAMPLES['s3']}")
    authority, _, path = rest.partition("/")
    if scheme == "https":
        location = _parse_blob_url(uri, authority, path)
    elif scheme in ("abfs", "abfss"):
        location = _parse_abfs(uri, scheme, authority, path)
    else:
        location = Location(SCHEMES[scheme], authority, path, f"{scheme}://{authority}/")
    _check_container(uri, scheme, location.container)
    _check_key(location)
    return location


def _parse_blob_url(uri: str, host: str, path: str) -> Location:
    if "?" in path:
        raise UsageError(
            f"{_without_query(uri)} was given with a query string: give a shared access signature as "
            'storage_options={"sas_token": "..."}, and the URL without it',
            uri=_without_query(uri),
        )
    match = _AZURE_HOST.fullmatch(host.lower())
    if match is None:
        raise _malformed(uri, "https", "its host is not an Azure storage account's")
    container, _, key = path.partition("#")[0].partition("/")
    endpoint = f"https://{match[1]}.blob{match[2]}"
    return Location("az", container, unquote(key), f"https://{host}/{container}/", match[1], endpoint)


def _parse_abfs(uri: str, scheme: str, authority: str, path: str) -> Location:
    container, at, host = authority.partition("@")
    root = f"{scheme}://{authority}/"
    if not at:
        return Location("az", container, path, root)
    match = _AZURE_HOST.fullmatch(host.lower())
    if match is None:
        raise _malformed(uri, scheme, "behind the @ is not an Azure storage account's host")
    return Location("az", container, path, root, match[1], f"https://{match[1]}.blob{match[2]}")


def _check_container(uri: str, scheme: str, container: str) -> None:
    if not container:
        raise _malformed(uri, scheme, "it names no " + ("container" if SCHEMES[scheme] in ("az", "http") else "bucket"))
    if "@" in container or ":" in container:
        raise UsageError(
            f"a {scheme}:// URI holds no user, password or port: give credentials and the endpoint in "
            f"storage_options, and write {_EXAMPLES[scheme]}"
        )
    if not _CONTAINER.fullmatch(container):
        raise _malformed(uri, scheme, f"{container!r} is not a name of a bucket or container")


def _check_key(location: Location) -> None:
    """Refuses keys that cannot be asked for: the client library would rewrite or refuse them."""
    parts = location.key.removesuffix("/").split("/")
    fault = (
        "has an empty component (two slashes together, or one at its beginning)"
        if len(parts) > 1 and "" in parts
        else "has a component of only dots"
        if {".", ".."} & set(parts)
        else "has control characters"
        if any(ord(char) < 32 or ord(char) == 127 for char in location.key)
        else None
    )
    if fault:
        raise UsageError(f"the key {location.key!r} {fault}, which slipstream cannot ask for", uri=location.uri)


def _malformed(uri: str, scheme: str, fault: str) -> UsageError:
    shown = _without_query(uri)
    return UsageError(f"{shown} is not a URI that can work: {fault}; write for example {_EXAMPLES[scheme]}", uri=shown)


def _without_query(uri: str) -> str:
    """A URI that may be shown: no query, and no password before an @."""
    scheme, separator, rest = uri.partition("://")
    authority, slash, path = rest.partition("/")
    if ":" in authority.rpartition("@")[0]:
        authority = "***@" + authority.rpartition("@")[2]
    if scheme.lower() in ("http", "https"):
        path = re.split(r"[?#]", path)[0]
    return scheme + separator + authority + slash + path if separator else re.split(r"[?]", uri)[0]
