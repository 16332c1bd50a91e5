"""Brings what has passed through the ring to where tensors stand in host memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from slipstream.delivery.casting import Cast, find_cast
from slipstream.planning.landing import place_tensors
from slipstream.reading.base import EndLanding
from slipstream.reading.buffers import Region, allocate_region
from slipstream.reading.ring import HostMemory
from slipstream.types import DTYPE_BITS, Dtype, ReadOp, TensorInfo

if TYPE_CHECKING:
    from slipstream.delivery.base import Framework


class _Over:
    """The copy that is over when it was begun. An Event."""

    def done(self) -> bool:
        return True

    def wait(self) -> None:
        pass


_OVER = _Over()


class HostCopier:
    """Copies and casts in the thread that asks, without the interpreter's lock. A Copier."""

    def __init__(self, framework: Framework, framework_name: str, cast: Dtype | None) -> None:
        self.memory = HostMemory()
        self._framework = framework
        self._dtype = cast
        self._cast = find_cast(framework_name) if cast is not None else None

    def land(self, op: ReadOp, end_lease: EndLanding) -> HostLanding:
        """See Copier."""
        return HostLanding(op, self._framework, self._dtype, self._cast, end_lease)

    def notes(self) -> Sequence[str]:
        """See Copier. Nothing is refused here."""
        return ()


class HostLanding:
    """An op's tensors in memory of their own, or in one that they share. A Landing."""

    def __init__(
        self, op: ReadOp, framework: Framework, dtype: Dtype | None, cast: Cast | None, end_lease: EndLanding
    ) -> None:
        self._framework = framework
        self._cast = cast
        places = place_tensors(op.tensors, dtype)
        groups = [(place,) for place in places] if op.copies else [places]
        self._landed: list[tuple[Sequence[TensorInfo], Region]] = []
        self._parts: list[tuple[TensorInfo, TensorInfo, Region]] = []
        infos = iter(op.tensors)
        for group in groups:
            start, end = group[0].start, group[-1].end
            region = allocate_region(start, end, partial(end_lease, end - start))
            self._landed.append((group, region))
            self._parts += [(info, place, region) for place, info in zip(group, infos, strict=False)]

    def copy(self, chunk: Region, start: int, end: int) -> _Over:
        """See Landing. It is over when this returns."""
        for info, place, region in self._parts:
            first, last = max(start, info.start), min(end, info.end)
            if first >= last:
                continue
            if place.dtype is info.dtype:
                target = region.address + place.start - region.base + first - info.start
                ctypes.memmove(target, chunk.address + first - chunk.base, last - first)
            else:
                self._cast_part(chunk, info, place, region, first, last)
        return _OVER

    def hand_out(self) -> Sequence[tuple[str, Any]]:
        """See Landing."""
        pairs: list[tuple[str, Any]] = []
        for group, region in self._landed:
            pairs += self._framework.view_tensors(group, region)
        return pairs

    def _cast_part(
        self, chunk: Region, info: TensorInfo, place: TensorInfo, region: Region, first: int, last: int
    ) -> None:
        assert self._cast is not None
        wide, narrow = DTYPE_BITS[info.dtype], DTYPE_BITS[place.dtype]
        source = chunk.slice(first, last)
        if (chunk.address + first - chunk.base) % (wide // 8):
            source = memoryview(bytearray(source))  # misaligned in the file, as hardly any is
        start = place.start + (first - info.start) * narrow // wide
        target = region.slice(start, start + (last - first) * narrow // wide)
        self._cast(source, info.dtype, target, place.dtype)
