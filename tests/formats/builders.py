"""Small safetensors files for the tests of this folder, written by hand rather than by a library."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from slipstream.formats.safetensors import Header, parse_header, parse_header_end
from slipstream.types import Blob

URI = "dir/model.safetensors"

Description = Mapping[str, object]


def describe(dtype: str = "U8", shape: Sequence[int] = (1,), begin: int = 0, end: int = 1) -> Description:
    """One tensor's entry in a header, in its usual form."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def make_file(header: str | bytes | Mapping[str, object], data: bytes = b"", length: int | None = None) -> bytes:
    """A file of this header and data; `length` replaces the true length in its first 8 bytes."""
    if isinstance(header, Mapping):
        header = json.dumps(header, separators=(",", ":"))
    if isinstance(header, str):
        header = header.encode("utf-8", "surrogatepass")
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def parse_file(content: bytes, uri: str = URI, number: int = 0) -> Header:
    """Both steps of the parser, as the library calls them."""
    blob = Blob(uri, len(content))
    header_end = parse_header_end(content[:4096], blob)
    return parse_header(memoryview(content)[8:header_end], blob, number)
