"""Redirects: followed, remembered, and given no credentials that were meant for another host."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from slipstream.errors import AccessDeniedError, ReadError
from slipstream.testing.range_faults import Hold, Redirect, RequireHeader, Status
from slipstream.testing.range_schedule import Faults, When
from slipstream.testing.range_server import RangeServer
from tests.transport.serving import NAME, Served, quick

TOKEN = "token-of-the-tests"


@pytest.fixture
def other(plain: Served) -> Iterator[RangeServer]:
    """Another server of the same files."""
    with RangeServer(plain.root) as server:
        yield server


def test_credentials_stay_with_their_host(plain: Served, other: RangeServer) -> None:
    """The host that a redirect leads to sees no Authorization, and none of the caller's headers."""
    plain.server.set_faults(Faults(RequireHeader("Authorization", f"Bearer {TOKEN}"), Redirect(other.url(NAME))))
    plain.load_whole(bearer_token=TOKEN, headers={"X-Key": "key of the tests"})
    assert other.requests
    for request in other.requests:
        assert TOKEN not in repr(request.headers)
        assert request.header("X-Key") is None
        assert request.header("Authorization") is None
        assert request.header("If-Match") or request.number == 1


def test_credentials_follow_to_another_path_of_the_host(plain: Served) -> None:
    """Within one host they are needed, and safe."""
    plain.server.set_faults(
        Faults(
            RequireHeader("Authorization", f"Bearer {TOKEN}"), Redirect("/elsewhere/{path}", when=When(path="model*"))
        )
    )
    plain.load_whole(bearer_token=TOKEN)


def test_a_way_back_may_have_them(plain: Served, other: RangeServer) -> None:
    """A redirect over another host back to the first is followed, with credentials for the first alone."""
    plain.server.set_faults(
        Faults(RequireHeader("Authorization", f"Bearer {TOKEN}"), Redirect(other.url(NAME), when=When(path="model*")))
    )
    other.set_faults(Faults(Redirect(plain.server.url(f"elsewhere/{NAME}"))))
    plain.load_whole(bearer_token=TOKEN)
    assert all(request.header("Authorization") is None for request in other.requests)


def test_from_http_to_https(plain: Served, tls: Served) -> None:
    """A redirect to encryption is followed."""
    plain.server.set_faults(Faults(Redirect(tls.url)))
    plain.load_whole(ca_bundle=tls.storage_options["ca_bundle"])


def test_from_https_to_http(plain: Served, tls: Served) -> None:
    """A redirect that gives up encryption is refused, and nothing is sent there."""
    tls.server.set_faults(Faults(Redirect(plain.url)))
    error = tls.fail()
    assert type(error) is ReadError
    assert "from https to http, which would give up encryption" in str(error)
    assert not plain.server.requests


def test_a_remembered_place_that_is_no_longer_good(plain: Served, other: RangeServer) -> None:
    """Signed places expire: where many reads are refused at once, each asks the first server again and goes on."""
    plain.server.set_faults(
        Faults(
            Redirect(other.url(NAME), when=When(path="model*", first=1)),
            Redirect(other.url(f"elsewhere/{NAME}"), when=When(path="model*", after=1)),
        )
    )
    other.set_faults(Faults(Status(403, when=When(path="model*", after=4))))
    stats = plain.load_whole(quick(attempts=1, retries=0, concurrency=8))
    assert stats.retries == 0
    refused = sum(request.status == 403 for request in other.requests)
    assert refused
    assert len(plain.server.requests) <= 1 + 2 * 8  # each read once or twice, and none for every range


def test_a_remembered_place_that_is_gone(plain: Served, other: RangeServer) -> None:
    """A host that goes down during the load is left for the one that the first server now names."""
    with RangeServer(plain.root) as dying:
        plain.server.set_faults(
            Faults(Redirect(dying.url(NAME), when=When(first=1)), Redirect(other.url(NAME), when=When(after=1)))
        )
        dying.set_faults(Faults(Hold(when=When(after=3))))
        with plain.stream() as stream:
            dying.wait_held(1)
            dying.close()
            assert {name: tensor.tobytes() for name, tensor in stream} == plain.tensors  # type: ignore[union-attr]
    assert other.requests


def test_a_place_that_refuses_from_the_beginning(plain: Served, other: RangeServer) -> None:
    """A redirect to where access is denied is an error, not a loop."""
    plain.server.set_faults(Faults(Redirect(other.url(NAME))))
    other.set_faults(Faults(Status(403)))
    error = plain.fail()
    assert type(error) is AccessDeniedError
    assert len(plain.server.requests) == len(other.requests) == 1
