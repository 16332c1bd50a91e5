"""URLs under which any HTTP client may GET what is in an object store, for an hour.

(url,) = presign(["s3://models/llama/model.safetensors"], {"endpoint": ..., ...})
subprocess.run(["curl", "--range", "0-99", url])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from slipstream.errors import UsageError
from slipstream.sources.azure_credentials import complete_azure_options
from slipstream.sources.credentials import Container
from slipstream.sources.granting import StoreAccess
from slipstream.sources.locations import parse_location
from slipstream.sources.storage_options import parse_storage_options


def presign(uris: Sequence[str], storage_options: Mapping[str, object] | None = None) -> tuple[str, ...]:
    """URLs of these blobs, in their order. Secrets: do not print them. The stores are not asked.

    Args:
        uris: of blobs in object stores.
        storage_options: how the stores are reached, as in `slipstream.stream`.

    Raises:
        UsageError: no URI of an object store, or a store whose blobs take a header to be read.
        AccessDeniedError: there are no credentials.
    """
    return tuple(_presign(uri, storage_options) for uri in uris)


def _presign(uri: str, storage_options: Mapping[str, object] | None) -> str:
    location = parse_location(uri)
    options = parse_storage_options(storage_options, location.kind)
    if location.kind == "az":
        options = complete_azure_options(options)
    container = Container(
        location.kind, location.container, location.root, location.account, location.endpoint, options
    )
    grant = StoreAccess(uri, container, location.key).grant()
    if grant.headers:
        raise UsageError(f"{uri} takes a header to be read, so no plain URL can be made of it", uri=uri)
    return grant.url
