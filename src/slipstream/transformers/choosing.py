"""Which files hold the weights: by the names, and in the order, that transformers goes by."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import slipstream
from slipstream.errors import AccessDeniedError, BlobNotFoundError, ShardIndexError, SlipstreamError, UsageError
from slipstream.transformers.place import Place, Uri, join_uri, list_some
from slipstream.types import ReadPlan

_WEIGHTS = (".safetensors", ".safetensors.index.json")
_VARIANT_INDEX = re.compile(r"\.index\..+\.json$")
_OTHER_WEIGHTS = (".bin", ".bin.index.json", ".gguf", ".pt", ".pth", ".h5", ".msgpack")


def weights_names(variant: str | None, given: str | None = None) -> tuple[str, ...]:
    """What the weights may be called, the preferred name first.

    Args:
        variant: as in transformers, for example "fp16"; None for none.
        given: the name that a config gives as its `transformers_weights`, if it does.

    Raises:
        UsageError: a given name that is no safetensors file or index, or leads out of the model's directory.
    """
    if given is not None:
        path = PurePosixPath(given)
        if not given.endswith(_WEIGHTS) or path.is_absolute() or ".." in path.parts:
            raise UsageError(
                f"the config names {given!r} as transformers_weights: it must be a safetensors file or index in the "
                "model's own directory"
            )
        return (given,)
    infix = f".{variant}" if variant else ""
    return (f"model{infix}.safetensors", f"model.safetensors.index{infix}.json")


def plan_weights(
    place: Place, names: Sequence[str], weights: Uri | Sequence[Uri] | None = None
) -> tuple[Uri | Sequence[Uri], ReadPlan]:
    """Finds the weights, and plans to read them, from headers alone.

    Args:
        place: where they are looked for.
        names: what they may be called.
        weights: where they are instead.

    Returns:
        What to hand to `slipstream.stream`, and its plan.

    Raises:
        BlobNotFoundError: there is no file of these names; the text says which others there are.
        FormatError, AccessDeniedError, ReadError and others: as `slipstream.plan`.
    """
    if weights is not None:
        return weights, _plan(place, weights)
    if place.names is None:
        return _plan_first(place, names)
    for name in names:
        if name in place.names or "/" in name:
            found = _find(place, name)
            return found, _plan(place, found)
    raise BlobNotFoundError(_explain_missing(place, names), uri=place.shown)


def _plan_first(place: Place, names: Sequence[str]) -> tuple[Uri | Sequence[Uri], ReadPlan]:
    """Where nothing can be listed, asking is the only way to know."""
    failures: list[SlipstreamError] = []
    for name in names:
        try:
            found = _find(place, name)
            return found, _plan(place, found)
        except (BlobNotFoundError, AccessDeniedError) as error:
            failures.append(error)
    raise failures[0]


def _find(place: Place, name: str) -> str | list[str]:
    """The address of a file; or of the shards in the index of a variant, whose name only transformers takes for one.

    Raises:
        ShardIndexError: the index is malformed, or a shard lies elsewhere.
    """
    address = place.find(name)
    if not _VARIANT_INDEX.search(name):
        return address
    content = slipstream.read_file(address, options=place.options, storage_options=place.storage_options)
    try:
        shards = sorted({str(shard) for shard in json.loads(content)["weight_map"].values()})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ShardIndexError(
            f"{join_uri(place.shown, name)} is no index of shards, a JSON object with a weight_map: download it again",
            uri=join_uri(place.shown, name),
        ) from error
    for shard in shards:
        if PurePosixPath(shard).name != shard:
            raise ShardIndexError(
                f"{join_uri(place.shown, name)} names the shard {shard!r}, which would lie outside its directory",
                uri=join_uri(place.shown, name),
            )
    return [place.find(shard) for shard in shards]


def _plan(place: Place, weights: Uri | Sequence[Uri]) -> ReadPlan:
    return slipstream.plan(weights, options=place.options, storage_options=place.storage_options)


def _explain_missing(place: Place, names: Sequence[str]) -> str:
    assert place.names is not None
    text = f"{place.shown} has neither {' nor '.join(names)}" if len(names) > 1 else f"{place.shown} has no {names[0]}"
    ours = frozenset(name for name in place.names if name.endswith(_WEIGHTS))
    others = frozenset(name for name in place.names if name.endswith(_OTHER_WEIGHTS))
    if ours:
        return f"{text}, but {list_some(ours)}: give what you want as variant= or weights="
    if others:
        return (
            f"{text}, but {list_some(others)}, and slipstream reads safetensors alone: convert the model once, with "
            "from_pretrained and save_pretrained of transformers"
        )
    return f"{text}; it holds {list_some(place.names)}: check the URI, or give the place of the weights as weights="
