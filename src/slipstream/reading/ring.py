"""A ring of slots that bytes pass through: read into, copied from, and used again once the copy is over.

    free ──lease──▶ read into ──give_back(event)──▶ copied from ──event──▶ free

Slots are made when they are first needed, up to as many as the plan allows. Who asks for one while all are in use waits
for the first that comes back; if that takes a copy to end, one of those who wait asks the copy, and the others are
woken. The lock is held for microseconds: never while a slot is made or a copy is waited for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Condition
from time import monotonic
from typing import Protocol

from slipstream.errors import MemoryLimitError
from slipstream.reading.buffers import view_memory
from slipstream.reading.memory import map_memory, unmap
from slipstream.transport.transfer import TransferStopped


class Event(Protocol):
    """When a copy is over. Any thread may ask."""

    def done(self) -> bool:
        """Whether it is.

        Raises:
            SlipstreamError: the copy failed.
        """
        ...

    def wait(self) -> None:
        """Waits until it is, without the interpreter's lock.

        Raises:
            SlipstreamError: the copy failed.
        """
        ...


class Slot:
    """Memory of whole pages. It is unmapped when the last view of it dies.

    Attributes:
        address: of the first byte.
        view: all of it, as unsigned bytes.
    """

    __slots__ = ("_ending", "address", "view")

    def __init__(self, nbytes: int) -> None:
        """
        Raises:
            OSError: the system gives no more memory.
        """
        self._ending = _Ending()
        self.address = map_memory(nbytes)
        self.view = view_memory(self.address, nbytes, self._ending)

    @property
    def locked(self) -> bool:
        """Whether its pages are locked."""
        return self._ending.unlock is not None

    def note_locked(self, unlock: Callable[[int], object]) -> None:
        """Notes that its pages were locked, and what unlocks them, given the address, before they are unmapped."""
        self._ending.unlock = unlock


class _Ending:
    """What becomes of a slot's mapping. An object of its own, so that the slot is in no reference cycle."""

    def __init__(self) -> None:
        self.unlock: Callable[[int], object] | None = None

    def __call__(self, address: int, nbytes: int) -> None:
        try:
            if self.unlock is not None:
                self.unlock(address)
        finally:
            unmap(address, nbytes)


class SlotMemory(Protocol):
    """Where slots come from, and what becomes of them."""

    def make(self, nbytes: int) -> Slot:
        """A slot of so many bytes; any thread.

        Raises:
            OSError: the system gives no more memory.
        """
        ...

    def keep(self, slots: Sequence[Slot]) -> None:
        """Takes slots that nobody uses any more: for another load, or to let them go."""
        ...


class HostMemory:
    """Plain memory, made for each load."""

    def make(self, nbytes: int) -> Slot:
        """See SlotMemory."""
        return Slot(nbytes)

    def keep(self, slots: Sequence[Slot]) -> None:
        """See SlotMemory. They go with their last reference."""


@dataclass(frozen=True, slots=True)
class RingStatistics:
    """What became of a ring so far.

    Attributes:
        slots: how many were made, or taken over.
        ring_bytes: how much memory they are.
        copies: how many were begun.
        making_s: seconds spent making slots, in all threads together.
        waited_s: seconds for which threads waited for one, together.
    """

    slots: int
    ring_bytes: int
    copies: int
    making_s: float
    waited_s: float


class Ring:
    """The slots of one load. Thread-safe."""

    def __init__(self, slot_bytes: int, most_slots: int, memory: SlotMemory) -> None:
        self._slot_bytes = slot_bytes
        self._most = most_slots
        self._memory = memory
        self._condition = Condition()
        self._free: list[Slot] = []  # the last one first: it is most likely in a processor's cache
        self._copying: deque[tuple[Slot, Event]] = deque()  # oldest first
        self._made = 0
        self._watched = False  # whether a thread waits for the oldest copy
        self._stopped = False
        self._ended = False
        self._copies = 0
        self._making_s = 0.0
        self._waited_s = 0.0

    def __repr__(self) -> str:
        return f"<Ring of {self._made} slots: {len(self._free)} free, {len(self._copying)} copied from>"

    def statistics(self) -> RingStatistics:
        """The figures so far."""
        return RingStatistics(self._made, self._made * self._slot_bytes, self._copies, self._making_s, self._waited_s)

    def lease(self) -> Slot:
        """A slot to read into; waits until there is one.

        Raises:
            TransferStopped: the ring was stopped.
            SlipstreamError: a copy failed, or there is no memory for a single slot.
        """
        while True:
            with self._condition:
                if self._stopped:
                    raise TransferStopped
                if not self._free:
                    self._collect()
                if self._free:
                    return self._free.pop()
                event = self._choose_event()
                if event is None and self._made == self._most:
                    self._wait()
                    continue
                if event is None:
                    self._made += 1
            if event is not None:
                self._watch(event)
            elif (slot := self._make()) is not None:
                return slot

    def give_back(self, slot: Slot, event: Event | None) -> None:
        """Takes a slot back.

        Args:
            slot: as leased.
            event: when the copy from it is over; None where none was begun.
        """
        with self._condition:
            ended = self._ended
            if event is not None:
                self._copies += 1
            if not ended:
                if event is None:
                    self._free.append(slot)
                else:
                    self._copying.append((slot, event))
                self._condition.notify_all()
        if ended and event is not None:
            event.wait()  # its memory goes when this call ends

    def stop(self) -> None:
        """Lets nobody wait for a slot any more."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()

    def end(self) -> None:
        """Waits for the copies that were begun, and gives the slots away. Those in use follow when they come back.

        Safe to call again, also from several threads.
        """
        self.stop()
        with self._condition:
            if self._ended:
                return
            self._ended = True
            copying, slots = list(self._copying), self._free
            self._copying.clear()
            self._free = []
        self._memory.keep(slots + [slot for slot, event in copying if _ends_well(event)])

    def _collect(self) -> None:
        """Frees what copies that are over were made from, in whichever order they end."""
        for _ in range(len(self._copying)):
            slot, event = self._copying.popleft()
            try:
                over = event.done()
            except BaseException:
                self._copying.append((slot, event))
                raise
            if over:
                self._free.append(slot)
            else:
                self._copying.append((slot, event))

    def _choose_event(self) -> Event | None:
        """The copy that this thread is to wait for, where no slot is left to be made."""
        if self._made < self._most or self._watched or not self._copying:
            return None
        self._watched = True
        return self._copying[0][1]

    def _watch(self, event: Event) -> None:
        began = monotonic()
        try:
            event.wait()
        finally:
            with self._condition:
                self._watched = False
                self._waited_s += monotonic() - began
                self._condition.notify_all()

    def _wait(self) -> None:
        began = monotonic()
        self._condition.wait()
        self._waited_s += monotonic() - began

    def _make(self) -> Slot | None:
        """One more slot; None where the system gives no memory for it, but there are others."""
        began = monotonic()
        try:
            slot = self._memory.make(self._slot_bytes)
        except OSError as error:
            with self._condition:
                self._made -= 1
                self._most = self._made
                self._condition.notify_all()
                if self._made:
                    return None
            raise MemoryLimitError(
                f"no memory for a slot of {self._slot_bytes:,} bytes that tensors pass through ({error.strerror}): "
                "free memory, or take a smaller chunk_bytes"
            ) from error
        with self._condition:
            self._making_s += monotonic() - began
        return slot


def _ends_well(event: Event) -> bool:
    """Waits for a copy; False where it failed, which was told already, or is of no use to anybody: the load is over.

    A function of its own, so that an error that somebody holds keeps no slot by its traceback.
    """
    try:
        event.wait()
    except Exception:
        return False
    return True
