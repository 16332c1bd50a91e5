"""URIs are taken apart literally or decoded, put together again the same, and refused with an example."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.errors import UsageError
from slipstream.sources.locations import is_blob_url, parse_location


@pytest.mark.parametrize(
    ("uri", "kind", "container", "key", "account"),
    [
        ("s3://bucket/a/b.safetensors", "s3", "bucket", "a/b.safetensors", None),
        ("s3a://bucket/a", "s3", "bucket", "a", None),
        ("S3://bucket", "s3", "bucket", "", None),
        ("s3://bucket/", "s3", "bucket", "", None),
        ("s3://bucket/a b%20+#?ü.safetensors", "s3", "bucket", "a b%20+#?ü.safetensors", None),
        ("gs://bucket/dir/", "gs", "bucket", "dir/", None),
        ("gcs://my.dotted.bucket/x", "gs", "my.dotted.bucket", "x", None),
        ("az://container/key", "az", "container", "key", None),
        ("az://$root/key", "az", "$root", "key", None),
        ("abfs://cont@acc.dfs.core.windows.net/k/x", "az", "cont", "k/x", "acc"),
        ("abfss://cont@acc.blob.core.windows.net/k", "az", "cont", "k", "acc"),
        ("abfss://cont/k", "az", "cont", "k", None),
        ("https://acc.blob.core.windows.net/cont/a%20b%2525.bin", "az", "cont", "a b%25.bin", "acc"),
        ("https://acc.dfs.core.chinacloudapi.cn/cont/k", "az", "cont", "k", "acc"),
    ],
)
def test_every_form(uri: str, kind: str, container: str, key: str, account: str | None) -> None:
    location = parse_location(uri)
    assert (location.kind, location.container, location.key, location.account) == (kind, container, key, account)


def test_the_endpoint_of_a_data_lake_uri_is_the_blob_service_s() -> None:
    location = parse_location("abfss://c@acc.dfs.core.windows.net/k")
    assert location.endpoint == "https://acc.blob.core.windows.net"


@given(key=st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="/"), min_size=1))
def test_a_location_s_uri_means_the_same_location(key: str) -> None:
    if key in (".", ".."):
        return
    for root in ("s3://b/", "az://c/", "abfss://c@acc.dfs.core.windows.net/", "https://acc.blob.core.windows.net/c/"):
        location = parse_location(root).at("dir/" + key)
        assert parse_location(location.uri) == location


def test_parents_and_names() -> None:
    location = parse_location("s3://b/x/y/z.safetensors")
    assert location.name == "z.safetensors"
    assert location.parent.uri == "s3://b/x/y/"
    assert location.parent.parent.uri == "s3://b/x/"
    assert parse_location("s3://b/x").parent.uri == "s3://b/"


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("s3:///key", "names no bucket"),
        ("az:///key", "names no container"),
        ("s3://", "s3://bucket/model"),
        ("ftp://x/y", "not a URI of an object store"),
        ("s3://bu cket/key", "'bu cket' is not a name"),
        ("s3://AKIA:secret@bucket/key", "no user, password or port"),
        ("s3://localhost:9000/key", "no user, password or port"),
        ("s3://bucket//key", "empty component"),
        ("s3://bucket/a//key", "empty component"),
        ("s3://bucket/a/../key", "only dots"),
        ("s3://bucket/a\nb", "control characters"),
        ("abfss://cont@elsewhere.com/key", "Azure storage account's host"),
        ("https://elsewhere.com/cont/key", "Azure storage account's"),
        ("https://acc.blob.core.windows.net/", "names no container"),
        ("https://acc.blob.core.windows.net/c/k?sig=secret", 'storage_options={"sas_token"'),
    ],
)
def test_what_cannot_work_is_refused_without_repeating_secrets(uri: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_location(uri)
    assert says in str(caught.value)
    assert "secret" not in str(caught.value) + str(caught.value.uri)


def test_only_azure_s_hosts_make_an_https_url_a_blob_url() -> None:
    assert is_blob_url("https://acc.blob.core.windows.net/c/k")
    assert is_blob_url("HTTPS://ACC.blob.core.windows.net/c/k")
    assert not is_blob_url("https://acc.blob.core.windows.net.evil.com/c/k")
    assert not is_blob_url("https://evil.com/acc.blob.core.windows.net/k")
    assert not is_blob_url("http://acc.blob.core.windows.net/c/k")
    assert not is_blob_url("https://user@acc.blob.core.windows.net/c/k")
