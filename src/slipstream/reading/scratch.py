"""Memory that bytes only pass through, on their way to where they stand without what lay between them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition
from typing import TYPE_CHECKING

from slipstream.errors import ReadError
from slipstream.reading.memory import PAGE_BYTES, map_memory, unmap
from slipstream.transport.transfer import TransferStopped

if TYPE_CHECKING:
    from slipstream.reading.aio import AsyncReads


class Scratch:
    """A piece of such memory: whole pages.

    Attributes:
        address: of the first byte.
        view: all of it.
        reads: what reads into it many pieces at once, once somebody has made it.
    """

    __slots__ = ("address", "reads", "view")

    def __init__(self, length: int) -> None:
        self.address = map_memory(length)
        self.view = memoryview((ctypes.c_ubyte * length).from_address(self.address)).cast("B")
        self.reads: AsyncReads | None = None


class ScratchPool:
    """A bounded number of equal pieces, used again and again: nobody outside ever holds a view of them.

    Whoever waits for a piece waits for another read to end, never for the caller. So the pool may be as small as one
    piece, and reads still go on.
    """

    def __init__(self, span_bytes: int, most_bytes: int) -> None:
        """
        Args:
            span_bytes: what one read takes from its blob; a piece holds the pages around it.
            most_bytes: all pieces together, though there is always one.
        """
        self.length = (-(-span_bytes // PAGE_BYTES) + 2) * PAGE_BYTES
        self._most = max(most_bytes // self.length, 1)
        self._changed = Condition()
        self._free: list[Scratch] = []
        self._made = 0
        self._closed = False

    def __repr__(self) -> str:
        return f"<ScratchPool {self._made} of {self._most} pieces of {self.length:,} bytes>"

    @property
    def peak_bytes(self) -> int:
        """The most that was mapped at once."""
        return self._made * self.length

    @contextmanager
    def lend(self) -> Iterator[Scratch]:
        """A piece for the time of a block, whose contents are whatever was there before.

        Raises:
            TransferStopped: the pool was closed, also while this waited.
            ReadError: there is no memory for a single piece.
        """
        piece = self._take()
        try:
            yield piece
        finally:
            self._give_back(piece)

    def close(self) -> None:
        """Gives free pieces back to the system, and those that are lent as soon as they come back."""
        with self._changed:
            self._closed = True
            free, self._free = self._free, []
            self._changed.notify_all()
        for piece in free:
            self._unmap(piece)

    def _take(self) -> Scratch:
        with self._changed:
            while not self._closed:
                if self._free:
                    return self._free.pop()
                if self._made < self._most:
                    piece = self._try_make()
                    if piece is not None:
                        return piece
                self._changed.wait()
            raise TransferStopped

    def _try_make(self) -> Scratch | None:
        """Another piece; None where there is no memory for it, but there are some."""
        try:
            piece = Scratch(self.length)
        except OSError as error:
            if not self._made:
                text = f"no memory for {self.length:,} bytes of what is read along with columns ({error.strerror})"
                raise ReadError(f"{text}: free memory, or set a smaller chunk_bytes") from error
            self._most = self._made
            return None
        self._made += 1
        return piece

    def _give_back(self, piece: Scratch) -> None:
        with self._changed:
            closed = self._closed
            if not closed:
                self._free.append(piece)
                self._changed.notify()
        if closed:
            self._unmap(piece)

    def _unmap(self, piece: Scratch) -> None:
        if piece.reads is not None:
            piece.reads.close()
        unmap(piece.address, self.length)
