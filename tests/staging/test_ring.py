"""The ring by itself: slots are used again once their copies are over, and whoever waits for one is woken."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from slipstream.errors import DeviceError, MemoryLimitError
from slipstream.reading.ring import HostMemory, Ring, Slot
from slipstream.testing.process_watch import wait_for
from slipstream.transport.transfer import TransferStopped

SLOT_BYTES = 8192
HANG_S = 60.0


class Gate:
    """An Event that is over when it is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.error: Exception | None = None
        self.waiting = threading.Event()

    def open(self, error: Exception | None = None) -> None:
        self.error = error
        self._open.set()

    def done(self) -> bool:
        if self.error is not None:
            raise self.error
        return self._open.is_set()

    def wait(self) -> None:
        self.waiting.set()
        assert self._open.wait(HANG_S)
        if self.error is not None:
            raise self.error


class Watched(HostMemory):
    """Memory that refuses after so many slots, and keeps what it is given."""

    def __init__(self, most: int = 1000) -> None:
        self.made = 0
        self.kept: list[Slot] = []
        self._most = most

    def make(self, nbytes: int) -> Slot:
        if self.made == self._most:
            raise OSError(12, "Cannot allocate memory")
        self.made += 1
        return super().make(nbytes)

    def keep(self, slots: Sequence[Slot]) -> None:
        self.kept += slots


def lease_in_thread(ring: Ring) -> tuple[threading.Thread, list[Any]]:
    """Leases a slot in another thread; what came of it is in the list."""
    found: list[Any] = []

    def lease() -> None:
        try:
            found.append(ring.lease())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=lease)
    thread.start()
    return thread, found


def test_slots_are_made_when_they_are_needed() -> None:
    """A ring that may have many slots makes no more than were in use at once."""
    memory = Watched()
    ring = Ring(SLOT_BYTES, 10, memory)
    for _ in range(5):
        first, second = ring.lease(), ring.lease()
        assert first.address != second.address
        ring.give_back(first, None)
        ring.give_back(second, None)
    assert memory.made == 2
    assert ring.statistics().ring_bytes == 2 * SLOT_BYTES


def test_a_slot_is_whole_and_writable() -> None:
    """All of a slot can be written, and begins at a page."""
    slot = Ring(SLOT_BYTES, 1, HostMemory()).lease()
    slot.view[:] = b"x" * SLOT_BYTES
    assert slot.address % 4096 == 0


def test_a_slot_is_not_used_again_before_its_copy_is_over() -> None:
    """Who asks while every slot is copied from waits for a copy, and gets the slot whose copy is over."""
    ring = Ring(SLOT_BYTES, 2, HostMemory())
    slots, gates = [ring.lease(), ring.lease()], [Gate(), Gate()]
    for slot, gate in zip(slots, gates, strict=True):
        ring.give_back(slot, gate)
    thread, found = lease_in_thread(ring)
    assert gates[0].waiting.wait(HANG_S)
    assert not found
    gates[1].open()
    gates[0].open()
    thread.join(HANG_S)
    assert found[0].address in {slot.address for slot in slots}


def test_copies_may_end_in_any_order() -> None:
    """A slot whose copy ends before an earlier one is free at once."""
    ring = Ring(SLOT_BYTES, 2, HostMemory())
    slots, gates = [ring.lease(), ring.lease()], [Gate(), Gate()]
    for slot, gate in zip(slots, gates, strict=True):
        ring.give_back(slot, gate)
    gates[1].open()
    assert ring.lease() is slots[1]
    gates[0].open()


def test_those_who_wait_are_woken_by_a_slot_that_comes_back_unused() -> None:
    """While one waits for a copy, others wait for whatever comes back first."""
    ring = Ring(SLOT_BYTES, 2, HostMemory())
    copied, used = ring.lease(), ring.lease()
    gate = Gate()
    ring.give_back(copied, gate)
    first, found_first = lease_in_thread(ring)
    assert gate.waiting.wait(HANG_S)
    second, found_second = lease_in_thread(ring)
    ring.give_back(used, None)
    second.join(HANG_S)
    assert found_second == [used]
    gate.open()
    first.join(HANG_S)
    assert found_first == [copied]


def test_a_copy_that_failed_fails_the_next_read() -> None:
    """An error of the device comes out where a slot is asked for, also where a thread waited for that copy."""
    for opened_first in (True, False):
        ring = Ring(SLOT_BYTES, 1, HostMemory())
        gate = Gate()
        ring.give_back(ring.lease(), gate)
        if opened_first:
            gate.open(DeviceError("gone"))
        thread, found = lease_in_thread(ring)
        if not opened_first:
            assert gate.waiting.wait(HANG_S)
            gate.open(DeviceError("gone"))
        thread.join(HANG_S)
        assert isinstance(found[0], DeviceError)
        ring.end()


def test_stopping_wakes_those_who_wait() -> None:
    """After stop nobody is given a slot, and nobody waits for one."""
    ring = Ring(SLOT_BYTES, 1, HostMemory())
    used = ring.lease()
    waiting = [lease_in_thread(ring) for _ in range(3)]
    ring.stop()
    for thread, found in waiting:
        thread.join(HANG_S)
        assert isinstance(found[0], TransferStopped)
    with pytest.raises(TransferStopped):
        ring.lease()
    ring.give_back(used, None)


def test_the_end_waits_for_copies() -> None:
    """No memory goes, or is kept for another load, while a device may read it; what failed is not kept."""
    memory = Watched()
    ring = Ring(SLOT_BYTES, 3, memory)
    good, bad, used = ring.lease(), ring.lease(), ring.lease()
    slow, failing = Gate(), Gate()
    ring.give_back(good, slow)
    ring.give_back(bad, failing)
    ending = threading.Thread(target=ring.end)
    ending.start()
    assert slow.waiting.wait(HANG_S)
    assert not memory.kept
    slow.open()
    failing.open(DeviceError("gone"))
    ending.join(HANG_S)
    assert memory.kept == [good]
    ring.end()
    late = Gate()
    late.open()
    ring.give_back(used, late)  # of a read that was stuck when the load ended
    assert memory.kept == [good]


def test_less_memory_than_wanted() -> None:
    """Where the system gives no more slots, those that there are do; where it gives none, that is an error."""
    ring = Ring(SLOT_BYTES, 10, Watched(most=2))
    slots = [ring.lease(), ring.lease()]
    thread, found = lease_in_thread(ring)
    ring.give_back(slots[0], None)
    thread.join(HANG_S)
    assert found == [slots[0]]
    with pytest.raises(MemoryLimitError, match="chunk_bytes"):
        Ring(SLOT_BYTES, 10, Watched(most=0)).lease()


def test_memory_of_slots_goes_with_their_last_view() -> None:
    """A view of a slot keeps its memory; without one it is unmapped, once."""
    slot = HostMemory().make(1 << 20)
    address = f"{slot.address:x}-"
    view = slot.view[:10]
    view[:] = b"0123456789"
    del slot
    gc.collect()
    assert view.tobytes() == b"0123456789"
    del view
    gc.collect()
    with open("/proc/self/maps") as maps:
        assert not any(line.startswith(address) for line in maps)


def test_many_threads() -> None:
    """Threads that read and copy at random never hold one slot at once, and all of them end."""
    ring = Ring(SLOT_BYTES, 4, HostMemory())
    in_use: set[int] = set()
    lock, failures = threading.Lock(), list[BaseException]()
    gates: list[Gate] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        try:
            for _ in range(200):
                slot = ring.lease()
                with lock:
                    assert slot.address not in in_use
                    in_use.add(slot.address)
                gate = Gate() if chance.random() < 0.7 else None
                with lock:
                    in_use.discard(slot.address)
                    if gate is not None:
                        gates.append(gate)
                ring.give_back(slot, gate)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()

    def open_some() -> bool:
        with lock:
            ready, gates[:] = gates[:], []
        random.Random(1).shuffle(ready)
        for gate in ready:
            gate.open()
        return not any(thread.is_alive() for thread in threads)

    wait_for(open_some, "threads wait for ever")
    assert failures == []
    ring.end()
