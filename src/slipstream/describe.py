"""Stage two, describe: reads the indexes and headers, many at once, and makes one Checkpoint of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from slipstream.formats.checkpoint import build_checkpoint, check_index
from slipstream.formats.safetensors import HEADER_GUESS_BYTES, Header, parse_header, parse_header_end
from slipstream.formats.shard_index import MAX_INDEX_BYTES, ShardIndex, parse_shard_index
from slipstream.sources.concurrently import map_concurrently
from slipstream.sources.registry import Sources
from slipstream.types import Blob, Checkpoint, Listing


def describe_checkpoint(listings: Sequence[Listing], sources: Sources) -> Checkpoint:
    """Describes all tensors of all listings from indexes and headers alone.

    Headers are small, so their cost is round trips, of network file systems and of stores: all are read at once.

    Raises:
        FormatError: of a header or an index; ShardIndexError where shards and index do not agree.
        BlobNotFoundError: a shard that an index names is missing.
        ReadError: the storage failed.
    """
    blobs: dict[Blob, int] = {}
    indexes: list[tuple[Blob, ShardIndex, dict[str, int]]] = []
    for listing in listings:
        for blob in listing.blobs:
            blobs.setdefault(blob, len(blobs))
        if listing.index is not None:
            index = read_index(listing.index, sources)
            shards = find_shards(listing, index, sources)
            numbers = {name: blobs.setdefault(blob, len(blobs)) for name, blob in shards.items()}
            indexes.append((listing.index, index, numbers))
    headers = map_concurrently(partial(_read_header, sources), list(enumerate(blobs)), sources.close)
    checkpoint = build_checkpoint(tuple(blobs), headers)
    for blob, index, numbers in indexes:
        check_index(index, blob.uri, numbers, checkpoint)
    return checkpoint


def find_shards(listing: Listing, index: ShardIndex, sources: Sources) -> dict[str, Blob]:
    """The blobs that an index names, by their names; all are looked for at once."""
    assert listing.index is not None, "only an index names shards"
    find_blob = partial(sources.find(listing.index.uri).find_blob, listing)
    return dict(zip(index.shards, map_concurrently(find_blob, index.shards, sources.close), strict=True))


def read_index(blob: Blob, sources: Sources) -> ShardIndex:
    """Reads a shard index, of which no more than is allowed."""
    data = sources.find(blob.uri).read_range(blob, 0, min(blob.size, MAX_INDEX_BYTES + 1))
    return parse_shard_index(data, blob.uri)


def _read_header(sources: Sources, numbered: tuple[int, Blob]) -> Header:
    """Reads a header in one request where it is no longer than the guess, else in two."""
    number, blob = numbered
    source = sources.find(blob.uri)
    data = source.read_range(blob, 0, min(blob.size, HEADER_GUESS_BYTES))
    end = parse_header_end(data, blob)
    if end > len(data):
        data += source.read_range(blob, len(data), end)
    return parse_header(memoryview(data)[8:end], blob, number)
