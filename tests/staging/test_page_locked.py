"""Page-locked memory: kept for the next load, let go beyond that, and right also where locking is refused."""

from __future__ import annotations

import gc

import pytest

from slipstream.delivery import page_locked
from slipstream.delivery.page_locked import PageLockedMemory
from slipstream.testing.process_watch import run_in_child

SLOT_BYTES = 1 << 16


class Locks:
    """Which pages are locked, as a driver would know it."""

    def __init__(self, refusal: str = "") -> None:
        self.locked: dict[int, int] = {}
        self.calls = 0
        self._refusal = refusal

    def lock(self, address: int, nbytes: int) -> str:
        self.calls += 1
        if not self._refusal:
            self.locked[address] = nbytes
        return self._refusal

    def unlock(self, address: int) -> None:
        del self.locked[address]


def test_slots_are_kept_for_the_next_load() -> None:
    """A slot that was given back is the next one of its size; no page is locked twice."""
    locks = Locks()
    memory = PageLockedMemory(locks.lock, locks.unlock)
    address = (slot := memory.make(SLOT_BYTES)).address
    memory.keep([slot])
    assert memory.kept_bytes == SLOT_BYTES
    del slot
    assert memory.make(2 * SLOT_BYTES).address != address
    assert memory.make(SLOT_BYTES).address == address
    assert locks.calls == 2


def test_what_is_not_kept_is_unlocked_before_it_is_unmapped() -> None:
    """A slot that its last user drops is unlocked, in time and once."""
    locks = Locks()
    memory = PageLockedMemory(locks.lock, locks.unlock)
    slot = memory.make(SLOT_BYTES)
    assert locks.locked == {slot.address: SLOT_BYTES}
    del slot
    gc.collect()
    assert locks.locked == {}


def test_no_more_is_kept_than_one_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is beyond a ring of the usual size goes, the slots of earlier loads first."""
    monkeypatch.setattr(page_locked, "_KEPT_BYTES", 3 * SLOT_BYTES)
    locks = Locks()
    memory = PageLockedMemory(locks.lock, locks.unlock)
    memory.keep([memory.make(SLOT_BYTES)])
    memory.keep([memory.make(2 * SLOT_BYTES), memory.make(2 * SLOT_BYTES)])
    gc.collect()
    assert memory.kept_bytes == 3 * SLOT_BYTES
    assert sorted(locks.locked.values()) == [SLOT_BYTES, 2 * SLOT_BYTES]
    memory.drop()
    gc.collect()
    assert locks.locked == {}


def test_slots_are_made_ahead() -> None:
    """prepare makes as many slots as are missing, and those that are made next are these."""
    locks = Locks()
    memory = PageLockedMemory(locks.lock, locks.unlock)
    for _ in range(2):
        memory.prepare(SLOT_BYTES, 4)
        assert memory.kept_bytes == 4 * SLOT_BYTES
    slots = [memory.make(SLOT_BYTES) for _ in range(4)]
    assert locks.calls == len(slots)


def test_refused_locks() -> None:
    """Where pages cannot be locked, slots are usable, are not kept, and the reason is known."""
    locks = Locks("error 801")
    memory = PageLockedMemory(locks.lock, locks.unlock)
    slot = memory.make(SLOT_BYTES)
    slot.view[:5] = b"bytes"
    assert (slot.locked, memory.refusal) == (False, "error 801")
    memory.keep([slot])
    assert memory.kept_bytes == 0
    del slot  # and is unmapped without having been unlocked


def test_a_forked_child_unlocks_nothing() -> None:
    """A child has the memory, not the locks: it lets go of the one and leaves the others alone."""
    unlocked: list[int] = []
    memory = PageLockedMemory(lambda address, nbytes: "", unlocked.append)
    slots = [memory.make(SLOT_BYTES)]

    def drop() -> None:
        address = f"{slots[0].address:x}-"
        slots.clear()
        gc.collect()
        assert unlocked == []
        with open("/proc/self/maps") as maps:
            assert not any(line.startswith(address) for line in maps)

    assert run_in_child(drop) == ""
    address = slots[0].address
    slots.clear()
    gc.collect()
    assert unlocked == [address]
