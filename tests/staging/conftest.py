"""Loads through the ring: to host memory, by an accelerator that is the CPU, and with copies that come late.

PyTorch offers `torch.cpu` with the calls of `torch.cuda`, for code that shall run on any device. So all that slipstream
does for a GPU runs here, but for page-locking, and for copies that go on while the caller does something else: these
LateCopier makes up for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch

from slipstream import streaming, wanted
from slipstream.delivery import opening
from slipstream.delivery.accelerator import open_accelerator
from slipstream.reading.base import Copier
from slipstream.testing.late_copies import LateCopier
from slipstream.types import Dtype, Target

_SEEDS = itertools.count()


@pytest.fixture
def accelerated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Loads to "cpu" are loads to a device: by torch.cpu, with what is done for a GPU."""
    accelerate(monkeypatch.setattr)
    yield
    open_accelerator(torch.device("cpu")).memory.drop()


def accelerate(set_attribute: Callable[[object, str, object], None]) -> None:
    """Has this process take "cpu" for a device; what it changes is changed by the function that it is given."""
    for module in (streaming, wanted):
        set_attribute(module, "find_target", lambda device: Target.DEVICE)
    set_attribute(opening, "require_device", lambda name: torch.device("cpu"))


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> list[LateCopier]:
    """All copies come late and out of order; the copiers of the loads, as they are made."""
    return wrap_copiers(monkeypatch)


def wrap_copiers(
    monkeypatch: pytest.MonkeyPatch, *, most_late: int = 1000, fails: Callable[[int], bool] | None = None
) -> list[LateCopier]:
    """Has every load copy late; see LateCopier."""
    made: list[LateCopier] = []

    def wrap(original: Callable[..., Copier]) -> Callable[..., Copier]:
        def make_copier(self: opening.Opening, cast: Dtype | None) -> Copier:
            made.append(LateCopier(original(self, cast), seed=next(_SEEDS), most_late=most_late, fails=fails))
            return made[-1]

        return make_copier

    for kind in (opening.Opening, opening.DeviceOpening):
        monkeypatch.setattr(kind, "make_copier", wrap(kind.make_copier))
    return made
