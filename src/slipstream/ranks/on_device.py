"""The same memory on a device: there pieces are passed round by NCCL, from GPU to GPU, and land without a way back.

    storage --worker--> slot --copy--> memory of the op --NCCL--> the same op on every other rank's device
            page-locked      courier          |
                                              +--> handed out as it is, or its part, cast, copied on the device: lander

Each byte crosses a PCIe bus once in all, not once per rank. Nothing waits for the device but the lander's thread: what
the courier asks of it is enqueued in slipstream's stream for copies, and a broadcast begins behind that.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from threading import Lock
from typing import Any

import torch

from slipstream.delivery.accelerator import Accelerator, DeviceRegion, explain_failure, view_buffer
from slipstream.errors import DeviceError
from slipstream.planning.divide import Piece as Part
from slipstream.planning.landing import place_tensors
from slipstream.planning.partition import Piece
from slipstream.ranks.landing import Landed, count_landed, find_wanted
from slipstream.ranks.team import hold_for_ever
from slipstream.reading.base import Copier
from slipstream.reading.buffers import Ledger, MapOp, Region
from slipstream.reading.in_flight import OpInFlight
from slipstream.reading.memory import PAGE_BYTES
from slipstream.reading.ring import RingStatistics, Slot
from slipstream.types import Dtype, ReadOp, ReadPlan, Strips


class DevicePassage:
    """A Passage on a device. What this rank reads goes there through a few page-locked slots, one for each piece."""

    def __init__(self, plan: ReadPlan, ledger: Ledger, *, accelerator: Accelerator) -> None:
        """
        Args:
            plan: of the whole load, with the slots in it.
            ledger: the account of the device's memory.
            accelerator: the device.
        """
        assert plan.staging is not None, "what goes to a device passes through slots"
        self.most_own: int | None = plan.staging.slots
        self._slot_bytes = plan.staging.slot_bytes
        self._ledger = ledger
        self._accelerator = accelerator
        self._lock = Lock()  # guards the next four
        self._slots: dict[int, Slot] = {}  # by the number of the piece in it
        self._copied: set[int] = set()  # the numbers of those that were copied from their slots
        self._most_slots = 0
        self._copies = 0
        with accelerator.copying():
            self._spare = accelerator.allocate(self._slot_bytes)

    def place(self, target: OpInFlight, piece: Piece, map_op: MapOp) -> Region:
        """See Passage: a slot, as memory of the blob from the page on in which the piece begins."""
        with self._lock:
            slot = self._slots.get(piece.number)
            if slot is None:  # a piece may be read in several chunks, and a chunk twice
                slot = self._slots[piece.number] = self._accelerator.memory.make(self._slot_bytes)
                self._most_slots = max(self._most_slots, len(self._slots))
        return Region(slot.address, piece.start - piece.start % PAGE_BYTES, slot.view, pages=True)

    def find(self, target: OpInFlight, piece: Piece) -> torch.Tensor:
        """See Passage. A copy to the device is enqueued, where this rank has read the piece."""
        with self._lock:
            slot = self._slots.get(piece.number)
        try:
            with self._accelerator.copying():
                memory = self._receive(target).region.slice(piece.start, piece.end)
                if slot is not None:
                    skew = piece.start % PAGE_BYTES
                    source = torch.frombuffer(slot.view[skew : skew + piece.nbytes], dtype=torch.uint8)
                    memory.copy_(source, non_blocking=True)
                    with self._lock:
                        self._copied.add(piece.number)
                        self._copies += 1
        except DeviceError:
            raise
        except RuntimeError as error:
            raise explain_failure(error, self._accelerator.device) from error
        return memory

    def find_spare(self, nbytes: int) -> torch.Tensor:
        """See Passage. It is one and the same, since nobody looks at it."""
        return self._spare[:nbytes]

    def end(self, piece: Piece, *, well: bool) -> None:
        """See Passage. What was copied from before a broadcast is over with it; what was not may be read into still."""
        with self._lock:
            slot = self._slots.pop(piece.number, None)
            copied = piece.number in self._copied
            self._copied.discard(piece.number)
        if slot is not None and copied and well:
            self._accelerator.memory.keep([slot])
        elif slot is not None and not well:
            hold_for_ever(slot)  # the device may copy from it still, and nothing shall wait for that

    def finish(self, target: OpInFlight) -> None:
        """See Passage."""
        with self._accelerator.copying():
            self._receive(target)

    def statistics(self) -> RingStatistics:
        """The figures of the slots so far."""
        with self._lock:
            return RingStatistics(self._most_slots, self._most_slots * self._slot_bytes, self._copies, 0.0, 0.0)

    def _receive(self, target: OpInFlight) -> Received:
        """The op's memory, made by whoever needs it first: the courier, who needs it long before the caller does."""
        if target.landing is None:
            target.landing = Received(target.op, self._accelerator, self._ledger)
        assert isinstance(target.landing, Received)
        return target.landing


class Received:
    """An op on a device, as it was received. A Landing of what is wanted as it is.

    Attributes:
        region: its bytes.
    """

    def __init__(self, op: ReadOp, accelerator: Accelerator, ledger: Ledger) -> None:
        """Inside `copying`.

        Raises:
            DeviceError: the device has no memory left.
        """
        self._op = op
        self._accelerator = accelerator
        buffer = accelerator.allocate(op.nbytes)
        # A storage's Python object lives as long as the storage does, whoever has a tensor of it.
        weakref.finalize(buffer.untyped_storage(), partial(ledger.end_lease, op.nbytes), 0, 0).atexit = False
        self.region = DeviceRegion(op.start, buffer)

    def copy(self, chunk: Region, start: int, end: int) -> Any:
        """See Landing. Nothing is copied here."""
        raise AssertionError("it is received where it stands")

    def hand_out(self) -> list[tuple[str, torch.Tensor]]:
        """See Landing. All of it is there: the broadcasts have ended."""
        (info,) = self._op.tensors
        self._accelerator.order_after([], [self.region.buffer])
        return [(info.name, view_buffer(self.region.buffer, 0, info))]


class DeviceLander:
    """A Lander of what was received on the device, tensor by tensor, where it is not already as it is wanted.

    The caller's thread does not wait: the device does in turn what it is asked for.
    """

    def __init__(
        self, copier: Copier, accelerator: Accelerator, cast: Dtype | None, parts: Mapping[str, Part] | None
    ) -> None:
        """
        Args:
            copier: made for the same device and cast.
            accelerator: the device.
            cast: the type that floating-point tensors are wanted in.
            parts: as of HostLander.
        """
        self._copier = copier
        self._accelerator = accelerator
        self._cast = cast
        self._parts = parts

    def land(self, target: OpInFlight, ledger: Ledger) -> None:
        """See Lander."""
        received = target.landing
        assert isinstance(received, Received), "the op was not received on the device"
        if self._is_as_wanted(target.op):
            return
        wanted = find_wanted(target.op, self._parts)
        count_landed(target.op, wanted, self._cast, ledger)
        target.landing = Landed([self._land_part(target.op, received.region, part, ledger) for part in wanted])

    def notes(self) -> Sequence[str]:
        """See Lander."""
        return self._copier.notes()

    def _is_as_wanted(self, op: ReadOp) -> bool:
        """Whether the op is a single tensor that is wanted whole, in its own type: it begins where its memory does."""
        (place, *others) = place_tensors(op.tensors, self._cast)
        return self._parts is None and not others and place.dtype is op.tensors[0].dtype

    def _gather(self, region: DeviceRegion, strips: Strips) -> DeviceRegion:
        try:
            with self._accelerator.copying():
                return region.gather(strips)
        except RuntimeError as error:
            raise explain_failure(error, self._accelerator.device) from error

    def _land_part(self, op: ReadOp, region: DeviceRegion, part: Part, ledger: Ledger) -> Any:
        info, strips = part
        whole = ReadOp(op.blob, info.start, info.end, (info,))
        landing: Any = self._copier.land(whole, ledger.end_lease)  # takes what is on its device as well
        if info.nbytes:
            landing.copy(region if strips is None else self._gather(region, strips), info.start, info.end)
        return landing
