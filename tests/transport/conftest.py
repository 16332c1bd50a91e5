"""The range server, plain and with TLS, with one checkpoint on both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from slipstream.testing.certificates import CertificateAuthority
from slipstream.testing.range_server import RangeServer
from slipstream.transport import retry
from tests.transport.serving import NAME, Served, write_model


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether pauses are long enough is for test_decisions.py; elsewhere they only cost time."""
    monkeypatch.setattr(retry, "_FIRST_PAUSE_S", 0.005)


@pytest.fixture(scope="session")
def both_served(
    tmp_path_factory: pytest.TempPathFactory, authority: CertificateAuthority
) -> Iterator[dict[str, Served]]:
    root = tmp_path_factory.mktemp("transport")
    tensors = write_model(root / NAME)
    (root / "elsewhere").mkdir()
    (root / "elsewhere" / NAME).symlink_to(root / NAME)
    trust = {"ca_bundle": str(authority.ca_bundle)}
    with RangeServer(root, seed=1) as plain, RangeServer(root, tls=authority.issue(), seed=1) as tls:
        yield {"plain": Served(plain, tensors, root, {}), "tls": Served(tls, tensors, root, trust)}


def forget(server: RangeServer) -> None:
    """Makes the server as new, once the requests of clients that have gone are over."""
    server.reset()
    server.wait_open_connections(0)
    server.reset()


@pytest.fixture
def plain(both_served: dict[str, Served]) -> Iterator[Served]:
    """Without TLS."""
    yield both_served["plain"]
    forget(both_served["plain"].server)


@pytest.fixture
def tls(both_served: dict[str, Served]) -> Iterator[Served]:
    """With TLS."""
    yield both_served["tls"]
    forget(both_served["tls"].server)


@pytest.fixture(params=["plain", "tls"])
def served(request: pytest.FixtureRequest) -> Served:
    """One after the other."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Served)
    return found
