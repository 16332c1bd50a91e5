"""What a URI stands for in a store: a blob, a prefix through its index, all its shards, or a glob. On SeaweedFS."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

import pytest

from slipstream.errors import BlobNotFoundError, UsageError
from slipstream.sources.object_store import ObjectStoreSource
from slipstream.testing.seaweedfs import SeaweedFS
from tests.object_stores.opening import open_source
from tests.object_stores.scripted_server import Said, ScriptedServer, s3_page, s3_refusal

BUCKET = "listing"
KEYS = (
    "plain/a.safetensors",
    "plain/b.safetensors",
    "plain/config.json",
    "plain/deeper/c.safetensors",
    "indexed/model-00001-of-00002.safetensors",
    "indexed/model-00002-of-00002.safetensors",
    "indexed/left-over.safetensors",
    "indexed/model.safetensors.index.json",
    "indexed/pytorch_model.bin.index.json",
    "parts/part/one.safetensors",
    "parts/model.safetensors.index.json",
    "both/x.safetensors.index.json",
    "both/y.safetensors.index.json",
    "preferred/model.safetensors.index.json",
    "preferred/y.safetensors.index.json",
    "none/readme.md",
    "weights",
    "odd/a[1].safetensors",
    "odd/a1.safetensors",
)


@pytest.fixture(scope="module")
def server(seaweedfs: SeaweedFS) -> SeaweedFS:
    seaweedfs.create_bucket(BUCKET)
    for key in KEYS:
        seaweedfs.upload(json.dumps(key).encode(), BUCKET, key)
    return seaweedfs


@pytest.fixture
def source(server: SeaweedFS) -> ObjectStoreSource:
    return open_source("s3", server.storage_options)


def uris(source: ObjectStoreSource, uri: str) -> list[str]:
    return [blob.uri.removeprefix(f"s3://{BUCKET}/") for blob in source.list_blobs(uri).blobs]


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_prefix_without_an_index_is_all_safetensors_directly_under_it(source: ObjectStoreSource, slash: str) -> None:
    assert uris(source, f"s3://{BUCKET}/plain{slash}") == ["plain/a.safetensors", "plain/b.safetensors"]


def test_a_listing_knows_sizes_and_etags_in_the_form_of_if_match(source: ObjectStoreSource) -> None:
    for blob in source.list_blobs(f"s3://{BUCKET}/plain").blobs:
        assert blob.size == len(json.dumps("plain/a.safetensors"))
        assert blob.etag is not None
        assert blob.etag.startswith('"')
        assert blob.etag.endswith('"')


def test_a_prefix_with_an_index_is_its_index(source: ObjectStoreSource) -> None:
    listing = source.list_blobs(f"s3://{BUCKET}/indexed")
    assert listing.blobs == ()
    assert listing.index is not None
    assert listing.index.uri == f"s3://{BUCKET}/indexed/model.safetensors.index.json"


@pytest.mark.parametrize("uri", ["indexed", "indexed/model.safetensors.index.json"])
def test_shards_that_an_index_names_cost_no_request_each(source: ObjectStoreSource, uri: str) -> None:
    listing = source.list_blobs(f"s3://{BUCKET}/{uri}")
    before = source._reads._client.statistics().requests
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors") * 8
    with ThreadPoolExecutor(8) as pool:
        shards = list(pool.map(lambda name: source.find_blob(listing, name), names))
    assert {shard.uri for shard in shards} == {f"s3://{BUCKET}/indexed/{name}" for name in names}
    assert all(shard.size and shard.etag for shard in shards)
    assert source._reads._client.statistics().requests == before


def test_an_index_may_name_shards_in_folders_below_it(source: ObjectStoreSource) -> None:
    listing = source.list_blobs(f"s3://{BUCKET}/parts")
    assert source.find_blob(listing, "part/one.safetensors").uri == f"s3://{BUCKET}/parts/part/one.safetensors"


def test_a_shard_that_is_missing_is_named_with_its_neighbours(source: ObjectStoreSource) -> None:
    listing = source.list_blobs(f"s3://{BUCKET}/indexed")
    with pytest.raises(BlobNotFoundError, match=r"model-00003-of-00002.*model-00002-of-00002"):
        source.find_blob(listing, "model-00003-of-00002.safetensors")


def test_several_indexes_are_an_error_that_names_them(source: ObjectStoreSource) -> None:
    with pytest.raises(UsageError, match=r"x\.safetensors\.index\.json, y\.safetensors\.index\.json"):
        source.list_blobs(f"s3://{BUCKET}/both")


def test_the_usual_index_comes_first(source: ObjectStoreSource) -> None:
    listing = source.list_blobs(f"s3://{BUCKET}/preferred")
    assert listing.index is not None
    assert listing.index.uri.endswith("/model.safetensors.index.json")


@pytest.mark.parametrize("key", ["plain/a.safetensors", "weights"])
def test_a_blob_by_its_name(source: ObjectStoreSource, key: str) -> None:
    (blob,) = source.list_blobs(f"s3://{BUCKET}/{key}").blobs
    assert (blob.uri, blob.size) == (f"s3://{BUCKET}/{key}", len(json.dumps(key)))
    assert source.read_range(blob, 0, 5) == json.dumps(key).encode()[:5]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("plain/*.safetensors", ["plain/a.safetensors", "plain/b.safetensors"]),
        ("plain/[b-z].safetensors", ["plain/b.safetensors"]),
        ("plain/[!b].safetensors", ["plain/a.safetensors"]),
        ("plain/?.*", ["plain/a.safetensors", "plain/b.safetensors"]),
        ("plain/c*", ["plain/config.json"]),
        ("pl*/*", ["plain/a.safetensors", "plain/b.safetensors"]),
        ("plain/**/*.safetensors", ["plain/a.safetensors", "plain/b.safetensors", "plain/deeper/c.safetensors"]),
        ("odd/a[1].safetensors", ["odd/a[1].safetensors"]),
    ],
)
def test_globs(source: ObjectStoreSource, pattern: str, found: list[str]) -> None:
    assert uris(source, f"s3://{BUCKET}/{pattern}") == found


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("plane", "neither an object nor a prefix of any; there is plain/"),
        ("plain/aa.safetensors", "it does not exist.*there is a.safetensors"),
        ("none", r"has no \*\.safetensors object; it holds readme\.md"),
        ("plain/*.bin", "nothing matches"),
        ("zzz/zzz/", "neither an object nor a prefix"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(source: ObjectStoreSource, uri: str, says: str) -> None:
    with pytest.raises(BlobNotFoundError, match=says):
        source.list_blobs(f"s3://{BUCKET}/{uri}")


@pytest.mark.parametrize("uri", ["s3://pages/many", "s3://pages/**/*.safetensors"])
def test_listings_of_more_than_one_page(uri: str) -> None:
    names = [f"many/{number:05}.safetensors" for number in range(2001)]

    def answer(method: str, path: str) -> Said:
        query = parse_qs(urlsplit(path).query)
        start = int(query.get("continuation-token", ["0"])[0])
        end = start + 1000
        return Said(200, s3_page(names[start:end], str(end) if end < len(names) else None))

    with ScriptedServer(answer) as server:
        source = open_source("s3", {"anon": True, "endpoint": server.url})
        blobs = source.list_blobs(uri).blobs
    assert [blob.uri for blob in blobs] == [f"s3://pages/{name}" for name in names]
    assert len(server.requests) == 3


def test_a_user_who_may_read_but_not_list_can_load_by_an_index(server: SeaweedFS) -> None:
    def answer(method: str, path: str) -> Said:
        if "list-type" in path:
            return Said(403, s3_refusal("AccessDenied", "Access Denied"))
        return Said(206, b"{}", {"ETag": '"e"', "Content-Range": "bytes 0-1/2"})

    with ScriptedServer(answer) as scripted:
        source = open_source("s3", {"key": "AK", "secret": "SK", "endpoint": scripted.url})
        listing = source.list_blobs("s3://b/m/model.safetensors.index.json")
        blob = source.find_blob(listing, "one.safetensors")
    assert (blob.uri, blob.size, blob.etag) == ("s3://b/m/one.safetensors", 2, '"e"')


@pytest.mark.parametrize("form", ["option", "variable"])
def test_listings_go_through_a_proxy(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(Said(200, s3_page(["m/x.safetensors"], None))) as proxy:
        options = {"anon": True, "endpoint": "http://storage.invalid"}
        if form == "option":
            options["proxy"] = proxy.url
        else:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
        (blob,) = open_source("s3", options).list_blobs("s3://b/m/").blobs
        assert proxy.requests[0][1].startswith("http://storage.invalid/b?")
    assert blob.uri == "s3://b/m/x.safetensors"


def test_headers_of_the_options_go_with_listings() -> None:
    with ScriptedServer(Said(200, s3_page(["m/x.safetensors"], None))) as server:
        options = {"anon": True, "endpoint": server.url, "headers": {"X-Team": "research"}}
        open_source("s3", options).list_blobs("s3://b/m/")
        assert {name.lower(): value for name, value in server.headers.items()}["x-team"] == "research"
