"""What `access` grants works for a plain GET, whatever a blob's name is; and is renewed in time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from slipstream.sources.credentials import Container
from slipstream.sources.granting import StoreAccess
from slipstream.sources.storage_options import parse_storage_options
from slipstream.testing.azurite import Azurite
from slipstream.testing.seaweedfs import SeaweedFS
from slipstream.transport.access import StoreKind
from slipstream.types import Blob
from tests.object_stores.opening import get_plainly, open_source

AWKWARD = (
    "plain.safetensors",
    "with space.safetensors",
    "umlaut-ü-日本.safetensors",
    "percent%20%.safetensors",
    "plus+and=equals.safetensors",
    "hash#question?.safetensors",
    "quotes'\"&<>.safetensors",
    "brackets[1]{2}|^`.safetensors",
    "tilde~star*comma,semi;colon:at@.safetensors",
)
BUCKET = "awkward"


def check_grants(kind: StoreKind, root: str, options: Mapping[str, object]) -> None:
    """Every name can be listed, granted and read, and a wrong ETag is refused."""
    source = open_source(kind, options)
    blobs = {blob.uri: blob for blob in source.list_blobs(root).blobs}
    assert set(blobs) == {root + name for name in AWKWARD}
    for blob in blobs.values():
        name = blob.uri.removeprefix(root)
        grant = source.access(blob).grant()
        assert blob.etag is not None
        status, body, headers = get_plainly(grant, {"Range": "bytes=2-6", "If-Match": blob.etag})
        assert (status, body) == (206, name.encode()[2:7])
        assert headers["ETag"] == blob.etag
        assert get_plainly(grant, {"If-Match": '"another"'})[0] == 412
        assert source.read_range(blob, 2, 7) == name.encode()[2:7]
        assert source.read_range_by_store(blob, 2, 7) == name.encode()[2:7]


def test_s3(seaweedfs: SeaweedFS) -> None:
    seaweedfs.create_bucket(BUCKET)
    for name in AWKWARD:
        seaweedfs.upload(name.encode(), BUCKET, name)
    check_grants("s3", f"s3://{BUCKET}/", seaweedfs.storage_options)


def test_s3_over_tls(seaweedfs_tls: SeaweedFS) -> None:
    seaweedfs_tls.create_bucket(BUCKET)
    seaweedfs_tls.upload(b"0123456789", BUCKET, "x.safetensors")
    source = open_source("s3", seaweedfs_tls.storage_options)
    (blob,) = source.list_blobs(f"s3://{BUCKET}/").blobs
    assert source.access(blob).grant().ca_bundle == seaweedfs_tls.storage_options["ca_bundle"]
    assert source.read_range(blob, 3, 6) == b"345"


def test_a_public_bucket_needs_no_credentials_and_no_signature(seaweedfs: SeaweedFS) -> None:
    seaweedfs.create_bucket("public")
    for name in AWKWARD:
        seaweedfs.upload(name.encode(), "public", name)
    seaweedfs.make_public("public")
    options = {"anon": True, "endpoint": seaweedfs.endpoint}
    check_grants("s3", "s3://public/", options)
    blob = Blob("s3://public/plain.safetensors", 1)
    assert open_source("s3", options).access(blob).grant().url == f"{seaweedfs.endpoint}/public/plain.safetensors"


def azure_variants(azurite: Azurite) -> dict[str, dict[str, object]]:
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    options = azurite.storage_options
    account, key = options["account_name"], options["account_key"]
    until = datetime.now(UTC) + timedelta(hours=1)
    may = ContainerSasPermissions(read=True, list=True)
    token = generate_container_sas(account, BUCKET, account_key=key, permission=may, expiry=until)
    text = f"DefaultEndpointsProtocol=http;AccountName={account};AccountKey={key};BlobEndpoint={options['endpoint']};"
    bare = {"account_name": account, "endpoint": options["endpoint"]}
    return {"key": dict(options), "token": {**bare, "sas_token": "?" + token}, "text": {"connection_string": text}}


def test_azure(azurite: Azurite) -> None:
    azurite.create_bucket(BUCKET)
    for name in AWKWARD:
        azurite.upload(name.encode(), BUCKET, name)
    account = azurite.storage_options["account_name"]
    for variant in azure_variants(azurite).values():
        check_grants("az", f"az://{BUCKET}/", variant)
        check_grants("az", f"abfss://{BUCKET}@{account}.dfs.core.windows.net/", variant)


def an_access(server: SeaweedFS, clock: list[float], valid_s: int = 3600) -> StoreAccess:
    options = parse_storage_options(server.storage_options, "s3")
    container = Container("s3", BUCKET, f"s3://{BUCKET}/", None, None, options)
    return StoreAccess(f"s3://{BUCKET}/x", container, "x", valid_s=valid_s, clock=lambda: clock[0])


def test_a_grant_is_shared_until_shortly_before_it_expires(seaweedfs: SeaweedFS) -> None:
    clock = [1000.0]
    access = an_access(seaweedfs, clock)
    first = access.grant()
    assert first.expires_at == 4600
    clock[0] += 3600 - 301
    assert access.grant() is first
    clock[0] += 1
    second = access.grant()
    assert second.expires_at is not None
    assert second.expires_at > 4600


def test_what_was_refused_is_replaced_once(seaweedfs: SeaweedFS) -> None:
    clock = [1000.0]
    access = an_access(seaweedfs, clock)
    first = access.grant()
    clock[0] += 1
    second = access.grant(refused=first)
    assert second != first
    assert access.grant(refused=first) is second  # another thread hears of the first one's refusal later


def test_an_expired_signature_is_refused_by_the_store_and_made_anew(seaweedfs: SeaweedFS) -> None:
    seaweedfs.create_bucket(BUCKET)
    seaweedfs.upload(b"0123456789", BUCKET, "x")
    access = an_access(seaweedfs, [time.time()], valid_s=1)
    first = access.grant()
    deadline = time.monotonic() + 10
    while get_plainly(first, {})[0] != 403:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert get_plainly(access.grant(refused=first), {})[1] == b"0123456789"


def test_a_grant_that_cannot_be_renewed_stays_the_same_object() -> None:
    source = open_source("s3", {"anon": True, "endpoint": "http://127.0.0.1:9"})
    access = source.access(Blob("s3://b/k", 1))
    grant = access.grant()
    assert access.grant(refused=grant) is grant


def test_a_shared_access_token_that_has_expired_is_told_without_a_request() -> None:
    options = {"account_name": "acc", "sas_token": "sv=2020&se=2021-01-01T00%3A00%3A00Z&sig=SECRETSIGNATURE"}
    access = open_source("az", options).access(Blob("az://c/k", 1))
    with pytest.raises(PermissionError, match="expired at 2021-01-01 00:00:00") as caught:
        access.grant()
    assert "SECRET" not in str(caught.value)


def test_headers_from_the_options_are_sent_with_every_grant() -> None:
    options = {"anon": True, "endpoint": "http://127.0.0.1:9", "headers": {"X-Team": "research"}}
    grant = open_source("s3", options).access(Blob("s3://b/k", 1)).grant()
    assert grant.headers == {"X-Team": "research"}


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({"region": "eu-west-1"}, "https://b.s3.eu-west-1.amazonaws.com/k"),
        ({"region": "cn-north-1"}, "https://b.s3.cn-north-1.amazonaws.com.cn/k"),
        ({"addressing_style": "path"}, "https://s3.us-east-1.amazonaws.com/b/k"),
        ({"endpoint": "http://h:9"}, "http://h:9/b/k"),
        ({"endpoint": "https://h", "addressing_style": "virtual"}, "https://b.h/k"),
        ({"endpoint": "https://b.h", "addressing_style": "virtual"}, "https://b.h/k"),
    ],
)
def test_the_bucket_stands_in_the_host_or_the_path(options: dict[str, object], url: str) -> None:
    keys = {"access_key_id": "AK", "secret_access_key": "SK"}
    plain = open_source("s3", {**options, "anon": True}).access(Blob("s3://b/k", 1)).grant().url
    signed = open_source("s3", {**options, **keys}).access(Blob("s3://b/k", 1)).grant().url
    assert plain == url
    assert signed.partition("?")[0] == url


def test_a_dotted_bucket_stays_out_of_amazon_s_host_name() -> None:
    access = open_source("s3", {"anon": True}).access(Blob("s3://my.bucket/k", 1))
    assert access.grant().url == "https://s3.us-east-1.amazonaws.com/my.bucket/k"
    assert access.endpoint == "https://s3.us-east-1.amazonaws.com"
