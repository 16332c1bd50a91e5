"""Many small pieces of a file, each read by itself, past the page cache.

A device gives sectors, the page cache pages: of rows of 8 KiB, strips of 2 KiB are a quarter in sectors, but half or
all in pages. What is cached already is copied from the cache.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy

from slipstream.reading.aio import AsyncReads, Int64s
from slipstream.reading.base import NoteFallback
from slipstream.reading.file import OpenFile
from slipstream.reading.scratch import Scratch
from slipstream.sources.page_cache import count_cached_bytes

_DEPTH = 256  # reads under way for each worker: two workers keep a device busy
_SECTORS = (512, 4096)  # most devices have the first, some the second
_REFUSALS = frozenset((errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS))


@dataclass(frozen=True, slots=True)
class Pieces:
    """Ranges of a blob, and where their bytes go, one behind the other.

    Attributes:
        starts: in the blob, ascending.
        lengths: none is 0.
        places: in the destination.
    """

    starts: Int64s
    lengths: Int64s
    places: Int64s

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Start, length and place of each."""
        return zip(self.starts.tolist(), self.lengths.tolist(), self.places.tolist(), strict=True)

    def select(self, which: slice | numpy.ndarray[tuple[int], numpy.dtype[numpy.bool_]]) -> Pieces:
        """Some of them."""
        return Pieces(self.starts[which], self.lengths[which], self.places[which])


class DirectPieces:
    """Reads pieces of one file with O_DIRECT. Safe to use from many threads, each with a scratch of its own."""

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        self._sector = _SECTORS[0]
        self._bypasses = True
        self._asynchronous = True

    def read(self, pieces: Pieces, target: memoryview, scratch: Scratch, note_fallback: NoteFallback) -> int:
        """Copies the pieces to their places in the target; returns the requests made.

        Args:
            pieces: of the file.
            target: where they go.
            scratch: room for at least one of them and the sectors around it.
            note_fallback: as of readers.

        Raises:
            ReadError: with uri, offset and length.
        """
        descriptor = self._open(note_fallback)
        first, last = int(pieces.starts[0]), int(pieces.starts[-1] + pieces.lengths[-1])
        if descriptor is None or count_cached_bytes(self._file.descriptor, first, last - first) == last - first:
            return self._file.copy_pieces(pieces, target)
        requests = 0
        for batch in self._batches(pieces, len(scratch.view)):
            requests += self._read_batch(descriptor, batch, target, scratch, note_fallback)
        return requests

    def _open(self, note_fallback: NoteFallback) -> int | None:
        if not self._bypasses:
            return None
        try:
            return self._file.open_direct()
        except OSError as error:
            self._fall_back(error.strerror or str(error), note_fallback)
            return None

    def _batches(self, pieces: Pieces, room: int) -> Iterator[Pieces]:
        """As many at a time as have room for their sectors, whichever size these turn out to have."""
        ends = numpy.cumsum(pieces.lengths + 2 * _SECTORS[-1])
        begin = 0
        while begin < len(pieces):
            before = int(ends[begin - 1]) if begin else 0
            end = int(numpy.searchsorted(ends, before + room, side="right"))
            end = max(min(end, begin + _DEPTH), begin + 1)
            yield pieces.select(slice(begin, end))
            begin = end

    def _read_batch(
        self, descriptor: int, pieces: Pieces, target: memoryview, scratch: Scratch, note_fallback: NoteFallback
    ) -> int:
        if not self._bypasses:
            return self._file.copy_pieces(pieces, target)
        sector = self._sector
        firsts = pieces.starts // sector * sector
        ends = pieces.starts + pieces.lengths
        spans = (ends + sector - 1) // sector * sector - firsts
        wheres = numpy.cumsum(spans) - spans
        results = self._read_spans(descriptor, firsts, spans, wheres, scratch, note_fallback)
        whole = results >= ends - firsts
        if not whole.all():
            if _REFUSALS.intersection((-results[results < 0]).tolist()):
                self._take_refusal(sector, note_fallback)
                return self._read_batch(descriptor, pieces, target, scratch, note_fallback)
            self._file.copy_pieces(pieces.select(~whole), target)  # which says what is wrong, if it still is
        view, insides = scratch.view, wheres + pieces.starts - firsts
        for (_, length, place), inside, came in zip(pieces, insides.tolist(), whole.tolist(), strict=True):
            if came:
                target[place : place + length] = view[inside : inside + length]
        return len(pieces)

    def _read_spans(
        self,
        descriptor: int,
        firsts: Int64s,
        spans: Int64s,
        wheres: Int64s,
        scratch: Scratch,
        note_fallback: NoteFallback,
    ) -> Int64s:
        """Reads whole sectors into the scratch; returns how many bytes came for each, or its errno below 0."""
        if self._asynchronous and scratch.reads is None:
            try:
                scratch.reads = AsyncReads(_DEPTH)
            except OSError as error:
                self._asynchronous = False
                note_fallback(f"io_setup was refused ({error.strerror}): strips are read one by one instead")
        if scratch.reads is not None:
            return scratch.reads.read(descriptor, firsts, spans, wheres + scratch.address)
        ranges = zip(firsts.tolist(), spans.tolist(), wheres.tolist(), strict=True)
        return numpy.array(
            [_read_span(descriptor, first, scratch.view[where : where + span]) for first, span, where in ranges],
            numpy.int64,
        )

    def _take_refusal(self, sector: int, note_fallback: NoteFallback) -> None:
        """What was read in sectors of this size was refused: they are larger, or there is no reading past the cache."""
        if sector < _SECTORS[-1]:
            self._sector = _SECTORS[-1]
        else:
            self._fall_back("the file system takes no such reads", note_fallback)

    def _fall_back(self, refusal: str, note_fallback: NoteFallback) -> None:
        self._bypasses = False
        note_fallback(f"O_DIRECT was refused ({refusal}): strips are read through the page cache instead")


def _read_span(descriptor: int, first: int, target: memoryview) -> int:
    try:
        return os.preadv(descriptor, [target], first)
    except OSError as error:
        return -(error.errno or errno.EIO)
