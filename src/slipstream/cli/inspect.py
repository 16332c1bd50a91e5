"""`slipstream inspect`: what a checkpoint holds, from its headers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping

from rich.table import Table

import slipstream
from slipstream.cli import arguments
from slipstream.cli.text import (
    add_row,
    counted,
    format_bytes,
    format_shape,
    make_facts,
    make_table,
    output,
    printable,
    short_names,
)
from slipstream.types import Checkpoint, TensorInfo

_MOST_ENTRIES = 24


def inspect(
    uris: arguments.Uris,
    storage_option: arguments.StorageOption = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> None:
    """List a checkpoint's tensors, dtypes, files and metadata. Reads headers only."""
    storage_options = arguments.read_storage_options(storage_option)
    checkpoint = slipstream.inspect(arguments.one_or_many(uris), storage_options=storage_options)
    if as_json:
        print(json.dumps(_as_json(checkpoint)))
        return
    for line in _tensor_lines(checkpoint.tensors):
        print(line)
    console = output()
    for table in (_dtype_table(checkpoint), _blob_table(checkpoint), _metadata_table(checkpoint)):
        if table is not None:
            console.print()
            console.print(table)


def _tensor_lines(tensors: Iterable[TensorInfo]) -> Iterable[str]:
    """One line per tensor, in columns. Not a rich table: a checkpoint may have 100,000 of them, and pipes want lines.

    The name stands last, so that a long one breaks no column.
    """
    rows = [("dtype", "size", "shape", "tensor")]
    rows += [(str(t.dtype), format_bytes(t.nbytes), format_shape(t.shape), printable(t.name)) for t in tensors]
    first, second, third = (max(len(row[column]) for row in rows) for column in range(3))
    for dtype, size, shape, name in rows:
        yield f"{dtype:<{first}}  {size:>{second}}  {shape:<{third}}  {name}"


def _dtype_table(checkpoint: Checkpoint) -> Table:
    tensors: Counter[str] = Counter()
    elements: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    for tensor in checkpoint.tensors:
        tensors[tensor.dtype] += 1
        elements[tensor.dtype] += tensor.elements
        nbytes[tensor.dtype] += tensor.nbytes
    table = make_table("dtype", "tensors", "elements", "size", right=["tensors", "elements", "size"])
    for dtype, size in nbytes.most_common():
        add_row(table, str(dtype), f"{tensors[dtype]:,}", f"{elements[dtype]:,}", format_bytes(size))
    if len(nbytes) != 1:
        total = (f"{tensors.total():,}", f"{elements.total():,}", format_bytes(checkpoint.nbytes))
        add_row(table, "all", *total)
    return table


def _blob_table(checkpoint: Checkpoint) -> Table:
    counts = Counter(tensor.blob for tensor in checkpoint.tensors)
    table = make_table("file", "size", "tensors", right=["size", "tensors"], wrap=["file"])
    names = short_names([blob.uri for blob in checkpoint.blobs])
    for number, (name, blob) in enumerate(zip(names, checkpoint.blobs, strict=True)):
        add_row(table, name, format_bytes(blob.size), f"{counts[number]:,}")
    if len(checkpoint.blobs) != 1:
        size = sum(blob.size for blob in checkpoint.blobs)
        add_row(table, counted(len(checkpoint.blobs), "file"), format_bytes(size), f"{len(checkpoint.tensors):,}")
    return table


def _metadata_table(checkpoint: Checkpoint) -> Table | None:
    """Each entry once, though every shard may repeat it."""
    entries = dict.fromkeys((key, value) for entry in checkpoint.metadata for key, value in entry.items())
    if not entries:
        return None
    shown = [(f"metadata {printable(key, longest=60)}", printable(value)) for key, value in entries]
    if len(shown) > _MOST_ENTRIES:
        shown[_MOST_ENTRIES:] = [("metadata", f"and {len(shown) - _MOST_ENTRIES} more; --json lists all")]
    return make_facts(shown)


def _as_json(checkpoint: Checkpoint) -> Mapping[str, object]:
    dtypes: dict[str, dict[str, int]] = {}
    for tensor in checkpoint.tensors:
        totals = dtypes.setdefault(str(tensor.dtype), {"tensors": 0, "elements": 0, "bytes": 0})
        totals["tensors"] += 1
        totals["elements"] += tensor.elements
        totals["bytes"] += tensor.nbytes
    return {
        "bytes": checkpoint.nbytes,
        "dtypes": dtypes,
        "files": [
            {"uri": blob.uri, "bytes": blob.size, "etag": blob.etag, "metadata": dict(metadata)}
            for blob, metadata in zip(checkpoint.blobs, checkpoint.metadata, strict=True)
        ],
        "tensors": [
            {
                "name": tensor.name,
                "dtype": str(tensor.dtype),
                "shape": list(tensor.shape),
                "bytes": tensor.nbytes,
                "uri": checkpoint.blobs[tensor.blob].uri,
                "start": tensor.start,
                "end": tensor.end,
            }
            for tensor in checkpoint.tensors
        ],
    }
