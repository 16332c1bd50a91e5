"""How all ranks come to one plan: the first looks at the checkpoint, the others take it over and plan for themselves.

So a store is asked for headers once and not by each of a hundred ranks, and no rank can see another version of a blob
than the others do: they read what has the ETag that the first one saw.

    first     locate, describe, plan ──▶ checkpoint, order of the ops ──┐ board
    others                               take over, check, plan, order ◀┘
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from slipstream.errors import BlobChangedError, UsageError
from slipstream.ranks.team import Team
from slipstream.sources.file import FileSource, stat_blob
from slipstream.sources.registry import Sources
from slipstream.types import Blob, Checkpoint, Dtype, ReadOp, ReadPlan, TensorInfo

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.05


def agree_on_plan(
    team: Team,
    uris: Sequence[str],
    sources: Sources,
    describe: Callable[[], Checkpoint],
    plan: Callable[[Checkpoint], ReadPlan],
) -> ReadPlan:
    """The plan of a shared load: the same ops in the same order on every rank, each with its own ways to read them.

    Args:
        team: the ranks.
        uris: what this rank was asked for.
        sources: of this call.
        describe: looks at the checkpoint itself.
        plan: plans to read a checkpoint, as far as this rank's arguments select it.

    Raises:
        UsageError: this rank was asked for something else than the first.
        Others: as `describe` and `plan`; and what the first rank failed with.
    """
    if team.rank == 0:
        planned = plan(describe())
        team.board.post_long("plan", _encode(planned, uris))
        return planned
    own = describe() if any(map(_is_plain_http, uris)) else None
    shared, order, digest = _decode(_wait_plan(team))
    if own is None and _identify(uris) == digest:
        checkpoint = replace(shared, blobs=tuple(_take_over(blob, sources) for blob in shared.blobs))
    else:
        checkpoint = own or describe()
        _check_same(checkpoint, shared, team)
    return _reorder(plan(checkpoint), order, team)


def _wait_plan(team: Team) -> bytes:
    """What the first rank has posted; or raises what ended the load meanwhile."""
    pause_s = _FIRST_PAUSE_S
    while (data := team.board.see_long("plan")) is None:
        team.watch.check()
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
    return data


def _take_over(blob: Blob, sources: Sources) -> Blob:
    """The blob as this host knows it. A file has an identity of its own on every host."""
    if not isinstance(sources.find(blob.uri), FileSource):
        return blob
    own = stat_blob(blob.uri)
    if own.size != blob.size:
        raise BlobChangedError(
            f"{blob.uri} has {own.size:,} bytes here and {blob.size:,} where the first rank runs: copy the same "
            "checkpoint to every host",
            uri=blob.uri,
        )
    return own


def _is_plain_http(uri: str) -> bool:
    """Whether a blob's `uri` may lack what it is asked for with: a query, a password. These are not passed round."""
    return uri.lower().startswith(("http://", "https://"))


def _check_same(own: Checkpoint, shared: Checkpoint, team: Team) -> None:
    """Holds that two looks saw the same tensors at the same places, and the same version of what both see."""
    if own.tensors != shared.tensors or [blob.size for blob in own.blobs] != [blob.size for blob in shared.blobs]:
        raise UsageError(
            f"rank {team.ranks[team.rank]} was given another checkpoint than rank {team.ranks[0]}: tensors or sizes "
            "differ. Give every rank the same one; where paths differ between hosts, their contents may not"
        )
    for mine, theirs in zip(own.blobs, shared.blobs, strict=True):
        if mine.uri == theirs.uri and _is_plain_http(mine.uri) and mine.etag != theirs.etag:
            raise BlobChangedError(
                f"{mine.uri} was changed while the ranks looked at it: load it again once its writer is done",
                uri=mine.uri,
            )


def _reorder(plan: ReadPlan, order: Sequence[tuple[int, int, int, str]], team: Team) -> ReadPlan:
    """The plan in the first rank's order: what suits a rank's own disks would suit no other."""
    ops = {_key(op): op for op in plan.ops}
    if ops.keys() != set(order):
        raise UsageError(
            f"rank {team.ranks[team.rank]} was asked for other tensors than rank {team.ranks[0]}: ranks that share a "
            "load need the same names="
        )
    return replace(plan, ops=tuple(ops[key] for key in order))


def _key(op: ReadOp) -> tuple[int, int, int, str]:
    """What tells an op from every other. Two may have the same place, where tensors without bytes lie."""
    return op.blob, op.start, op.end, op.tensors[0].name


def _identify(uris: Sequence[str]) -> str:
    """Tells whether two ranks were given the same, relative paths included. A digest: URLs may hold secrets."""
    return hashlib.blake2b(json.dumps([os.getcwd(), *uris]).encode(), digest_size=16).hexdigest()


def _encode(plan: ReadPlan, uris: Sequence[str]) -> bytes:
    checkpoint = plan.checkpoint
    return json.dumps(
        {
            "uris": _identify(uris),
            "blobs": [[blob.uri, blob.size, blob.etag] for blob in checkpoint.blobs],
            "metadata": [dict(metadata) for metadata in checkpoint.metadata],
            "tensors": checkpoint.tensors,
            "order": [_key(op) for op in plan.ops],
        }
    ).encode()


def _decode(data: bytes) -> tuple[Checkpoint, list[tuple[int, int, int, str]], str]:
    """The first rank's checkpoint, the order of its ops, and the digest of what it was given."""
    found = json.loads(data)
    tensors = tuple(
        TensorInfo(name, Dtype(dtype), tuple(shape), blob, start, end)
        for name, dtype, shape, blob, start, end in found["tensors"]
    )
    blobs = tuple(Blob(*fields) for fields in found["blobs"])
    return (
        Checkpoint(blobs, tensors, tuple(found["metadata"])),
        [(blob, start, end, name) for blob, start, end, name in found["order"]],
        found["uris"],
    )
