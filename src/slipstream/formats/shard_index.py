"""The index of a sharded checkpoint: `model.safetensors.index.json`, which says in which file each tensor lies.

    {"metadata": {"total_size": 16060522496}, "weight_map": {"lm_head.weight": "model-00004-of-00004.safetensors", ...}}

Shard names become paths and URLs, and the file may be hostile, so a name that could lead out of the index's own
directory is refused here, before anything opens it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from slipstream.errors import ShardIndexError
from slipstream.formats.collector_pause import collector_paused
from slipstream.formats.strict_json import Json, JsonError, JsonObject, decode, find_key
from slipstream.formats.wording import quoted

MAX_INDEX_BYTES = 100_000_000
"""The largest index: as much as a safetensors header may have, and a hundred times the largest index in use."""

_STEP = "Download the index again, or remove it: without an index all *.safetensors files beside it are read."
_SCHEME_OR_DRIVE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass(frozen=True)
class ShardIndex:
    """What an index says.

    Attributes:
        weight_map: tensor name to shard name, a relative path with `/` that stays in the index's directory.
        metadata: its `metadata`, usually `total_size`; empty where it has none. Not checked against anything.
    """

    weight_map: Mapping[str, str]
    metadata: Mapping[str, object]

    @cached_property
    def shards(self) -> tuple[str, ...]:
        """The distinct shard names, in the order in which the index first names them."""
        return tuple(dict.fromkeys(self.weight_map.values()))


def parse_shard_index(data: bytes, uri: str) -> ShardIndex:
    """Reads an index and checks its shard names. Safe to call from several threads.

    Args:
        data: the whole file. Not kept.
        uri: its name, for messages.

    Raises:
        ShardIndexError: it is larger than `MAX_INDEX_BYTES`, not JSON, has no weight map or an empty one, names a
            tensor twice, or a shard name leaves the directory.
    """
    if len(data) > MAX_INDEX_BYTES:
        problem = f"it has {len(data):,} bytes, more than the {MAX_INDEX_BYTES:,} allowed"
        raise _refusal(uri, problem, offset=MAX_INDEX_BYTES)
    with collector_paused():
        try:
            document = decode(data)
        except JsonError as error:
            raise _refusal(uri, f"it cannot be read: {error.reason}", offset=error.offset) from error
        return _read_index(document, data, uri)


def _read_index(document: Json, data: bytes, uri: str) -> ShardIndex:
    if not isinstance(document, tuple):
        raise _refusal(uri, "it is no JSON object")
    _check_repeats(document, data, uri)
    fields = dict(document)
    pairs = fields.get("weight_map")
    if not isinstance(pairs, tuple):
        problem = "its weight_map is no object" if "weight_map" in fields else "it has no weight_map"
        raise _refusal(uri, problem, offset=find_key(data, "weight_map"))
    if not pairs:
        raise _refusal(uri, "its weight_map is empty", offset=find_key(data, "weight_map"))
    metadata = fields.get("metadata")
    if not isinstance(metadata, tuple | None):
        raise _refusal(uri, "its metadata is no object", offset=find_key(data, "metadata"))
    return ShardIndex(_read_weight_map(pairs, data, uri), _plain_objects(metadata or ()))


def _read_weight_map(pairs: JsonObject, data: bytes, uri: str) -> Mapping[str, str]:
    _check_repeats(pairs, data, uri)
    weight_map: dict[str, str] = {}
    first_with: dict[str, str] = {}  # each distinct shard name, and the tensor to blame for it
    for tensor, shard in pairs:
        if not isinstance(shard, str):
            problem = f"its weight_map gives {quoted(shard)} for tensor {quoted(tensor)} instead of a shard's name"
            raise _refusal(uri, problem, offset=find_key(data, tensor), tensor=tensor)
        weight_map[tensor] = shard
        first_with.setdefault(shard, tensor)
    for shard, tensor in first_with.items():
        fault = _shard_name_fault(shard)
        if fault is not None:
            problem = f"the shard {quoted(shard)} of tensor {quoted(tensor)} {fault}"
            raise _refusal(uri, problem, offset=find_key(data, tensor), tensor=tensor)
    return weight_map


def _check_repeats(pairs: JsonObject, data: bytes, uri: str) -> None:
    """JSON readers disagree about which of two equal keys counts, so neither does."""
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            offset = find_key(data, name, occurrence=2)
            raise _refusal(uri, f"it has {quoted(name)} twice", offset=offset, tensor=name)
        seen.add(name)


def _shard_name_fault(name: str) -> str | None:
    """What is wrong with a shard name, None for a good one.

    Judged by the rules of every system at once: a name is to mean the same file wherever the index is read.
    """
    components = name.split("/")
    if components[-1] in ("", "."):
        return "names no file"
    if name.startswith("/"):
        return "leaves the directory: it is an absolute path"
    if ".." in components:
        return "leaves the directory: it has a component '..'"
    if "\\" in name:
        return "may leave the directory: it has a backslash"
    if "\0" in name:
        return "has a NUL character, which no file's name can have"
    if _SCHEME_OR_DRIVE.match(name):
        return "leaves the directory: it begins with a URL scheme or a drive letter"
    return None


def _plain_objects(value: JsonObject) -> dict[str, object]:
    return {key: _plain_value(item) for key, item in value}


def _plain_value(value: Json) -> object:
    if isinstance(value, tuple):
        return _plain_objects(value)
    return [_plain_value(item) for item in value] if isinstance(value, list) else value


def _refusal(uri: str, problem: str, *, offset: int = 0, tensor: str | None = None) -> ShardIndexError:
    message = f"{uri}: not a usable shard index, at byte {offset:,}: {problem}. {_STEP}"
    return ShardIndexError(message, uri=uri, offset=offset, tensor=tensor)
