"""Stage two, describe: reads the indexes and headers, many at once, and makes one Checkpoint of them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from slipstream.formats.checkpoint import IndexedShards, build_checkpoint
from slipstream.formats.safetensors import HEADER_GUESS_BYTES, Header, parse_header, parse_header_end
from slipstream.formats.shard_index import MAX_INDEX_BYTES, parse_shard_index
from slipstream.sources.registry import find_source
from slipstream.types import Blob, Checkpoint, Listing

# Headers are small, so their cost is round trips: of network file systems, and of stores.
_HEADERS_AT_ONCE = 32


def describe_checkpoint(listings: Sequence[Listing]) -> Checkpoint:
    """Describes all tensors of all listings from indexes and headers alone.

    Raises:
        FormatError: of a header or an index; ShardIndexError where shards and index do not agree.
        BlobNotFoundError: a shard that an index names is missing.
        ReadError: the storage failed.
    """
    blobs: dict[Blob, int] = {}
    indexes: list[IndexedShards] = []
    for listing in listings:
        found = {blob.uri: blob for blob in listing.blobs}
        if listing.index is not None:
            source = find_source(listing.index.uri)
            data = source.read_range(listing.index, 0, min(listing.index.size, MAX_INDEX_BYTES + 1))
            index = parse_shard_index(data, listing.index.uri)
            found = {name: source.find_blob(listing, name) for name in index.shards}
        numbers = {name: blobs.setdefault(blob, len(blobs)) for name, blob in found.items()}
        if listing.index is not None:
            indexes.append(IndexedShards(listing.index.uri, index.weight_map, numbers))
    return build_checkpoint(tuple(blobs), _read_headers(tuple(blobs)), indexes)


def _read_headers(blobs: Sequence[Blob]) -> list[Header]:
    if len(blobs) == 1:
        return [_read_header(0, blobs[0])]
    with ThreadPoolExecutor(min(len(blobs), _HEADERS_AT_ONCE), "slipstream-headers") as pool:
        return list(pool.map(_read_header, range(len(blobs)), blobs))


def _read_header(number: int, blob: Blob) -> Header:
    """Reads a header in one request where it is no longer than the guess, else in two."""
    source = find_source(blob.uri)
    data = source.read_range(blob, 0, min(blob.size, HEADER_GUESS_BYTES))
    end = parse_header_end(data, blob)
    if end > len(data):
        data += source.read_range(blob, len(data), end)
    return parse_header(memoryview(data)[8:end], blob, number)
