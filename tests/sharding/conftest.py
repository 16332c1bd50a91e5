"""A server of ranges for the tests of shards, plain and with TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from slipstream.testing.range_server import RangeServer
from slipstream.transport import retry


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether pauses before another attempt are long enough is tested elsewhere."""
    monkeypatch.setattr(retry, "_FIRST_PAUSE_S", 0.005)


@pytest.fixture(scope="session")
def range_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that is served."""
    return tmp_path_factory.mktemp("sharding")


@pytest.fixture(scope="session")
def session_server(range_root: Path) -> Iterator[RangeServer]:
    with RangeServer(range_root, seed=3) as server:
        yield server


@pytest.fixture
def range_server(session_server: RangeServer) -> Iterator[RangeServer]:
    """The server without a fault yet and with an empty log."""
    session_server.reset()
    yield session_server
    session_server.reset()
