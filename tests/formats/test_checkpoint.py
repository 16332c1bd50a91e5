"""Joining blobs into a checkpoint."""

from __future__ import annotations

import pytest

from slipstream.errors import FormatError, ShardIndexError
from slipstream.formats.checkpoint import build_checkpoint, check_index
from slipstream.formats.safetensors import Header
from slipstream.formats.shard_index import ShardIndex
from slipstream.types import Blob
from tests.formats.builders import describe, make_file, parse_file

INDEX_URI = "dir/model.safetensors.index.json"
SHARDS = ("1.safetensors", "2.safetensors")


def make_blobs(*names_of_blobs: tuple[str, ...]) -> tuple[list[Blob], list[Header]]:
    """A blob for each group of names, called dir/1.safetensors and so on, with one tensor of a byte per name."""
    blobs, headers = [], []
    for number, names in enumerate(names_of_blobs):
        entries: dict[str, object] = {name: describe(begin=i, end=i + 1) for i, name in enumerate(names)}
        content = make_file({"__metadata__": {"n": str(number)}, **entries}, b"x" * len(names))
        blobs.append(Blob(f"dir/{number + 1}.safetensors", len(content)))
        headers.append(parse_file(content, blobs[-1].uri, number))
    return blobs, headers


def number_shards(*names: str) -> dict[str, int]:
    """The shard names of an index, for blobs in this order."""
    return {name: number for number, name in enumerate(names)}


def test_joined_in_order() -> None:
    """Tensors come in blob order, each blob's metadata beside it."""
    blobs, headers = make_blobs(("b", "a"), (), ("c",))
    checkpoint = build_checkpoint(blobs, headers)
    assert [(tensor.name, tensor.blob) for tensor in checkpoint.tensors] == [("b", 0), ("a", 0), ("c", 2)]
    assert checkpoint.blobs == tuple(blobs)
    assert checkpoint.metadata == ({"n": "0"}, {"n": "1"}, {"n": "2"})


def test_nothing_to_join() -> None:
    """No blobs make an empty checkpoint."""
    assert build_checkpoint([], []).tensors == ()


def test_tensor_in_two_blobs() -> None:
    """A tensor in two blobs is refused, and both are named."""
    blobs, headers = make_blobs(("a", "b"), ("c", "b"))
    with pytest.raises(
        FormatError, match=r"tensor 'b' is in two files: dir/1.safetensors .* and dir/2.safetensors"
    ) as caught:
        build_checkpoint(blobs, headers)
    assert (caught.value.tensor, caught.value.uri) == ("b", "dir/2.safetensors")
    assert caught.value.offset == headers[1].tensors[1].start


def test_index_agrees() -> None:
    """With an index that agrees, tensors it lacks are kept."""
    blobs, headers = make_blobs(("a", "extra"), ("b",))
    index = ShardIndex({"a": SHARDS[0], "b": SHARDS[1]}, {})
    checkpoint = build_checkpoint(blobs, headers)
    check_index(index, INDEX_URI, number_shards(*SHARDS), checkpoint)
    assert {tensor.name for tensor in checkpoint.tensors} == {"a", "b", "extra"}


def test_shard_order_is_the_callers() -> None:
    """Shards are matched by name, not by the order in which the index names them."""
    blobs, headers = make_blobs(("a",), ("b",))
    index = ShardIndex({"b": "x", "a": "y"}, {})
    check_index(index, INDEX_URI, number_shards("y", "x"), build_checkpoint(blobs, headers))
    with pytest.raises(ShardIndexError):
        check_index(index, INDEX_URI, number_shards("x", "y"), build_checkpoint(blobs, headers))


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        ({"a": SHARDS[1]}, r"tensor 'a' is in the shard '2.safetensors', but it is in dir/1.safetensors"),
        ({"z": SHARDS[1]}, r"tensor 'z' is in the shard '2.safetensors', but no file has it"),
        ({"a": "3.safetensors"}, r"tensor 'a' is in the shard '3.safetensors', but it is in dir/1.safetensors"),
        ({"z": "3.safetensors"}, r"tensor 'z' is in the shard '3.safetensors', but no file has it"),
    ],
)
def test_index_disagrees(weight_map: dict[str, str], words: str) -> None:
    """A tensor that is not where the index says is refused: expected shard, and where it was found."""
    blobs, headers = make_blobs(("a",), ("b",))
    with pytest.raises(ShardIndexError, match=words) as caught:
        check_index(ShardIndex(weight_map, {}), INDEX_URI, number_shards(*SHARDS), build_checkpoint(blobs, headers))
    assert (caught.value.uri, caught.value.tensor) == (INDEX_URI, next(iter(weight_map)))
