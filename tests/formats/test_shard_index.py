"""The shard index: what it says, and the shard names it may not hold."""

from __future__ import annotations

import json

import pytest

from slipstream.errors import FormatError, ShardIndexError
from slipstream.formats import shard_index
from slipstream.formats.shard_index import ShardIndex, parse_shard_index

URI = "dir/model.safetensors.index.json"


def index_of(shard: object) -> bytes:
    return json.dumps({"weight_map": {"a": shard}}).encode()


def test_literal_bytes() -> None:
    """An index gives its weight map, its metadata, and its shards in the order they are first named."""
    data = (
        b'{"metadata":{"total_size":12,"x":{"y":[1]}},'
        b'"weight_map":{"c":"2.safetensors","a":"1.safetensors","b":"2.safetensors"}}\n'
    )
    index = parse_shard_index(data, URI)
    assert index == ShardIndex(
        {"c": "2.safetensors", "a": "1.safetensors", "b": "2.safetensors"}, {"total_size": 12, "x": {"y": [1]}}
    )
    assert index.shards == ("2.safetensors", "1.safetensors")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is blank"),
        (b"{", "not valid JSON"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "nested more than 127 levels"),
        (b'{"weight_map":' + b"9" * 10_000 + b"}", "beyond the range of a double"),
        (b"[]", "it is no JSON object"),
        (b"{}", "it has no weight_map"),
        (b'{"weight_map":null}', "its weight_map is no object"),
        (b'{"weight_map":["a"]}', "its weight_map is no object"),
        (b'{"weight_map":{}}', "its weight_map is empty"),
        (b'{"weight_map":{"a":"1"},"weight_map":{"a":"1"}}', "it has 'weight_map' twice"),
        (b'{"weight_map":{"a":"1","b":"2","a":"1"}}', "it has 'a' twice"),
        (b'{"weight_map":{"a":1}}', "gives 1 for tensor 'a' instead of a shard's name"),
        (b'{"weight_map":{"a":null}}', "gives None for tensor 'a'"),
        (b'{"weight_map":{"a":"1"},"metadata":[]}', "its metadata is no object"),
        (b'{"weight_map":{"a":"\\ud800"}}', "half of a surrogate pair"),
    ],
)
def test_malformed(data: bytes, words: str) -> None:
    """What is wrong with an index is said plainly, with its name and the next step."""
    with pytest.raises(ShardIndexError, match=words) as caught:
        parse_shard_index(data, URI)
    assert isinstance(caught.value, FormatError)
    assert caught.value.uri == URI
    assert str(caught.value).startswith(URI)
    assert "Download the index again" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "//host/share", "../a.safetensors", "a/../../b.safetensors", "a/..", ".."),
        *("..\\a.safetensors", "\\\\host\\share", "a\\b.safetensors", "C:/a.safetensors", "C:a.safetensors"),
        *("s3://other/a.safetensors", "file:///etc/passwd", "http://169.254.169.254/latest", "data:,x"),
        *("", ".", "a/", "a/.", "/", "a.safetensors\0.txt"),
    ],
)
def test_shard_names_that_lead_out(name: str) -> None:
    """A shard name that is no plain path below the index's directory is refused, and the tensor named."""
    with pytest.raises(ShardIndexError, match=r"the shard .* of tensor 'a' (may leave|leaves|names|has)") as caught:
        parse_shard_index(index_of(name), URI)
    assert caught.value.tensor == "a"
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name", ["model-00001-of-00002.safetensors", "unet/model.safetensors", "..a/b..c.safetensors", "\u00e4 b"]
)
def test_shard_names_that_stay(name: str) -> None:
    """Paths below the index's directory are kept as they stand."""
    assert parse_shard_index(index_of(name), URI).shards == (name,)


def test_size_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index above the cap is refused before it is decoded."""
    monkeypatch.setattr(shard_index, "MAX_INDEX_BYTES", 10)
    with pytest.raises(ShardIndexError, match="11 bytes, more than the 10 allowed"):
        parse_shard_index(b"not JSON at", URI)
