"""Joins the headers of all blobs into one Checkpoint, and checks it against the shard index, if there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from slipstream.errors import FormatError, ShardIndexError
from slipstream.formats.safetensors import Header
from slipstream.formats.shard_index import ShardIndex
from slipstream.formats.wording import quoted
from slipstream.types import Blob, Checkpoint, TensorInfo


def build_checkpoint(blobs: Sequence[Blob], headers: Sequence[Header]) -> Checkpoint:
    """Makes one checkpoint of all blobs.

    Args:
        blobs: in the order in which they were located.
        headers: beside `blobs`; the tensors of the n-th have `blob` n.

    Raises:
        FormatError: two blobs have a tensor of the same name.
    """
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    checkpoint = Checkpoint(tuple(blobs), tensors, tuple(header.metadata for header in headers))
    if len(checkpoint.by_name) != len(tensors):
        raise _repeated_tensor(blobs, tensors)
    return checkpoint


def _repeated_tensor(blobs: Sequence[Blob], tensors: Sequence[TensorInfo]) -> FormatError:
    seen: dict[str, TensorInfo] = {}
    for tensor in tensors:
        first = seen.setdefault(tensor.name, tensor)
        if first is not tensor:
            break
    return FormatError(
        f"tensor {quoted(tensor.name)} is in two files: {blobs[first.blob].uri} at byte {first.start:,} and"
        f" {blobs[tensor.blob].uri} at byte {tensor.start:,}. Name only files of one checkpoint, each once; a"
        " directory may hold a second copy, such as a consolidated file beside its shards.",
        uri=blobs[tensor.blob].uri,
        offset=tensor.start,
        length=tensor.nbytes,
        tensor=tensor.name,
    )


def check_index(index: ShardIndex, index_uri: str, shards: Mapping[str, int], checkpoint: Checkpoint) -> None:
    """Checks that every tensor of the index is where the index says.

    Not the reverse: tensors that shards have and the index lacks are kept. The usual loaders (transformers, vLLM,
    safetensors' own `load_file` on each shard) open the shards that an index names and take all they find, so
    such checkpoints are in use and load.

    Args:
        index: what it says.
        index_uri: its name, for messages.
        shards: the number of the blob that each shard name stands for.
        checkpoint: what is there.

    Raises:
        ShardIndexError: a tensor of the index is not in the shard that the index names.
    """
    by_name = checkpoint.by_name
    for name, shard in index.weight_map.items():
        tensor = by_name.get(name)
        if tensor is None or tensor.blob != shards.get(shard):
            raise _misplaced_tensor(name, shard, tensor, index_uri, checkpoint.blobs)


def _misplaced_tensor(
    name: str, shard: str, tensor: TensorInfo | None, index_uri: str, blobs: Sequence[Blob]
) -> ShardIndexError:
    found = "no file has it" if tensor is None else f"it is in {blobs[tensor.blob].uri}"
    return ShardIndexError(
        f"{index_uri}: the index says that tensor {quoted(name)} is in the shard {quoted(shard)}, but {found}. The"
        " index and the shards are of different versions, or a download is incomplete: download all of them again.",
        uri=index_uri,
        tensor=name,
    )
