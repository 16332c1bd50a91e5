"""Brings what has passed through the ring to another device, by PyTorch's calls for it: CUDA and ROCm, XPU.

    a worker   with stream: memory, copy, cast, event      enqueued in microseconds; the device does them in that order
    the ring   event.done(), event.wait()                  then the slot is read into again
    a caller   its present stream waits for the events     on the device: no thread waits for a copy

All copies of a process to one device go through one stream of slipstream's own, so memory that is freed there may be
used again there at once. What the caller frees is kept from being used again before his stream is through with it
(Tensor.record_stream). Sources: torch.cuda, "CUDA semantics" and "Memory management" in PyTorch's documentation.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import torch

from slipstream.delivery.arrays import stored_shape
from slipstream.delivery.page_locked import PageLockedMemory
from slipstream.delivery.torch import torch_dtype
from slipstream.errors import DeviceError
from slipstream.planning.landing import ALIGNMENT, packed_start, place_tensors
from slipstream.reading.base import EndLanding
from slipstream.reading.buffers import Region
from slipstream.types import DTYPE_BITS, Dtype, ReadOp, Strips, TensorInfo

_REGISTER_PORTABLE = 1  # cudaHostRegisterPortable: page-locked for every device of the process
_FIRST_SLOTS = 16  # made while headers are read: as many reads as the first moment has


class Accelerator:
    """A device, as slipstream uses it: its stream for copies, and memory that it reads at full speed."""

    def __init__(self, device: torch.device) -> None:
        """Makes the device's context, which may take a second."""
        self.device = device
        self._module: Any = torch.get_device_module(device)
        torch.empty(1, device=device)
        self._module.synchronize(device)
        self._stream = self._module.Stream(device) if device.type != "cpu" else self._module.Stream()
        self.memory = PageLockedMemory(*_page_lock(device))

    def __repr__(self) -> str:
        return f"<Accelerator {self.device}>"

    @property
    def identity(self) -> str:
        """Tells the device from every other of its host, by whatever index a process knows it."""
        if self.device.type == "cpu":
            return f"process {os.getpid()}"
        facts = self._module.get_device_properties(self.device)
        return str(getattr(facts, "uuid", self.device))

    @contextmanager
    def copying(self) -> Iterator[None]:
        """Inside it, what this thread asks of PyTorch for the device is enqueued in slipstream's stream."""
        with being_current(self.device), self._module.stream(self._stream):
            yield

    def record(self) -> Copied:
        """An event behind all that was enqueued so far. Inside `copying`."""
        event = self._module.Event(blocking=True) if self.device.type == "cuda" else self._module.Event()
        event.record(self._stream)
        return Copied(event, self.device)

    def allocate(self, nbytes: int) -> torch.Tensor:
        """Memory of the device, aligned for every use. Inside `copying`.

        Raises:
            DeviceError: there is not enough.
        """
        try:
            return torch.empty(nbytes, dtype=torch.uint8, device=self.device)
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"{self.device} has no {nbytes:,} bytes left{self._describe_memory()}: free memory there, select "
                "with names=, cast with dtype=, or set device_memory_limit and drop each tensor once it was used"
            ) from error

    def order_after(self, events: Sequence[Copied], buffers: Sequence[torch.Tensor]) -> None:
        """Has this thread's present stream wait for copies, and memory wait for that stream when it is freed."""
        stream = self._module.current_stream(self.device)
        for event in events:
            event.order(stream)
        if self.device.type != "cpu":
            for buffer in buffers:
                buffer.record_stream(stream)

    def _describe_memory(self) -> str:
        try:
            free, total = self._module.mem_get_info(self.device)
        except (AttributeError, RuntimeError):
            return ""
        return f" ({free:,} of {total:,} are free)"


class Copied:
    """When a copy to a device is over. An Event."""

    __slots__ = ("_device", "_event")

    def __init__(self, event: Any, device: torch.device) -> None:
        self._event = event
        self._device = device

    def done(self) -> bool:
        """See Event."""
        try:
            return bool(self._event.query())
        except RuntimeError as error:
            raise explain_failure(error, self._device) from error

    def wait(self) -> None:
        """See Event."""
        try:
            self._event.synchronize()
        except RuntimeError as error:
            raise explain_failure(error, self._device) from error

    def order(self, stream: Any) -> None:
        """Has a stream of the device wait for it."""
        self._event.wait(stream)


class DeviceRegion:
    """Memory of a device that holds the bytes of a blob from `base` on: a Region for who is there already."""

    __slots__ = ("base", "buffer")

    def __init__(self, base: int, buffer: torch.Tensor) -> None:
        """
        Args:
            base: the blob offset that the first byte has.
            buffer: all of it, as unsigned bytes. Whoever holds a view of it keeps the memory.
        """
        self.base = base
        self.buffer = buffer

    def slice(self, start: int, end: int) -> torch.Tensor:
        """The bytes `[start, end)` of the blob."""
        return self.buffer[start - self.base : end - self.base]

    def gather(self, strips: Strips) -> DeviceRegion:
        """The strips one behind the other, in memory of their own. Inside `copying`."""
        whole = self.slice(strips.start, strips.start + strips.rows * strips.row_bytes)
        rows = whole.view(strips.rows, strips.row_bytes)
        gathered = torch.cat([rows[:, start:end] for start, end in strips.blocks], dim=1)
        return DeviceRegion(strips.first, gathered.view(-1))


class AcceleratorCopier:
    """Lands tensors on an accelerator. A Copier."""

    def __init__(self, accelerator: Accelerator, cast: Dtype | None) -> None:
        self._accelerator = accelerator
        self._cast = cast

    @property
    def memory(self) -> PageLockedMemory:
        """See Copier."""
        return self._accelerator.memory

    def land(self, op: ReadOp, end_lease: EndLanding) -> AcceleratorLanding:
        """See Copier."""
        return AcceleratorLanding(op, self._accelerator, self._cast, end_lease)

    def notes(self) -> Sequence[str]:
        """See Copier."""
        refusal = self.memory.refusal
        if not refusal:
            return ()
        return (f"{self._accelerator.device}: page-locking was refused ({refusal}): copied from pageable memory",)


class AcceleratorLanding:
    """An op's tensors on an accelerator: one allocation, or one for each where they go back one by one. A Landing."""

    def __init__(self, op: ReadOp, accelerator: Accelerator, cast: Dtype | None, end_lease: EndLanding) -> None:
        self._op = op
        self._accelerator = accelerator
        self._places = place_tensors(op.tensors, cast)
        self._casts = self._places[0].dtype is not op.tensors[0].dtype
        self._events: list[Copied] = []
        sizes = [place.nbytes for place in self._places] if op.copies else [self._places[-1].end]
        with accelerator.copying():
            self._buffers = [accelerator.allocate(size) for size in sizes]
        for buffer, size in zip(self._buffers, sizes, strict=True):
            # A storage's Python object lives as long as the storage does, whoever has a tensor of it.
            weakref.finalize(buffer.untyped_storage(), partial(end_lease, size), 0, 0).atexit = False

    def copy(self, chunk: Region | DeviceRegion, start: int, end: int) -> Copied:
        """See Landing. Returns once the copy is enqueued. The chunk of a single tensor may stand on the device."""
        try:
            with self._accelerator.copying():
                if len(self._op.tensors) == 1:
                    self._copy_part(chunk, start, end)
                else:
                    assert isinstance(chunk, Region), "tensors are packed in a slot"
                    self._copy_packed(chunk)
                event = self._accelerator.record()
        except RuntimeError as error:
            if isinstance(error, DeviceError):
                raise
            raise explain_failure(error, self._accelerator.device) from error
        self._events.append(event)
        return event

    def hand_out(self) -> list[tuple[str, torch.Tensor]]:
        """See Landing."""
        self._accelerator.order_after(self._events, self._buffers)
        if self._op.copies:
            return [
                (place.name, view_buffer(buffer, 0, place))
                for place, buffer in zip(self._places, self._buffers, strict=True)
            ]
        (buffer,) = self._buffers
        return [(place.name, view_buffer(buffer, place.start, place)) for place in self._places]

    def wait_buffer(self) -> torch.Tensor:
        """See OpenLanding. What was freed in this stream may be in use by what was enqueued there before.

        Makes the device the current one of this thread, a worker: cuFile reads in the context of that.
        """
        if self._accelerator.device.type == "cuda":
            torch.cuda.set_device(self._accelerator.device)
        with self._accelerator.copying():
            event = self._accelerator.record()
        event.wait()
        (buffer,) = self._buffers
        return buffer

    def _copy_part(self, chunk: Region | DeviceRegion, start: int, end: int) -> None:
        """A chunk of a single tensor, which may be larger than a slot."""
        (info,), (place,), (buffer,) = self._op.tensors, self._places, self._buffers
        source = chunk.slice(start, end) if isinstance(chunk, DeviceRegion) else _from_host(chunk.slice(start, end))
        first, last = start - info.start, end - info.start
        if not self._casts:
            buffer[first:last].copy_(source, non_blocking=True)
            return
        wide, narrow = DTYPE_BITS[info.dtype], DTYPE_BITS[place.dtype]
        target = buffer[first * narrow // wide : last * narrow // wide]
        self._cast_into(target, self._upload(source), info, place)

    def _copy_packed(self, chunk: Region) -> None:
        """All of an op of several tensors: moved apart in the slot, so that one copy takes them all."""
        infos, places = self._op.tensors, self._places
        starts = [packed_start(info, place) for info, place in zip(infos, places, strict=True)]
        begin = _pack(chunk, infos, starts)
        end = begin + starts[-1] + infos[-1].nbytes
        source = _from_host(chunk.view[begin:end])
        if not (self._casts or self._op.copies):
            self._buffers[0].copy_(source, non_blocking=True)
            return
        uploaded = self._upload(source)
        if not self._op.copies:
            self._cast_into(self._buffers[0], uploaded, infos[0], places[0])
            return
        for info, place, start, buffer in zip(infos, places, starts, self._buffers, strict=True):
            if info.nbytes:
                self._cast_into(buffer, uploaded[start : start + info.nbytes], info, place)

    def _upload(self, source: torch.Tensor) -> torch.Tensor:
        """The bytes on the device, in memory that is free again once what was enqueued with it has run."""
        scratch = self._accelerator.allocate(len(source))
        scratch.copy_(source, non_blocking=True)
        return scratch

    def _cast_into(self, target: torch.Tensor, source: torch.Tensor, info: TensorInfo, place: TensorInfo) -> None:
        if self._casts:
            target.view(torch_dtype(place)).copy_(source.view(torch_dtype(info)))
        else:
            target.copy_(source)


def being_current(device: torch.device) -> AbstractContextManager[object]:
    """Makes a device this thread's current one meanwhile.

    A thread begins with the first device, and leaving a stream of another one sets the first again, by a call that
    makes a context there: hundreds of megabytes of every process on the first GPU.
    """
    return nullcontext() if device.type == "cpu" else torch.get_device_module(device).device(device)


def open_accelerator(device: torch.device) -> Accelerator:
    """The one Accelerator of a device in this process: its stream and its slots are there for every load."""
    return _open(device.type, device.index or 0)


@cache
def _open(kind: str, index: int) -> Accelerator:
    return Accelerator(torch.device(kind) if kind == "cpu" else torch.device(kind, index))


def prepare_slots(accelerator: Accelerator, slot_bytes: int) -> None:
    """Makes the first slots of a load, if they are not there from the one before."""
    accelerator.memory.prepare(slot_bytes, _FIRST_SLOTS)


def _pack(chunk: Region, infos: Sequence[TensorInfo], starts: Sequence[int]) -> int:
    """Moves tensors apart within their slot, the last one first; returns where in the slot the first one is then.

    Each moves towards the end, if at all, so what has not been moved yet is never overwritten.
    """
    skew = infos[0].start - chunk.base
    apart = [start - (info.start - infos[0].start) for info, start in zip(infos, starts, strict=True)]
    if not any(apart):
        return skew
    begin = -(-skew // ALIGNMENT) * ALIGNMENT
    for info, start in zip(reversed(infos), reversed(starts), strict=True):
        ctypes.memmove(chunk.address + begin + start, chunk.address + info.start - chunk.base, info.nbytes)
    return begin


def _from_host(view: memoryview) -> torch.Tensor:
    """Host memory as a tensor, without a copy."""
    return torch.frombuffer(view, dtype=torch.uint8)


def view_buffer(buffer: torch.Tensor, start: int, place: TensorInfo) -> torch.Tensor:
    """A tensor that stands in memory of a device from its byte `start` on, where its type may begin."""
    dtype, shape = torch_dtype(place), stored_shape(place)
    if not place.nbytes:
        return torch.empty(shape, dtype=dtype, device=buffer.device)
    part = buffer if place.nbytes == len(buffer) else buffer[start : start + place.nbytes]
    return part.view(dtype).view(shape)


def _page_lock(device: torch.device) -> tuple[Callable[[int, int], str], Callable[[int], object]]:
    """What page-locks memory for a device, and what unlocks it. Only for CUDA and ROCm has PyTorch a call for it."""
    if device.type != "cuda":
        refusal = "" if device.type == "cpu" else f"there is no call for it for {device.type}"
        return lambda address, nbytes: refusal, lambda address: None
    runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]

    def lock(address: int, nbytes: int) -> str:
        with being_current(device):
            code = int(runtime.cudaHostRegister(address, nbytes, _REGISTER_PORTABLE))
        return f"error {code} of cudaHostRegister" if code else ""

    def unlock(address: int) -> None:
        with being_current(device):
            runtime.cudaHostUnregister(address)

    return lock, unlock


def explain_failure(error: RuntimeError, device: torch.device) -> DeviceError:
    """What PyTorch says of a device that has failed, as an error of ours."""
    first = str(error).partition("\n")[0]
    return DeviceError(f"{device} failed while bytes were copied to it: {first}")
