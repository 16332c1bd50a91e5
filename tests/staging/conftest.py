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

import slipstream.streaming
from slipstream.delivery import opening
from slipstream.delivery.accelerator import open_accelerator
from slipstream.reading.base import Copier
from slipstream.testing.late_copies import LateCopier
from slipstream.types import ReadPlan, Target

_SEEDS = itertools.count()


@pytest.fixture
def accelerated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Loads to "cpu" are loads to a device: by torch.cpu, with what is done for a GPU."""
    monkeypatch.setattr(slipstream.streaming, "find_target", lambda device: Target.DEVICE)
    monkeypatch.setattr(opening, "require_device", lambda name: torch.device("cpu"))
    yield
    open_accelerator(torch.device("cpu")).memory.drop()


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> list[LateCopier]:
    """All copies come late and out of order; the copiers of the loads, as they are made."""
    return wrap_copiers(monkeypatch)


def wrap_copiers(
    monkeypatch: pytest.MonkeyPatch, *, most_late: int = 1000, fails: Callable[[int], bool] | None = None
) -> list[LateCopier]:
    """Has every load copy late; see LateCopier."""
    made: list[LateCopier] = []

    def wrap(original: Callable[..., Copier | None]) -> Callable[..., Copier | None]:
        def wait_copier(self: opening.Opening, plan: ReadPlan) -> Copier | None:
            inner = original(self, plan)
            if inner is None:
                return None
            made.append(LateCopier(inner, seed=next(_SEEDS), most_late=most_late, fails=fails))
            return made[-1]

        return wait_copier

    for kind in (opening.Opening, opening.DeviceOpening):
        monkeypatch.setattr(kind, "wait_copier", wrap(kind.wait_copier))
    return made
