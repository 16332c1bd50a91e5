"""Fixtures of what models are placed on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from slipstream.bench.models import Model, find_model
from slipstream.bench.storages.base import StorageUnavailableError
from slipstream.bench.storages.cgroups import Limits
from slipstream.bench.storages.devices import find_device
from slipstream.bench.storages.throttle import Throttle
from tests.bench.loop_volume import mounted_volume, why_unavailable


@pytest.fixture(scope="session")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A mounted disk of the tests' own."""
    reason = why_unavailable()
    if reason is not None:
        pytest.skip(reason)
    with mounted_volume(tmp_path_factory.mktemp("disk")) as point:
        yield point


@pytest.fixture(scope="session")
def throttled_volume(volume: Path) -> Path:
    """The same, where this machine and its rights let it be throttled."""
    try:
        Throttle(find_device(volume), Limits(1 << 20, 100))
    except StorageUnavailableError as error:
        pytest.skip(str(error))
    return volume


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Of 3.6 MB."""
    return find_model("llama-tiny", tmp_path_factory.mktemp("cache"), layers=1)
