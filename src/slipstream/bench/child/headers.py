"""What a safetensors file says of its tensors, read as the format says and by no loader.

8 bytes, little-endian: the length N of the header
N bytes: JSON, {name: {"dtype": ..., "shape": [...], "data_offsets": [start, end]}, "__metadata__": {...}}
the tensors' bytes; offsets count from here
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """One tensor; its offsets count from the beginning of the file."""

    name: str
    dtype: str
    shape: list[int]
    start: int
    end: int


def read_entries(path: str) -> list[Entry]:
    """The tensors of a file, in the order of their bytes.

    Raises:
        ValueError: it is no safetensors file.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            raise ValueError(f"{path} is no safetensors file: its header would be {length:,} bytes of {size:,}")
        return parse_entries(file.read(length), size)


def entries_of(file: Any) -> list[Entry]:
    """The tensors of a file that is in memory, as an array of uint8."""
    length = int.from_bytes(file[:8].tobytes(), "little")
    return parse_entries(file[8 : 8 + length].tobytes(), len(file))


def parse_entries(header: bytes, file_bytes: int) -> list[Entry]:
    """The tensors of a header, in the order of their bytes.

    Raises:
        ValueError: it is malformed, or goes beyond the file.
    """
    try:
        entries = sorted(_entries(json.loads(header), 8 + len(header)), key=lambda entry: (entry.start, entry.end))
    except (KeyError, TypeError) as error:
        raise ValueError(f"the header is malformed: {error}") from error
    if entries and (entries[0].start < 8 + len(header) or max(entry.end for entry in entries) > file_bytes):
        raise ValueError(f"the header speaks of more than the file's {file_bytes:,} bytes")
    return entries


def _entries(header: Any, begin: int) -> Iterator[Entry]:
    for name, facts in header.items():
        if name != "__metadata__":
            start, end = facts["data_offsets"]
            yield Entry(name, facts["dtype"], [int(size) for size in facts["shape"]], begin + start, begin + end)
