"""Files that are no whole safetensors files, each in its way, and some odd ones that are."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def entry(begin: int, end: int, dtype: str = "U8", shape: list[int] | None = None) -> dict[str, Any]:
    """A tensor's entry in a header: a vector of bytes, unless something else is said."""
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def encode(header: Mapping[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A file of this header, exactly as it is given, and data; `length` in place of the true length of the header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


BROKEN = {
    "header too large": encode(b"{}", length=(100 << 20) + 1),
    "no JSON": encode(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]'),
    "no UTF-8": encode(b'{"\xff": 1}'),
    "no object": encode(b"[1, 2]"),
    "shape and offsets disagree": encode({"a": entry(0, 4, "F32", [10])}, bytes(4)),
    "overlap": encode({"a": entry(0, 10), "b": entry(5, 15)}, bytes(15)),
    "gap": encode({"a": entry(0, 10), "b": entry(20, 30)}, bytes(30)),
    "gap at the beginning": encode({"a": entry(10, 20)}, bytes(20)),
    "unknown dtype": encode({"a": entry(0, 4, "ALIEN", [1])}, bytes(4)),
    "ends in the length": b"\x10\0\0",
    "ends in the header": encode(b"short", length=100),
    "ends in the data": encode({"a": entry(0, 100)}, bytes(10)),
    "goes on behind the data": encode({"a": entry(0, 10)}, bytes(20)),
    "nothing": b"",
}
"""What both sides refuse, by what is wrong with it."""

ODD = {
    "no tensor": encode({}),
    "metadata alone": encode({"__metadata__": {"format": "pt"}}),
    "unsorted": encode({"b": entry(10, 20), "a": entry(0, 10)}, b"\1" * 10 + b"\2" * 10),
    "empty one after its neighbour": encode(
        {"a": entry(0, 16, "F32", [4]), "b": entry(16, 48, "F32", [8]), "e": entry(16, 16, "F32", [0, 3])}, bytes(48)
    ),
    "misaligned": encode(
        {"a": entry(0, 3), "b": entry(3, 11, "F32", [2]), "c": entry(11, 13, "BF16", [])}, bytes(range(13))
    ),
}
"""What both sides read, by what is odd about it."""


def write_all(contents: Mapping[str, bytes], folder: Path) -> dict[str, Path]:
    """Writes each to a file of its own."""
    folder.mkdir(exist_ok=True)
    paths = {name: folder / f"{name.replace(' ', '-')}.safetensors" for name in contents}
    for name, path in paths.items():
        path.write_bytes(contents[name])
    return paths
