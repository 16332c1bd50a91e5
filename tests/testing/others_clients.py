"""Clients of object stores that are neither slipstream's nor its server modules' own."""

from __future__ import annotations

import urllib.request
from contextlib import closing
from typing import Any
from urllib.parse import quote

import boto3
from azure.storage.blob import BlobClient
from botocore.config import Config

from slipstream.testing.azurite import Azurite
from slipstream.testing.fake_gcs import FakeGcs
from slipstream.testing.seaweedfs import SeaweedFS

_TIMEOUT_S = 20.0


def read_range(server: Any, bucket: str, key: str, first: int, end: int) -> bytes:
    """The bytes `[first, end)` of an object, by the client that suits the server."""
    headers = {"Range": f"bytes={first}-{end - 1}"}
    if isinstance(server, SeaweedFS):
        with closing(s3_client(server.storage_options)) as client:
            answer = client.get_object(Bucket=bucket, Key=key, Range=headers["Range"])
            assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
            body: bytes = answer["Body"].read()
            return body
    if isinstance(server, Azurite):
        with BlobClient(server.endpoint, bucket, key, credential=server.account_key) as blob:
            content: bytes = blob.download_blob(offset=first, length=end - first).readall()
            return content
    url = f"{server.endpoint}/{bucket}/{quote(key)}"
    if isinstance(server, FakeGcs):
        url = f"{server.endpoint}/storage/v1/b/{bucket}/o/{quote(key, safe='')}?alt=media"
    status, plain = get(url, headers)
    assert status == 206
    return plain


def s3_client(options: dict[str, str]) -> Any:
    """Amazon's own, with the storage options of a server. To be closed."""
    return boto3.client(
        "s3",
        endpoint_url=options["endpoint"],
        aws_access_key_id=options["access_key_id"],
        aws_secret_access_key=options["secret_access_key"],
        region_name=options["region"],
        verify=options.get("ca_bundle"),
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )


def get(url: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """The status and the body of a plain GET."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=_TIMEOUT_S) as answer:
        return answer.status, answer.read()
