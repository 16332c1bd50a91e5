"""One entry of a safetensors header, in every form the reference's deserializer takes.

    "name": {"dtype": "BF16", "shape": [32, 64], "data_offsets": [0, 4096]}      the form everybody writes
    "name": ["BF16", [32, 64], [0, 4096]]                                        serde: a struct from a sequence
    "name": {"dtype": {"BF16": null}, ...}                                       serde: a variant from a map

Unknown fields are ignored; they may repeat, the known ones may not. Source: the derived `Deserialize` of
`TensorInfo` and `Dtype` in safetensors/src/tensor.rs, and serde's rules for structs and enums.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from slipstream.formats.strict_json import Json
from slipstream.formats.wording import plural, quoted
from slipstream.types import Dtype

FIELDS = ("dtype", "shape", "data_offsets")

_U64_LIMIT = 2**64


class Entry(NamedTuple):
    """What a header says of one tensor. `begin` and `end` count from the end of the header."""

    dtype: Dtype
    shape: tuple[int, ...]
    begin: int
    end: int


class EntryError(ValueError):
    """An entry that the reference refuses. Its text says what is wrong, for a message to complete."""


def read_entry(value: Json) -> Entry:
    """Reads what the header holds under a tensor's name.

    Raises:
        EntryError: a field is missing, repeated or of the wrong kind.
    """
    if isinstance(value, list):
        if len(value) != len(FIELDS):
            raise EntryError(f"its entry is an array of {len(value):,} instead of {', '.join(FIELDS)}")
        dtype, shape, offsets = value
    elif isinstance(value, tuple):
        dtype, shape, offsets = _known_fields(value)
    else:
        raise EntryError(f"its entry is {_kind(value)} instead of an object with {', '.join(FIELDS)}")
    begin, end = _read_offsets(offsets)
    return Entry(read_dtype(dtype), read_shape(shape), begin, end)


def read_metadata(value: Json) -> Mapping[str, str]:
    """Reads `__metadata__`: null or a map of strings, where the last of equal keys wins.

    Raises:
        EntryError: it is something else.
    """
    if value is None:
        return {}
    if not isinstance(value, tuple):
        raise EntryError(f"__metadata__ is {_kind(value)} instead of an object")
    metadata: dict[str, str] = {}
    for key, text in value:
        if not isinstance(text, str):
            raise EntryError(f"__metadata__ has {_kind(text)} under {quoted(key)} instead of a string")
        metadata[key] = text
    return metadata


def _known_fields(pairs: tuple[tuple[str, Json], ...]) -> tuple[Json, Json, Json]:
    found: dict[str, Json] = {}
    for field, value in pairs:
        if field in found:
            raise EntryError(f"its entry has {field} twice")
        if field in FIELDS:
            found[field] = value
    for field in FIELDS:
        if field not in found:
            raise EntryError(f"its entry lacks {field}")
    return found["dtype"], found["shape"], found["data_offsets"]


def read_dtype(value: Json) -> Dtype:
    name = value[0][0] if isinstance(value, tuple) and len(value) == 1 and value[0][1] is None else value
    if not isinstance(name, str):
        raise EntryError(f"its dtype is {_kind(name)} instead of a string")
    try:
        return Dtype(name)
    except ValueError:
        raise EntryError(f"its dtype {quoted(name)} is unknown; known are {', '.join(Dtype)}") from None


def read_shape(value: Json) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise EntryError(f"its shape is {_kind(value)} instead of an array")
    return tuple(_read_u64(number, "shape") for number in value)


def _read_offsets(value: Json) -> tuple[int, int]:
    if not isinstance(value, list):
        raise EntryError(f"its data_offsets are {_kind(value)} instead of an array of 2")
    if len(value) != 2:
        raise EntryError(f"its data_offsets are {plural(len(value), 'number')} instead of 2")
    return _read_u64(value[0], "data_offsets"), _read_u64(value[1], "data_offsets")


def _read_u64(value: Json, field: str) -> int:
    if type(value) is not int:  # a bool is an int to Python, and not to the format
        raise EntryError(f"its {field} holds {_kind(value)} instead of a whole number")
    if not 0 <= value < _U64_LIMIT:
        raise EntryError(f"its {field} holds {quoted(value)}, which is not from 0 to 2^64-1")
    return value


def _kind(value: Json) -> str:
    """Names a JSON value in words, with its text where that is short."""
    if isinstance(value, tuple):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, str):
        return f"the string {quoted(value)}"
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return f"the number {quoted(value)}"
