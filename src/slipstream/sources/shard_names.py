"""Which names under a directory or prefix make up its checkpoint: the same rules wherever it is stored."""

from __future__ import annotations

from collections.abc import Iterable

from slipstream.errors import UsageError

SUFFIX = ".safetensors"
_PREFERRED_INDEX = "model.safetensors.index.json"  # the name transformers looks for first


def is_index(name: str) -> bool:
    """Whether this is a shard index; those of pickled shards lie beside safetensors in many repositories."""
    return name.endswith(".index.json") and not name.endswith(".bin.index.json")


def choose_index(names: Iterable[str], uri: str) -> str | None:
    """The shard index to go by, None where there is none.

    Raises:
        UsageError: there are several and none has the usual name.
    """
    indexes = sorted(name for name in names if is_index(name))
    if _PREFERRED_INDEX in indexes:
        return _PREFERRED_INDEX
    if len(indexes) > 1:
        raise UsageError(f"{uri} has several shard indexes, {', '.join(indexes)}: give one of these", uri=uri)
    return indexes[0] if indexes else None
