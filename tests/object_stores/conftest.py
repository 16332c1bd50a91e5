"""What every test of object stores has: connections that are closed after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.object_stores.opening import clients


@pytest.fixture(autouse=True)
def closed_clients() -> Iterator[None]:
    yield
    while clients:
        clients.pop().close()
