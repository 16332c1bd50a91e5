"""Which kind of store each URI scheme stands for. Nothing else lists them."""

from __future__ import annotations

from collections.abc import Mapping

from slipstream.transport.access import StoreKind

SCHEMES: Mapping[str, StoreKind] = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "abfs": "az",
    "abfss": "az",
    "http": "http",
    "https": "http",  # except Azure's own hosts: see locations.is_blob_url
}
