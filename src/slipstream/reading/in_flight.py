"""What is being read: an op between its lease and its delivery, a chunk of it, and one worker's read of that."""

from __future__ import annotations

from threading import Lock

from slipstream.reading.base import Landing
from slipstream.reading.buffers import Region
from slipstream.reading.ring import Slot
from slipstream.transport.transfer import Transfer
from slipstream.types import ReadOp


class OpInFlight:
    """A ReadOp between its lease and its delivery.

    Attributes:
        op: what is read.
        region: its memory, made by the first worker that reads into it, under `making`.
        landing: the same, where it is read into slots of a ring and copied there.
    """

    __slots__ = ("landing", "making", "next_start", "op", "outstanding", "region")

    def __init__(self, op: ReadOp) -> None:
        self.op = op
        self.region: Region | None = None
        self.landing: Landing | None = None
        self.making = Lock()
        self.next_start = op.start
        self.outstanding = 0


class Chunk:
    """What all reads of one chunk share.

    Attributes:
        slot: of the ring, that they read into; leased by the first of them, under `making`.
        reads: how many were handed out and have not been left. Guarded by the schedule's lock.
    """

    __slots__ = ("making", "reads", "slot")

    def __init__(self) -> None:
        self.slot: Slot | None = None
        self.making = Lock()
        self.reads = 1


class Read:
    """What one worker reads: a chunk `[start, end)` of the op's blob, or the rest of one that is being read already.

    Attributes:
        target: the op.
        start: where this read begins.
        end: behind its last byte.
        chunk_start: where the chunk begins: `start`, unless it is the rest of one.
        chunk: what it shares with other reads of the same chunk.
        transfer: how far it is, and what stops it.
        kept_bytes: how much of what it has read is of use though its rival wins: what the rival did not ask for.
        rival: the other read of the same chunk, if there is one.
        displaced: those that have made room for another and may not have stopped yet; one list for all of a chunk.
        weight: bytes asked of the storage for each byte that is wanted: more than 1 where others are read along.
        won: whether it was the first of its chunk to end. From then on nobody may begin to write there.
        lost: whether the other one was.
    """

    __slots__ = (
        "chunk",
        "chunk_start",
        "displaced",
        "end",
        "kept_bytes",
        "lost",
        "rival",
        "start",
        "target",
        "transfer",
        "weight",
        "won",
    )

    def __init__(self, target: OpInFlight, start: int, end: int, chunk_start: int) -> None:
        self.target = target
        self.start = start
        self.end = end
        self.chunk_start = chunk_start
        self.chunk = Chunk()
        self.transfer = Transfer()
        self.weight = target.op.source_bytes / target.op.nbytes if target.op.gather is not None else 1.0
        self.kept_bytes = 0
        self.rival: Read | None = None
        self.displaced: list[Read] = []
        self.won = False
        self.lost = False
