"""What is asked of a FileStreamer: ranges of one file, and how much memory they may take."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from itertools import accumulate

from runai_model_streamer.errors import RunaiStreamerMemoryLimitException
from runai_model_streamer.settings import DEFAULT_MEMORY_LIMIT, MEMORY_LIMIT_VARIABLE

__all__ = [
    "DEFAULT_MEMORY_LIMIT_STRING",
    "RUNAI_STREAMER_MEMORY_LIMIT_ENV_VAR_NAME",
    "FileChunks",
    "MemoryCapMode",
    "RunaiStreamerMemoryLimitException",
]

RUNAI_STREAMER_MEMORY_LIMIT_ENV_VAR_NAME = MEMORY_LIMIT_VARIABLE
DEFAULT_MEMORY_LIMIT_STRING = str(DEFAULT_MEMORY_LIMIT)


class MemoryCapMode(enum.Enum):
    """What a memory limit of -1, of more than 0, and of 0 stands for."""

    unlimited = 1
    limited = 2
    largest_chunk = 3


class FileChunks:
    """Ranges of one file, in any order; with gaps, overlaps and empty ones.

        FileChunks(0, path, [offset, ...], [size, ...])     as of 0.17
        FileChunks(0, path, offset, [size, ...])            as up to 0.16: one behind the other, from an offset on
        FileChunks.contiguous(0, path, offset, [size, ...]) the same

    Attributes:
        id: what `get_chunks` calls it by; another one for each file of a call.
        path: the file, or the URI of an object.
        offsets: where each range begins, in bytes.
        sizes: how long each is, in bytes.
    """

    def __init__(
        self,
        id: int,
        path: str,
        offsets: Sequence[int] | int | None = None,
        sizes: Sequence[int] | None = None,
        *,
        offset: int | None = None,
        chunks: Sequence[int] | None = None,
    ) -> None:
        """
        Args:
            id, path, offsets, sizes: as the attributes.
            offset, chunks: `offsets` and `sizes` by the names that they had up to 0.16.

        Raises:
            ValueError: not as many offsets as sizes.
        """
        start = offset if offsets is None else offsets
        lengths = chunks if sizes is None else sizes
        if start is None or lengths is None:
            raise TypeError("FileChunks takes an id, a path, offsets and sizes")
        self.id = id
        self.path = path
        self.offsets = _lay_out(start, lengths) if isinstance(start, int) else start
        self.sizes = lengths
        if len(self.offsets) != len(self.sizes):
            raise ValueError(f"there are {len(self.offsets)} offsets and {len(self.sizes)} sizes of {path}")

    @staticmethod
    def contiguous(id: int, path: str, offset: int, sizes: Sequence[int]) -> FileChunks:
        """Ranges of these sizes, one behind the other, from `offset` on."""
        return FileChunks(id, path, offset, sizes)

    @property
    def offset(self) -> int:
        """Where the first range begins; up to 0.16 what was given."""
        return self.offsets[0] if self.offsets else 0

    @property
    def chunks(self) -> Sequence[int]:
        """`sizes`, by the name of up to 0.16."""
        return self.sizes

    def total_size(self) -> int:
        """Bytes of all ranges."""
        return sum(self.sizes)

    def max_chunk_size(self) -> int:
        """Bytes of the largest range."""
        return max(self.sizes)

    def __repr__(self) -> str:
        return (
            f"FileChunks(id={self.id!r}, path={self.path!r}, num_ranges={len(self.sizes)}, "
            f"total_size={self.total_size()})"
        )


def _lay_out(start: int, sizes: Sequence[int]) -> list[int]:
    return list(accumulate(sizes, initial=start))[: len(sizes)]
