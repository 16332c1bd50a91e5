"""In which order the ranges are read."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence

from slipstream.types import ReadOp, StorageFacts


def order_ops(ops_by_blob: Sequence[Sequence[ReadOp]], facts: Sequence[StorageFacts | None]) -> list[ReadOp]:
    """Interleaves what does not share a bandwidth, and keeps the rest in the order it is stored.

    Blobs on one local volume are read one after another: the device and its read-ahead like order.
    Volumes take turns, and so do the blobs of a remote file system, which often lie on many servers.
    """
    lanes: dict[Hashable, deque[ReadOp]] = {}
    for number, (ops, fact) in enumerate(zip(ops_by_blob, facts, strict=True)):
        lane = number if fact is None or fact.remote else fact.volume
        lanes.setdefault(lane, deque()).extend(ops)
    ordered: list[ReadOp] = []
    while lanes:
        ordered += [lane.popleft() for lane in lanes.values() if lane]
        lanes = {key: lane for key, lane in lanes.items() if lane}
    return ordered
