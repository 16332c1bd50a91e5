"""Brings the strips of a tensor together in memory that holds nothing else.

whole rows, with what lies between strips     one read into scratch, and from there strided copies
single strips of a file                       hundreds of reads at once, in sectors (pieces.py)
the rest                                      pieces that are near are read together, others straight to their place
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock

import numpy

from slipstream.reading.base import BlobReader, FileReader, NoteFallback
from slipstream.reading.buffers import Region
from slipstream.reading.memory import PAGE_BYTES
from slipstream.reading.pieces import DirectPieces, Pieces
from slipstream.reading.scratch import ScratchPool
from slipstream.transport.transfer import Transfer, TransferStopped
from slipstream.types import ReadOp, ReadPlan, Strips, StripWay


class Gatherer:
    """Reads what a plan gathers. Safe to use from many threads."""

    def __init__(self, plan: ReadPlan) -> None:
        spans = [op.gather.span_bytes for op in plan.ops if op.gather is not None]
        self._scratch = ScratchPool(max(spans), plan.scratch_bytes)
        self._lock = Lock()  # guards the one below
        self._files: dict[int, DirectPieces] = {}

    @property
    def peak_bytes(self) -> int:
        """The most memory that bytes passed through at once."""
        return self._scratch.peak_bytes

    def read(
        self,
        reader: BlobReader,
        op: ReadOp,
        region: Region,
        start: int,
        end: int,
        transfer: Transfer,
        note_fallback: NoteFallback,
    ) -> int:
        """Makes a part of the op's tensor stand in its region; returns how many requests that took.

        Args:
            reader: of the op's blob.
            op: with a Gather.
            region: of the op.
            start: as every offset of what is gathered, it counts wanted bytes only.
            end: behind the last one.
            transfer: of this part. Outside its `enter` and `leave` nothing is written that came over a network.
            note_fallback: as of readers.

        Raises:
            ReadError: with uri, offset and length.
            TransferStopped: the transfer was stopped, or the gatherer closed.
        """
        gather = op.gather
        assert gather is not None, "only strips are gathered"
        strips, target = gather.strips, region.slice(start, end)
        (first, before), (last, behind) = divmod(start - op.start, strips.width), divmod(end - op.start, strips.width)
        several = not before and not behind and (last - first) * len(strips.blocks) > 1
        if several and gather.joins_all and gather.way is not StripWay.SHARED:
            return self._read_rows(reader, strips, first, last, target, transfer)
        pieces = find_pieces(strips, start - op.start, end - op.start)
        runs = find_runs(pieces, gather.gap_bytes)
        if isinstance(reader, FileReader) and (len(runs) == len(pieces) or gather.way is StripWay.SHARED):
            if gather.way is StripWay.SECTORS:
                return self._read_sectors(reader, op.blob, pieces, target, note_fallback)
            return _copy_from_cache(reader, runs if gather.way is StripWay.SHARED else [], pieces, target)
        address = region.address + start - region.base
        return sum(self._read_run(reader, run, address, target, transfer) for run in runs)

    def close(self) -> None:
        """Gives the memory back, and stops whoever waits for some. Safe to call again."""
        self._scratch.close()

    def _read_rows(
        self, reader: BlobReader, strips: Strips, first: int, last: int, target: memoryview, transfer: Transfer
    ) -> int:
        """Reads the rows `[first, last)` from their first wanted byte to their last, and keeps what is wanted."""
        begin, end = strips.blocks[0][0], strips.blocks[-1][1]
        origin = strips.start + first * strips.row_bytes
        start, stop = origin + begin, origin + (last - 1 - first) * strips.row_bytes + end
        with self._scratch.lend() as scratch, _passing(transfer, stop - start, len(target)) as inner:
            region = Region(scratch.address, start - start % PAGE_BYTES, scratch.view, pages=True)
            requests = reader.read(region, start, stop, inner)
            place = 0
            for block_start, block_end in strips.blocks:
                shape = last - first, block_end - block_start
                inside = origin + block_start - region.base
                source = numpy.ndarray(shape, numpy.uint8, scratch.view, inside, (strips.row_bytes, 1))
                numpy.ndarray(shape, numpy.uint8, target, place, (strips.width, 1))[...] = source
                place += shape[1]
            return requests

    def _read_sectors(
        self, reader: FileReader, blob: int, pieces: Pieces, target: memoryview, note_fallback: NoteFallback
    ) -> int:
        with self._lock:
            direct = self._files.setdefault(blob, DirectPieces(reader.file))
        with self._scratch.lend() as scratch:
            return direct.read(pieces, target, scratch, note_fallback)

    def _read_run(self, reader: BlobReader, run: Pieces, address: int, target: memoryview, transfer: Transfer) -> int:
        start, stop = int(run.starts[0]), int(run.starts[-1] + run.lengths[-1])
        place, place_end = int(run.places[0]), int(run.places[-1] + run.lengths[-1])
        if len(run) == 1:
            with _passing(transfer, stop - start, place_end) as inner:
                return reader.read(Region(address + place, start, target[place:place_end]), start, stop, inner)
        with self._scratch.lend() as scratch, _passing(transfer, stop - start, place_end) as inner:
            region = Region(scratch.address, start - start % PAGE_BYTES, scratch.view, pages=True)
            requests = reader.read(region, start, stop, inner)
            for piece_start, length, piece_place in run:
                target[piece_place : piece_place + length] = region.slice(piece_start, piece_start + length)
            return requests


def _copy_from_cache(reader: FileReader, runs: Sequence[Pieces], pieces: Pieces, target: memoryview) -> int:
    """Copies pieces out of the page cache, once these runs have been brought in there as wholes."""
    for run in runs:
        reader.file.bring_in(int(run.starts[0]), int(run.starts[-1] + run.lengths[-1]))
    return reader.file.copy_pieces(pieces, target)


def find_pieces(strips: Strips, start: int, end: int) -> Pieces:
    """Where the bytes `[start, end)` lie of what the strips hold together, and their places behind `start`."""
    rows = numpy.arange(start // strips.width, -(-end // strips.width), dtype=numpy.int64)[:, None]
    begins = numpy.array([block[0] for block in strips.blocks], numpy.int64)
    lengths = numpy.array([block[1] - block[0] for block in strips.blocks], numpy.int64)
    starts = (strips.start + rows * strips.row_bytes + begins).ravel()
    places = (rows * strips.width + numpy.cumsum(lengths) - lengths).ravel()
    lengths = numpy.tile(lengths, len(rows))
    before, behind = numpy.maximum(start - places, 0), numpy.maximum(places + lengths - end, 0)
    pieces = Pieces(starts + before, lengths - before - behind, places + before - start)
    return pieces.select(pieces.lengths > 0)


def find_runs(pieces: Pieces, gap_bytes: int) -> list[Pieces]:
    """The pieces in groups, in each of which neighbours are no further apart than the gap."""
    gaps = pieces.starts[1:] - pieces.starts[:-1] - pieces.lengths[:-1]
    ends = [*(numpy.flatnonzero(gaps > gap_bytes) + 1).tolist(), len(pieces)]
    return [pieces.select(slice(first, last)) for first, last in zip([0, *ends], ends, strict=False)]


@contextmanager
def _passing(transfer: Transfer, source_bytes: int, landed: int) -> Iterator[Transfer]:
    """A transfer of bytes that come into other memory first; stopping the outer one stops it.

    Args:
        transfer: the outer one.
        source_bytes: how many come.
        landed: how many bytes of the outer one are at their places after it.
    """
    inner = Transfer()
    transfer.enter(inner)
    transfer.inner = inner
    try:
        yield inner
        transfer.passed += source_bytes
        transfer.landed = landed
    except TransferStopped:
        transfer.discarded += inner.landed
        raise
    finally:
        transfer.inner = None
        transfer.leave()
