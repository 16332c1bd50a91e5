"""A plain writer of safetensors files, for any dtype the format has. It shares no code with slipstream's reader.

    8 bytes      little-endian length of the header
    header       JSON, padded with spaces so that the data begins at a multiple of 8
    data         the tensors' bytes, without gaps, in the order of the header

Source: the format section of the README of huggingface/safetensors, and `serialize` in its tensor.rs.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from slipstream.types import Dtype

_LENGTH_BYTES = 8


def tensor_nbytes(dtype: Dtype, shape: Sequence[int]) -> int:
    """How many bytes a tensor takes in a file.

    Raises:
        ValueError: packed elements of 4 or 6 bits that do not fill whole bytes, which the format refuses.
    """
    bits = math.prod(shape) * dtype.bits
    if bits % 8:
        raise ValueError(f"{dtype} in the shape {list(shape)} takes {bits} bits, which are not whole bytes")
    return bits // 8


def encode_header(
    tensors: Iterable[tuple[str, Dtype, Sequence[int]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The first bytes of a file that holds these tensors in this order: length, header, padding."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name, dtype, shape in tensors:
        if name in header:
            raise ValueError(f"the name {name!r} is there twice")
        start, end = end, end + tensor_nbytes(dtype, shape)
        header[name] = {"dtype": str(dtype), "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return struct.pack("<Q", len(text)) + text


def encode_index(weight_map: Mapping[str, str], total_size: int) -> bytes:
    """The content of a `model.safetensors.index.json`.

    Args:
        weight_map: the name of each tensor's file, by the tensor's name.
        total_size: bytes of all tensors.
    """
    index = {"metadata": {"total_size": total_size}, "weight_map": dict(weight_map)}
    return (json.dumps(index, ensure_ascii=False, indent=2) + "\n").encode()


def encode_safetensors(
    tensors: Mapping[str, tuple[Dtype | str, Sequence[int], bytes]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """A whole file as `write_safetensors` writes it."""
    entries = [(name, Dtype(dtype), shape) for name, (dtype, shape, _) in tensors.items()]
    for name, dtype, shape in entries:
        given, needed = len(tensors[name][2]), tensor_nbytes(dtype, shape)
        if given != needed:
            raise ValueError(f"{name!r}: {dtype} in the shape {list(shape)} takes {needed} bytes, not {given}")
    return b"".join([encode_header(entries, metadata), *(data for _, _, data in tensors.values())])


def write_safetensors(
    path: str | Path,
    tensors: Mapping[str, tuple[Dtype | str, Sequence[int], bytes]],
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Writes one file with these tensors, in the mapping's order, and returns its size in bytes.

    Args:
        path: where; an existing file is replaced.
        tensors: by name, the dtype, the shape and the bytes as they shall stand in the file.
        metadata: the `__metadata__` entry; None leaves it out.

    Raises:
        ValueError: bytes that do not agree with dtype and shape.
    """
    return Path(path).write_bytes(encode_safetensors(tensors, metadata))
