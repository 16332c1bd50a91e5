"""Stage two, describe: reads the indexes and headers, many at once, and makes one Checkpoint of them."""

from __future__ import annotations

from collections.abc import Sequence

from slipstream.formats.checkpoint import build_checkpoint, check_index
from slipstream.formats.safetensors import HEADER_GUESS_BYTES, Header, parse_header, parse_header_end
from slipstream.formats.shard_index import MAX_INDEX_BYTES, ShardIndex, parse_shard_index
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
    indexes: list[tuple[Blob, ShardIndex, dict[str, int]]] = []
    for listing in listings:
        for blob in listing.blobs:
            blobs.setdefault(blob, len(blobs))
        if listing.index is not None:
            index = _read_index(listing.index)
            shards = {name: find_source(listing.index.uri).find_blob(listing, name) for name in index.shards}
            numbers = {name: blobs.setdefault(blob, len(blobs)) for name, blob in shards.items()}
            indexes.append((listing.index, index, numbers))
    checkpoint = build_checkpoint(tuple(blobs), _read_headers(tuple(blobs)))
    for blob, index, numbers in indexes:
        check_index(index, blob.uri, numbers, checkpoint)
    return checkpoint


def _read_index(blob: Blob) -> ShardIndex:
    data = find_source(blob.uri).read_range(blob, 0, min(blob.size, MAX_INDEX_BYTES + 1))
    return parse_shard_index(data, blob.uri)


def _read_headers(blobs: Sequence[Blob]) -> list[Header]:
    if len(blobs) == 1:
        return [_read_header(0, blobs[0])]
    from concurrent.futures import ThreadPoolExecutor  # here, because it costs a tenth of `import slipstream`

    try:
        with ThreadPoolExecutor(min(len(blobs), _HEADERS_AT_ONCE), "slipstream-headers") as pool:
            return list(pool.map(_read_header, range(len(blobs)), blobs))
    except RuntimeError:  # the system allows no further thread
        return [_read_header(number, blob) for number, blob in enumerate(blobs)]


def _read_header(number: int, blob: Blob) -> Header:
    """Reads a header in one request where it is no longer than the guess, else in two."""
    source = find_source(blob.uri)
    data = source.read_range(blob, 0, min(blob.size, HEADER_GUESS_BYTES))
    end = parse_header_end(data, blob)
    if end > len(data):
        data += source.read_range(blob, len(data), end)
    return parse_header(memoryview(data)[8:end], blob, number)
