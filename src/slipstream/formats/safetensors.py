"""The header of a safetensors blob: which tensors lie where in it.

    0        8                       header_end                        blob.size
    | length | JSON header, `length` | tensor data, contiguous         |
    | u64 LE | bytes                 | header offsets count from here  |

`parse_header_end` reads the first field, `parse_header` the second. What is accepted is what the reference
accepts (`SafeTensors::read_metadata` in safetensors 0.8.0, safetensors/src/tensor.rs; 0.9rc1 does the same), with
one exception: a tensor name that occurs twice is refused. The reference keeps the last of the two silently.

Nearly every header has the same plain form, so it is tried first, all tensors in one loop; the first oddity
sends the whole header through `entries` and `layout`, which know every form and find the words for every error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, cast

from slipstream.errors import FormatError
from slipstream.formats.collector_pause import collector_paused
from slipstream.formats.entries import FIELDS, EntryError, read_dtype, read_entry, read_metadata, read_shape
from slipstream.formats.layout import check_layout, tensor_bits
from slipstream.formats.strict_json import (
    Json,
    JsonError,
    JsonObject,
    decode,
    decode_plain,
    find_key,
)
from slipstream.formats.wording import refusal
from slipstream.types import Blob, Dtype, TensorInfo

HEADER_GUESS_BYTES = 96 * 1024
"""How much of a blob to read before its header's length is known. About 110 bytes describe a tensor, so this holds the
headers of blobs of up to 900 tensors (a shard of a large model has some hundreds) and saves them a second round trip.
A new TCP connection brings this much in three round trips, and 256 KiB in five; 64 headers of 256 KiB took a tenth
more processor time of the client."""

MAX_HEADER_BYTES = 100_000_000
"""The longest header, as in the reference (`MAX_HEADER_SIZE`)."""

_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_POSITION = itemgetter(4, 5)  # start and end of a TensorInfo
_LOOKALIKES = (
    (b"version ", "it is the pointer file of Git LFS, not the file itself", "Run `git lfs pull`."),
    (b"PK\x03\x04", "it is a zip archive, probably a PyTorch checkpoint", "Convert it to safetensors."),
    (b"\x80\x02", "it is a Python pickle, probably a PyTorch checkpoint", "Convert it to safetensors."),
    (b"GGUF", "it is a GGUF file", "Convert it to safetensors."),
    (b"<", "it is a web page or XML, probably a server's error message", "Look into it, and download it again."),
    (b"{", "it is JSON", "Pass the model's directory or its *.safetensors files."),
)


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of one blob says.

    Attributes:
        tensors: sorted by where they lie, with absolute offsets.
        metadata: its `__metadata__`; empty where it has none.
    """

    tensors: tuple[TensorInfo, ...]
    metadata: Mapping[str, str]


def parse_header_end(prefix: bytes, blob: Blob) -> int:
    """Finds where the header ends and the tensor data begins.

    Args:
        prefix: the first bytes of the blob, at least 8 where it has them.
        blob: says its size, and its name for messages.

    Returns:
        the absolute offset of the first byte of tensor data.

    Raises:
        FormatError: the blob is shorter than 8 bytes or than its header, or the header is longer than
            `MAX_HEADER_BYTES`.
    """
    present = min(len(prefix), blob.size)
    if present < _LENGTH_BYTES:
        problem = f"a safetensors file begins with the 8 bytes of its header's length, this one has {present}"
        raise refusal(blob, problem + ": the download is probably incomplete", offset=0, length=present)
    header_bytes = int.from_bytes(prefix[:_LENGTH_BYTES], "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise _not_a_header(prefix, header_bytes, blob)
    header_end = _LENGTH_BYTES + header_bytes
    if header_end > blob.size:
        problem = f"the file is truncated: the header promises {header_end:,} bytes, the file has {blob.size:,}"
        problem += ": the download is probably incomplete"
        raise refusal(blob, problem, offset=blob.size, length=header_end - blob.size)
    return header_end


def parse_header(header: bytes | memoryview, blob: Blob, blob_number: int) -> Header:
    """Reads a header and checks it against the blob's size.

    90,000 tensors take some tenths of a second, during which Python's cycle collector is paused, for the whole
    process. Safe to call from several threads.

    Args:
        header: the bytes from 8 to `parse_header_end` of the blob. Not kept.
        blob: says its size, and its name for messages.
        blob_number: its position in the checkpoint.

    Returns:
        the tensors with absolute offsets, and the metadata.

    Raises:
        FormatError: the header is not what the reference accepts, or a tensor name occurs twice.
    """
    data = bytes(header)
    with collector_paused():
        try:
            return _parse_plain(data, blob, blob_number) or _parse_any(data, blob, blob_number)
        except JsonError as error:
            problem = f"the header cannot be read: {error.reason}"
            raise refusal(blob, problem, offset=_LENGTH_BYTES + error.offset) from error


def _parse_plain(data: bytes, blob: Blob, blob_number: int) -> Header | None:
    """The header if it has the plain form and nothing is wrong with it; else None, and `_parse_any` says what."""
    document = decode_plain(data)
    if type(document) is not tuple:
        return None
    table = dict(document)
    if len(table) != len(document):
        return None
    data_start = _LENGTH_BYTES + len(data)
    try:
        metadata = read_metadata(table.pop(_METADATA, None))
        tensors = _plain_tensors(table, data_start, blob_number)
    except (KeyError, TypeError, ValueError):
        return None
    starts = [tensor.start for tensor in tensors] + [blob.size]
    ends = [data_start] + [tensor.end for tensor in tensors]
    return Header(tuple(tensors), metadata) if starts == ends else None


def _plain_tensors(table: Mapping[str, Json], data_start: int, blob_number: int) -> list[TensorInfo]:
    """The tensors, sorted by position. A KeyError, TypeError or ValueError where one is not plain or not right.

    One loop of few bytecodes, because it runs up to a hundred thousand times. Models repeat a handful of shapes,
    so each is checked once, with its dtype. Equal keys mean equal shapes: the plain decoder gives no True and no
    1.0 that would equal 1, and only an empty list may stand for the shape of a scalar.
    """
    tensors: list[TensorInfo] = []
    known: dict[tuple[object, ...], tuple[Dtype, tuple[int, ...], int]] = {}
    for name, entry in cast("Mapping[str, Any]", table).items():
        (first, dtype), (second, shape), (third, offsets) = entry
        if not (first == "dtype" and second == "shape" and third == "data_offsets"):
            dtype, shape, offsets = map(dict(entry).__getitem__, FIELDS)
        key = (dtype, *shape)
        checked = known.get(key)
        if checked is None:
            checked = known[key] = _check_shape(dtype, shape)
        begin, end = offsets
        if type(entry) is not tuple or type(shape) is not list or end - begin != checked[2]:
            raise ValueError("another form or size")
        tensors.append(TensorInfo(name, checked[0], checked[1], blob_number, data_start + begin, data_start + end))
    tensors.sort(key=_POSITION)
    return tensors


def _check_shape(dtype: Json, shape: Json) -> tuple[Dtype, tuple[int, ...], int]:
    """Both as values, and the bytes of a tensor of them; a ValueError if they are wrong."""
    known_dtype, known_shape = read_dtype(dtype), read_shape(shape)
    bits = tensor_bits(known_dtype, known_shape)
    if bits is None or bits % 8:
        raise ValueError("no whole number of bytes")
    return known_dtype, known_shape, bits // 8


def _parse_any(data: bytes, blob: Blob, blob_number: int) -> Header:
    """The header in any form the reference takes, or the error that says what is wrong with it."""
    document = decode(data)
    if not isinstance(document, tuple):
        raise refusal(blob, "the header is no JSON object", offset=_LENGTH_BYTES)
    _check_names(document, data, blob)
    data_start = _LENGTH_BYTES + len(data)
    metadata: Mapping[str, str] = {}
    tensors: list[TensorInfo] = []
    for name, value in document:
        try:
            if name == _METADATA:
                metadata = read_metadata(value)
            else:
                dtype, shape, begin, end = read_entry(value)
                tensors.append(TensorInfo(name, dtype, shape, blob_number, data_start + begin, data_start + end))
        except EntryError as error:
            offset = _LENGTH_BYTES + find_key(data, name)
            tensor = None if name == _METADATA else name
            raise refusal(blob, str(error), offset=offset, tensor=tensor) from error
    tensors.sort(key=_POSITION)
    check_layout(tensors, data_start, blob)
    return Header(tuple(tensors), metadata)


def _check_names(document: JsonObject, data: bytes, blob: Blob) -> None:
    seen: set[str] = set()
    for name, _ in document:
        if name in seen:
            offset = _LENGTH_BYTES + find_key(data, name, occurrence=2)
            tensor = None if name == _METADATA else name
            what = "the header has __metadata__ twice" if tensor is None else "the header describes it twice"
            raise refusal(blob, what, offset=offset, tensor=tensor)
        seen.add(name)


def _not_a_header(prefix: bytes, header_bytes: int, blob: Blob) -> FormatError:
    """The error for a length that no header has: usually the file is something else."""
    for signature, what, step in _LOOKALIKES:
        if prefix.startswith(signature):
            return refusal(blob, f"not a safetensors file: {what}", step=step, offset=0)
    problem = f"the header's length is {header_bytes:,} bytes, more than the {MAX_HEADER_BYTES:,} allowed"
    return refusal(blob, problem + ": probably not a safetensors file", offset=0, length=header_bytes)
