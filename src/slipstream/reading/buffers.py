"""Memory that tensors stand in, and the account of it.

A Region is the memory of one ReadOp. Tensors are views of it; Python's reference counts know when the
last view is gone, and only then the memory goes back:

    tensor -> numpy array -> memoryview -> ctypes array <- weakref.finalize -> unmap, Ledger.give_back

There is no pool to recycle, so nothing is ever overwritten under a caller.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections import deque
from collections.abc import Callable
from threading import Condition
from typing import TypeAlias

from slipstream.reading.memory import PAGE_BYTES, map_file, map_memory, unmap
from slipstream.types import ReadOp

EndLease: TypeAlias = Callable[[int, int], None]
"""Takes the address and length of the mapping to end; 0 and 0 where Python frees the memory itself."""

_HEAP_BYTES = 128 << 10  # above it, malloc makes a mapping too


class Region:
    """Writable memory that holds the bytes of a blob from `base` on.

    Attributes:
        address: of the first byte.
        base: the blob offset that the first byte has.
        view: all of it, as unsigned bytes. Whoever holds a view of it keeps the memory.
        pages: whether it consists of whole pages that begin at a page of the blob.
        maps_file: whether it is a mapping of the file, rather than memory to read into.
    """

    __slots__ = ("address", "base", "maps_file", "pages", "view")

    def __init__(
        self, address: int, base: int, view: memoryview, *, pages: bool = False, maps_file: bool = False
    ) -> None:
        self.address = address
        self.base = base
        self.view = view
        self.pages = pages
        self.maps_file = maps_file

    @property
    def owns_pages(self) -> bool:
        """Whether it is a mapping of its own, so that its pages hold nothing else."""
        return self.pages or len(self.view) >= _HEAP_BYTES

    def slice(self, start: int, end: int) -> memoryview:
        """The bytes `[start, end)` of the blob."""
        return self.view[start - self.base : end - self.base]


MapOp: TypeAlias = Callable[[ReadOp, EndLease], Region]
"""How a blob's reader makes the memory of an op."""


def map_region(
    start: int,
    end: int,
    descriptor: int | None,
    end_lease: EndLease,
    *,
    huge_pages: bool = True,
    exact: bool = False,
) -> Region:
    """Memory for the blob's bytes `[start, end)`, widened to whole pages of the blob.

    Args:
        start: blob offset.
        end: blob offset behind the last byte.
        descriptor: the file to map; None for anonymous memory.
        end_lease: called once, in any thread, when the last view died.
        huge_pages: whether a mapping of the file is advised to use them; memory always is.
        exact: whether a mapping of the file reads nothing ahead.

    Raises:
        OSError: the system refuses; nothing is left mapped.
    """
    base = start - start % PAGE_BYTES
    length = -(-(end - base) // PAGE_BYTES) * PAGE_BYTES
    if descriptor is None:
        address = map_memory(length)
    else:
        address = map_file(descriptor, base, length, huge_pages=huge_pages, exact=exact)
    view = view_memory(address, length, end_lease)
    return Region(address, base, view, pages=True, maps_file=descriptor is not None)


def allocate_region(start: int, end: int, end_lease: EndLease) -> Region:
    """Memory for exactly the blob's bytes `[start, end)`, aligned for every element type.

    What is small comes from the heap, because a process may have only 65,530 mappings.

    Args and raises: as map_region.
    """
    length = end - start
    if length >= _HEAP_BYTES:
        address = map_memory(length)
        return Region(address, start, view_memory(address, length, end_lease))
    owner = (ctypes.c_ubyte * length)()
    weakref.finalize(owner, end_lease, 0, 0).atexit = False
    return Region(ctypes.addressof(owner), start, memoryview(owner).cast("B"))


def make_region(op: ReadOp, map_op: MapOp, end_lease: EndLease, *, on_heap: bool) -> Region:
    """The memory of a whole op: as its reader maps it, unless it has to begin at its first byte or must be no mapping.

    Raises: as map_region.
    """
    if op.realigns or on_heap:
        return allocate_region(op.start, op.end, end_lease)
    return map_op(op, end_lease)


def view_memory(address: int, length: int, end_lease: EndLease) -> memoryview:
    """A view of a mapping; `end_lease` is called once, in any thread, when the last view died."""
    owner = (ctypes.c_ubyte * length).from_address(address)
    weakref.finalize(owner, end_lease, address, length).atexit = False
    return memoryview(owner).cast("B")


def copy_region(region: Region, start: int, end: int, end_lease: EndLease) -> Region:
    """A copy of the bytes `[start, end)` in memory of its own, which lives without the region.

    Raises: as map_region.
    """
    copy = allocate_region(start, end, end_lease)
    ctypes.memmove(copy.address, region.address + start - region.base, end - start)
    return copy


class Ledger:
    """How much memory is leased, and how much may be. Guarded by the condition of its schedule.

    Memory comes back through `end_lease` whenever the last view is found dead: in any thread, also in
    one that is inside the schedule's lock at that moment. So it only appends to a queue (atomic) and
    wakes the waiters; the lock is reentrant; and whoever decides reads the queue first.

    Python swallows what is raised in a finalizer. A signal that arrives during the unmapping of a
    large tensor, which is where a caller who drops tensors spends his time, would be lost with it, so
    what its handler raises (KeyboardInterrupt, SystemExit) is kept as `interruption` for the next call.
    """

    def __init__(self, condition: Condition, limit: int | None, *, count_held: bool = True) -> None:
        self._condition = condition
        self._limit = limit
        self._count_held = count_held
        self._process = os.getpid()
        self._returned: deque[int] = deque()
        self._leased = 0
        self._peak = 0
        self.interruption: BaseException | None = None

    @property
    def leased_bytes(self) -> int:
        """Bytes in flight, waiting to be delivered, or held by the caller, if what it holds counts."""
        while self._returned:
            self._leased -= self._returned.popleft()
        return self._leased

    @property
    def peak_bytes(self) -> int:
        """The most that was leased at once."""
        return self._peak

    def can_lease(self, length: int) -> bool:
        """Whether `length` bytes more are within the limit now."""
        return self._limit is None or self.leased_bytes + length <= self._limit

    def try_lease(self, length: int) -> bool:
        """Takes `length` bytes from the account, unless that would exceed the limit."""
        if not self.can_lease(length):
            return False
        self._leased = self.leased_bytes + length
        self._peak = max(self._peak, self._leased)
        return True

    def exchange(self, lease: int, length: int) -> None:
        """Puts what the caller is about to hold, if that counts, in place of a lease, be it more or less.

        Args:
            lease: bytes of it that will not be given back.
            length: bytes that will be, when the caller has dropped them; also beyond the limit.
        """
        if self._count_held:
            with self._condition:
                self._leased = self.leased_bytes + length - lease
                self._peak = max(self._peak, self._leased)
                self._condition.notify_all()

    def hand_over(self, length: int) -> None:
        """Notes that `length` bytes are the caller's: the end of their lease, unless what it holds counts."""
        if not self._count_held:
            self._give_back(length)

    def end_lease(self, length: int, address: int, mapped_bytes: int) -> None:
        """Unmaps the memory and returns `length` bytes. Any thread; in a forked child nobody waits for them."""
        try:
            try:
                if mapped_bytes:
                    unmap(address, mapped_bytes)
            finally:
                if self._count_held:
                    self._give_back(length)
        except BaseException as error:
            self.interruption = error

    def _give_back(self, length: int) -> None:
        if os.getpid() != self._process:
            return  # the lock may have been held at the fork, and would be for ever
        self._returned.append(length)
        with self._condition:
            self._condition.notify_all()
