"""The frozen values that the stages hand to one another. No I/O, no behaviour beyond arithmetic.

    Listing -> Checkpoint -> ReadPlan -> tensors and LoadStats

Ranges are half-open, `[start, end)`; offsets are absolute in their blob.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple


class Dtype(StrEnum):
    """The element types of the safetensors format, by the names the file uses.

    Source: `Dtype` in safetensors 0.8 (safetensors/src/tensor.rs); unchanged in 0.9rc1.
    """

    BOOL = "BOOL"
    F4 = "F4"
    F6_E2M3 = "F6_E2M3"
    F6_E3M2 = "F6_E3M2"
    U8 = "U8"
    I8 = "I8"
    F8_E5M2 = "F8_E5M2"
    F8_E4M3 = "F8_E4M3"
    F8_E8M0 = "F8_E8M0"
    F8_E4M3FNUZ = "F8_E4M3FNUZ"
    F8_E5M2FNUZ = "F8_E5M2FNUZ"
    I16 = "I16"
    U16 = "U16"
    F16 = "F16"
    BF16 = "BF16"
    I32 = "I32"
    U32 = "U32"
    F32 = "F32"
    C64 = "C64"
    F64 = "F64"
    I64 = "I64"
    U64 = "U64"

    @property
    def bits(self) -> int:
        """Bits of one element: 4 and 6 for the packed microscaling types, else whole bytes."""
        return DTYPE_BITS[self]


DTYPE_BITS: Mapping[Dtype, int] = {
    Dtype.F4: 4,
    Dtype.F6_E2M3: 6,
    Dtype.F6_E3M2: 6,
    **dict.fromkeys(
        (
            Dtype.BOOL,
            Dtype.U8,
            Dtype.I8,
            Dtype.F8_E5M2,
            Dtype.F8_E4M3,
            Dtype.F8_E8M0,
            Dtype.F8_E4M3FNUZ,
            Dtype.F8_E5M2FNUZ,
        ),
        8,
    ),
    **dict.fromkeys((Dtype.I16, Dtype.U16, Dtype.F16, Dtype.BF16), 16),
    **dict.fromkeys((Dtype.I32, Dtype.U32, Dtype.F32), 32),
    **dict.fromkeys((Dtype.C64, Dtype.F64, Dtype.I64, Dtype.U64), 64),
}


class Target(StrEnum):
    """Where tensors are used: what the caller gets is in host memory, or the host is only passed through."""

    HOST = "host"
    DEVICE = "device"


class Strategy(StrEnum):
    """How the bytes of a blob come into host memory (see docs/architecture.md). RANGED is for what is behind HTTP.

    GDS does not go through it: GPUDirect Storage reads from the device that stores to the device that computes.
    """

    MAPPED = "mapped"
    DIRECT = "direct"
    BUFFERED = "buffered"
    RANGED = "ranged"
    GDS = "gds"


FILE_STRATEGIES = (Strategy.MAPPED, Strategy.DIRECT, Strategy.BUFFERED)
"""Those among which the policy chooses for a file, and which can be asked for."""


@dataclass(frozen=True, slots=True)
class Blob:
    """One stored object that tensors lie in: a file, or an object of a store.

    Attributes:
        uri: what identifies it to people and to its source; never holds a credential.
        size: bytes.
        etag: changes whenever the content does; None where the store has none.
    """

    uri: str
    size: int
    etag: str | None = None


class ByteRange(NamedTuple):
    """Neighbouring bytes of one blob, `[start, end)`.

    Attributes:
        uri: the blob: a path, an s3://, gs:// or az:// object, or a URL. No directory, prefix or glob.
        start: absolute offset of the first byte.
        end: absolute offset behind the last byte; `start` for a range of nothing.
    """

    uri: str
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """How many bytes."""
        return self.end - self.start


class ListedFile(NamedTuple):
    """One line of a listing.

    Attributes:
        path: relative to what was listed, with `/` between its components. A store's word, so it may be hostile.
        blob: what lies there.
    """

    path: str
    blob: Blob


@dataclass(frozen=True, slots=True)
class Listing:
    """What one URI stands for: candidate blobs, and the shard index that chooses among them, if any."""

    uri: str
    blobs: tuple[Blob, ...]
    index: Blob | None = None


class TensorInfo(NamedTuple):
    """One tensor as its header describes it.

    Attributes:
        name: as in the checkpoint.
        dtype: element type.
        shape: logical dimensions; `()` for a scalar.
        blob: position of its blob in `Checkpoint.blobs`.
        start: absolute offset of its first byte in the blob.
        end: absolute offset behind its last byte.
    """

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    blob: int
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes in the blob."""
        return self.end - self.start

    @property
    def elements(self) -> int:
        """How many elements the shape has; 1 for a scalar."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Checkpoint:
    """All tensors of a checkpoint and the blobs they lie in.

    Attributes:
        blobs: every blob, in the order in which they were located.
        tensors: in blob order, within a blob by offset.
        metadata: each blob's `__metadata__`, beside `blobs`; empty where a blob has none.
    """

    blobs: tuple[Blob, ...]
    tensors: tuple[TensorInfo, ...]
    metadata: tuple[Mapping[str, str], ...]

    @cached_property
    def by_name(self) -> Mapping[str, TensorInfo]:
        """The tensors by name."""
        return {tensor.name: tensor for tensor in self.tensors}

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all tensors, without headers."""
        return sum(tensor.end - tensor.start for tensor in self.tensors)


@dataclass(frozen=True, slots=True)
class StorageFacts:
    """What can be seen of a blob's storage before reading it: the policy's only evidence.

    Attributes:
        filesystem: type as the kernel names it, e.g. "ext4", "nfs4", "fuse.bindfs".
        volume: what shares bandwidth with it, e.g. the device number of its file system.
        remote: a network or FUSE file system, where every page fault is a round trip.
        in_memory: tmpfs, ramfs: the file is memory already.
        cached_bytes: how much of the blob is in the page cache; None where it cannot be known.
        read_ahead_bytes: the device's read-ahead; None where it has none.
        huge_read_ahead: whether this kernel reads a huge-page mapping ahead by 2 MiB whatever the device says.
        available_bytes: memory the host (or this process's cgroup) can still give; None if unknown.
        over_http: behind HTTP rather than in a file system: an object store, a web server.
        decrypting_cpus: how many processors may decrypt it; None where it comes in plain.
        gds_gain: how many times faster GPUDirect Storage read from this volume than the ring did; None where that was
            not measured.
    """

    filesystem: str
    volume: str
    remote: bool
    in_memory: bool
    cached_bytes: int | None
    read_ahead_bytes: int | None
    huge_read_ahead: bool
    available_bytes: int | None
    over_http: bool = False
    decrypting_cpus: int | None = None
    gds_gain: float | None = None


@dataclass(frozen=True, slots=True)
class StrategyChoice:
    """The policy's decision for one blob, with its reason in words for people.

    Attributes:
        strategy: which one.
        reason: one clause, e.g. "a quarter is in the page cache; the rest is read ahead by 4 threads".
        concurrency: reads in flight that suit it.
        chunk_bytes: the largest single read.
        huge_pages: whether a mapping is advised to use huge pages, which makes the kernel read it ahead by more.
        exact: whether the kernel shall not read ahead beyond what is asked for: others read what lies beside it.
    """

    strategy: Strategy
    reason: str
    concurrency: int
    chunk_bytes: int
    huge_pages: bool = True
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Strips:
    """Where the bytes of a tensor lie of which only some columns are wanted: equal rows, and of each the same blocks.

        blob     ..[aaa]....[bb]..   ..[aaa]....[bb]..     a row every `row_bytes`
        memory   [aaa][bb][aaa][bb]

    Attributes:
        start: absolute offset of the first row.
        rows: how many there are.
        row_bytes: from one row to the next.
        blocks: what is wanted of each row, [start, end) from the row's beginning; ascending, none empty, none touching.
    """

    start: int
    rows: int
    row_bytes: int
    blocks: tuple[tuple[int, int], ...]

    @property
    def width(self) -> int:
        """Bytes wanted of each row."""
        return sum(end - start for start, end in self.blocks)

    @property
    def first(self) -> int:
        """Absolute offset of the first byte that is wanted."""
        return self.start + self.blocks[0][0]

    @property
    def gaps(self) -> tuple[int, ...]:
        """Bytes between neighbouring blocks of one row."""
        return tuple(later[0] - earlier[1] for earlier, later in pairwise(self.blocks))

    @property
    def gap_between_rows(self) -> int:
        """Bytes between the last block of a row and the first of the next."""
        return self.row_bytes - self.blocks[-1][1] + self.blocks[0][0]


class StripWay(StrEnum):
    """How strips are read that are not read along with what lies between them.

    SECTORS: past the page cache, hundreds at once.
    SHARED: copied from the page cache, where all between them has been brought in too, for other ranks on this host.
    APART: a plain read or request for each.
    """

    SECTORS = "sectors"
    SHARED = "shared"
    APART = "apart"


@dataclass(frozen=True, slots=True)
class Gather:
    """How strips are brought together in memory that holds nothing else.

    Attributes:
        strips: where they lie.
        gap_bytes: blocks that are no further apart are read together, with what lies between them.
        step_bytes: bytes of the tensor that one read brings: whole rows, or a piece of a long one.
        span_bytes: the most that one read takes from the blob at once.
        way: how those that are not joined are read.
        reason: why so, in words for people.
    """

    strips: Strips
    gap_bytes: int
    step_bytes: int
    span_bytes: int
    way: StripWay
    reason: str

    @property
    def source_bytes(self) -> int:
        """Bytes asked of the storage."""
        strips = self.strips
        along = sum(gap for gap in strips.gaps if gap <= self.gap_bytes)
        return strips.rows * (strips.width + along) + self._joined_rows * strips.gap_between_rows

    @property
    def joins_all(self) -> bool:
        """Whether rows are read along with everything between their blocks, and with what lies between them."""
        strips = self.strips
        return max((*strips.gaps, strips.gap_between_rows if strips.rows > 1 else 0)) <= self.gap_bytes

    @property
    def reads(self) -> int:
        """How many ranges are asked of the storage; a few more where long rows are read in pieces."""
        apart = 1 + sum(gap > self.gap_bytes for gap in self.strips.gaps)
        return self.strips.rows * apart - self._joined_rows

    @property
    def _joined_rows(self) -> int:
        """How many rows are read together with the one before them."""
        strips = self.strips
        if strips.gap_between_rows > self.gap_bytes:
            return 0
        return strips.rows - -(-strips.rows * strips.width // self.step_bytes)


@dataclass(frozen=True, slots=True)
class ReadOp:
    """One contiguous range of one blob that is read into one region of memory.

    Or of the strips of one range, which become one tensor without what lies between them: then `start` is the offset
    of the first of them, and offsets count only the bytes that are wanted.

    It holds whole tensors: either one, which may be larger than a chunk and is then read in
    parallel, or several neighbours, read together.

    Attributes:
        blob: position in `Checkpoint.blobs`.
        start: absolute offset of its first byte.
        end: absolute offset behind its last byte.
        tensors: by offset.
        copies: whether its several tensors are handed out as copies: under a limit, so that holding one does
            not hold its neighbours; always, where the file has one of them at a misaligned offset.
        realigns: whether its single tensor is misaligned in the file, and is read to where it is aligned.
        gather: how the strips of its single tensor are read; None where it is contiguous.
        landing_bytes: memory that its tensors take where they pass through a ring on their way there; None where they
            stand in the memory that is read into.
        piece_bytes: what chunks of it are a multiple of, counted from `start`: an element where it is cast on the way,
            all of it where its tensors are copied from one slot.
    """

    blob: int
    start: int
    end: int
    tensors: tuple[TensorInfo, ...]
    copies: bool = False
    realigns: bool = False
    gather: Gather | None = None
    landing_bytes: int | None = None
    piece_bytes: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return self.end - self.start

    @property
    def source_bytes(self) -> int:
        """Bytes asked of the storage: more where what lies between strips is read along."""
        return self.end - self.start if self.gather is None else self.gather.source_bytes

    @property
    def lease_bytes(self) -> int:
        """Memory it takes until it is delivered: its bytes, and those of the copies."""
        if self.landing_bytes is not None:
            return self.landing_bytes
        return (self.end - self.start) * (2 if self.copies else 1)

    def end_chunk(self, start: int, chunk_bytes: int) -> int:
        """Where the read that begins at `start` ends: at a multiple of the chunk size in the blob, or of the step.

        A little earlier where a piece would be cut, or later where that is all of a piece.
        """
        if self.gather is None:
            end = min(start - start % chunk_bytes + chunk_bytes, self.end)
        else:
            end = min(start + self.gather.step_bytes, self.end)
        if self.piece_bytes == 1 or end == self.end:
            return end
        whole = end - (end - self.start) % self.piece_bytes
        return whole if whole > start else min(start + self.piece_bytes, self.end)


@dataclass(frozen=True, slots=True)
class StagingPlan:
    """How bytes pass through a ring of slots on the way to where tensors stand.

    Attributes:
        reason: why they do, in one clause.
        slot_bytes: of one slot: a chunk, and room for the pages around it.
        slots: how many there are at most; each is made when it is first needed.
        cast: the type that floating-point tensors are cast to on the way; None leaves them as they are.
        limited_by: which option the plan's `memory_limit` is.
        most_ahead_bytes: of tensors that were read and not yet handed out, at most; None is no bound.
    """

    reason: str
    slot_bytes: int
    slots: int
    cast: Dtype | None
    limited_by: str = "memory_limit"
    most_ahead_bytes: int | None = None

    @property
    def ring_bytes(self) -> int:
        """Host memory that the ring takes at most."""
        return self.slot_bytes * self.slots


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """What will be read, how, in what order, and why.

    Attributes:
        checkpoint: all that was found.
        ops: in reading order.
        choices: one per blob of the checkpoint; None where nothing of a blob is selected.
        concurrency: reads in flight, over all blobs; at the beginning, where `most_concurrency` is more.
        most_concurrency: up to how many the load may find out that more are faster.
        memory_limit: bytes in flight and held by the caller together; None where there is no limit, or
            everything together is within it. Without what the ring and the scratch take of the caller's limit. On
            another device than the host, of that device's memory.
        scratch_bytes: host memory for what only passes through on its way to where strips stand together; see Gather.
        staging: how bytes pass through a ring; None where tensors stand in the memory that is read into.
    """

    checkpoint: Checkpoint
    ops: tuple[ReadOp, ...]
    choices: tuple[StrategyChoice | None, ...]
    concurrency: int
    most_concurrency: int
    memory_limit: int | None
    scratch_bytes: int = 0
    staging: StagingPlan | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors that will be delivered."""
        return sum(op.end - op.start for op in self.ops)

    @property
    def source_bytes(self) -> int:
        """Bytes that will be asked of the storage."""
        return sum(op.source_bytes for op in self.ops)

    @property
    def landing_bytes(self) -> int:
        """Bytes that the tensors will take where they come to stand, which a cast makes less or more."""
        return sum(op.nbytes if op.landing_bytes is None else op.landing_bytes for op in self.ops)

    @property
    def limited_by(self) -> str:
        """Which option `memory_limit` is."""
        return self.staging.limited_by if self.staging else "memory_limit"

    @property
    def tensor_count(self) -> int:
        """How many tensors will be delivered."""
        return sum(len(op.tensors) for op in self.ops)


@dataclass(frozen=True, slots=True)
class FileStats:
    """How one blob was read.

    Attributes:
        uri: the blob.
        strategy: the one chosen; `fallbacks` of the LoadStats tell where it could not be kept.
        reason: why, in words.
        bytes: tensor bytes read from it.
    """

    uri: str
    strategy: Strategy
    reason: str
    bytes: int


@dataclass(frozen=True, slots=True)
class LoadStats:
    """What a load did, measured in this run.

    Attributes:
        bytes: bytes of the tensors delivered so far; neighbours that were read together count together.
        tensors: how many were delivered, counted likewise. Of a load that is both shared and divided (`distributed=`,
            `shard=`) both count all that the ranks share, before each takes its part.
        seconds: from the call to the last delivery (or to now, while it runs).
        first_tensor_seconds: from the call to the first delivery; None before it.
        cpu_seconds: CPU time of this whole process in that span, the caller's own work included.
        reads: requests made of the operating system for tensor bytes.
        fallbacks: what a kernel or file system refused, and what was done instead; one line each.
        peak_buffer_bytes: the most memory that was leased at once, in flight and held by the caller, with what is read
            along with columns; without the ring.
        files: one entry per blob read.
        requests: HTTP requests sent, for headers too, also those that failed; the rest is 0 for local files too.
        retries: requests made again because one failed.
        hedged: ranges asked for a second time because they took far longer than their peers.
        connections: opened, not all at once.
        peak_concurrency: the most reads in flight at once.
        discarded_bytes: bytes received and not used: of the slower of two answers, and of refusals.
        source_bytes: bytes asked of the storage for `bytes`: more where columns come with what lies between them.
        ring_bytes: host memory of the ring that the tensors passed through; this and the rest is 0 without one.
        copies: made from the ring to where tensors stand.
        warm_up_seconds: until the device was ready: importing PyTorch, making the device's context. It is done while
            headers are read, so it is part of `seconds` only as far as it took longer than they did.
        ring_seconds: spent making and page-locking slots, in all threads together. A ring that was kept takes none.
        ring_wait_seconds: for which reads waited for a slot, in all threads together: copies were slower than reads.
        ranks: how many shared the load; 1 for a load of one's own. `files` and all figures of reading are this rank's.
        received_bytes: tensor bytes that other ranks have read and passed on, whether delivered yet or not.
    """

    bytes: int
    tensors: int
    seconds: float
    first_tensor_seconds: float | None
    cpu_seconds: float
    reads: int
    fallbacks: tuple[str, ...]
    peak_buffer_bytes: int
    files: tuple[FileStats, ...] = field(default=())
    requests: int = 0
    retries: int = 0
    hedged: int = 0
    connections: int = 0
    peak_concurrency: int = 0
    discarded_bytes: int = 0
    source_bytes: int = 0
    ring_bytes: int = 0
    copies: int = 0
    warm_up_seconds: float = 0.0
    ring_seconds: float = 0.0
    ring_wait_seconds: float = 0.0
    ranks: int = 1
    received_bytes: int = 0

    @property
    def gigabytes_per_second(self) -> float:
        """10^9 bytes per second of wall time."""
        return self.bytes / self.seconds / 1e9 if self.seconds else 0.0


class Progress(NamedTuple):
    """How far a load is. Handed to a `progress=` callable, always in the caller's thread.

    Attributes:
        bytes_read: bytes that are in memory, delivered or not.
        bytes_total: bytes of the plan.
        tensors_delivered: tensors handed out.
        tensors_total: tensors of the plan.
        seconds: since the load began.
    """

    bytes_read: int
    bytes_total: int
    tensors_delivered: int
    tensors_total: int
    seconds: float
