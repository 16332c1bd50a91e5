"""Fetches what a directory lacks: one process at a time, many ranges at once."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from slipstream.errors import WriteError
from slipstream.options import PULL_MEMORY_BYTES, Options
from slipstream.pulling.arrivals import Arrivals, NewFile
from slipstream.pulling.directory import Directory
from slipstream.pulling.record import Record, is_there, read_record
from slipstream.pulling.spans import count_bytes, cut_spans
from slipstream.ranges import RangeStream, lay_out_ranges
from slipstream.sources.registry import Sources
from slipstream.streaming import begin_stream
from slipstream.types import ListedFile, Progress

_MOST_PARTS = 4096  # of one pull, beside its files: each is a mapping while it is in memory
_PAGE_BYTES = 4096


def holds_all(directory: str, wanted: Sequence[ListedFile]) -> bool:
    """Whether a directory holds all these files already. Takes no lock and writes nothing.

    So it is quick, and a directory on a read-only file system can be pulled into as long as nothing is to be done.
    """
    if not wanted:
        return True
    try:
        place = Directory(directory)
    except WriteError:
        return False
    with place:
        known = read_record(place)
        return all(is_there(place, file, known.get(file.path)) for file in wanted)


def fetch(
    place: Directory,
    wanted: Sequence[ListedFile],
    sources: Sources,
    options: Options,
    report: Callable[[Progress], object] | None,
) -> None:
    """Makes a directory hold these files. The caller holds its lock.

    Args:
        place: the directory.
        wanted: the files, with paths that were checked.
        sources: where they were listed. Closed in the end.
        options: how to read.
        report: what to tell how far it is, in this thread.

    Raises:
        WriteError: the directory cannot be written; before anything is fetched, where that can be seen.
        SlipstreamError: what the source says.
    """
    started = time.perf_counter()
    with Record(place, wanted) as record:
        new = [NewFile(file, record.landed(file)) for file in wanted if not record.is_there(file)]
        missing_bytes = sum(count_bytes(file.missing) for file in new)
        for file in new:
            place.check_way(file.file.path)
        _check_room(place, missing_bytes)
        with Arrivals(place, record, new) as arrivals:

            def forward(progress: Progress) -> None:
                if report is not None:
                    report(progress._replace(tensors_delivered=arrivals.finished, tensors_total=len(new)))

            if missing_bytes:
                _receive(new, missing_bytes, arrivals, sources, options, forward if report else False)
    if report is not None:
        report(Progress(missing_bytes, missing_bytes, len(new), len(new), time.perf_counter() - started))


def _receive(
    new: Sequence[NewFile],
    missing_bytes: int,
    arrivals: Arrivals,
    sources: Sources,
    options: Options,
    progress: bool | Callable[[Progress], object],
) -> None:
    """Reads what is missing, and writes each range as it comes."""
    import numpy  # here, because a directory that holds all needs nothing of it

    limit = options.memory_limit or PULL_MEMORY_BYTES
    part_bytes = choose_part_bytes(missing_bytes, options.chunk_bytes, limit)
    parts = [
        (number, start, end) for number, file in enumerate(new) for start, end in cut_spans(file.missing, part_bytes)
    ]
    checkpoint = lay_out_ranges([file.file.blob for file in new], parts)
    limited = replace(options, memory_limit=limit)
    stream = begin_stream(lambda sources: checkpoint, sources, "cpu", "numpy", None, limited, progress)
    with RangeStream(stream) as arriving:
        for position, data in arriving:
            number, start, _ = parts[position]
            arrivals.write(number, start, numpy.asarray(data).data)
            del data  # so that the next one has room under the limit


def choose_part_bytes(missing_bytes: int, chunk_bytes: int, limit: int) -> int:
    """How large the parts are that files come in: a chunk, or more where there would be too many parts.

    Several fit within the limit. They are so large that the plan joins none of them.
    """
    chunk_bytes = -(-chunk_bytes // _PAGE_BYTES) * _PAGE_BYTES
    part_bytes = chunk_bytes * max(-(-missing_bytes // (chunk_bytes * _MOST_PARTS)), 1)
    most_bytes = limit // 4
    if part_bytes <= most_bytes:
        return part_bytes
    return max(most_bytes - most_bytes % _PAGE_BYTES, min(most_bytes, _PAGE_BYTES), 1)


def _check_room(place: Directory, missing_bytes: int) -> None:
    free_bytes = place.free_bytes()
    if free_bytes is not None and free_bytes < missing_bytes:
        error = WriteError(
            f"{missing_bytes / 1e6:,.1f} MB have to be fetched, and {place.path} has {free_bytes / 1e6:,.1f} MB free: "
            "free some space, choose another directory, or leave files out with ignore=",
            uri=place.path,
        )
        error.errno = errno.ENOSPC
        raise error
