"""The range server, plain and with TLS, as the tests of its behaviour talk to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.testing.range_client import Client, serve_twice


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Client]]:
    plain, tls, ca_bundle = serve_twice(tmp_path_factory.mktemp("range"))
    with plain, tls:
        yield {"plain": Client(plain, None), "tls": Client(tls, ca_bundle)}


@pytest.fixture(params=["plain", "tls"])
def client(clients: dict[str, Client], request: pytest.FixtureRequest) -> Iterator[Client]:
    yield clients[request.param]
    clients[request.param].reset()
