"""A blob that changes while it is loaded ends the load: never are two versions mixed."""

from __future__ import annotations

import os
import re

import pytest

import slipstream
from slipstream.errors import BlobChangedError
from slipstream.testing.range_faults import Hold
from slipstream.testing.range_lies import ChangedEtag, NoEtag, WeakEtag, WrongContentRange
from slipstream.testing.range_schedule import Faults, When
from tests.transport.serving import PATIENT, Served, write_model

LATER = When(after=6)


@pytest.mark.parametrize("ignores_if_match", [False, True])
def test_another_etag(served: Served, ignores_if_match: bool) -> None:
    """A changed ETag ends the load at once, whether the server compares it or leaves that to the client."""
    served.server.set_faults(Faults(ChangedEtag(ignores_if_match=ignores_if_match, when=LATER)))
    error = served.fail()
    assert type(error) is BlobChangedError
    assert error.attempts == 1
    assert error.status == (None if ignores_if_match else 412)
    assert re.search(r"changed.*load it again once its writer is done", str(error))


def test_another_etag_for_each_request(served: Served) -> None:
    """A server that never gives the same ETag twice cannot be read, rather than be read wrongly."""
    served.server.set_faults(Faults(ChangedEtag(each_request=True, ignores_if_match=True)))
    assert type(served.fail()) is BlobChangedError


def test_another_size(plain: Served) -> None:
    """A total in Content-Range that is not the first one ends the load, also without any ETag."""
    plain.server.set_faults(
        Faults(NoEtag(keeps_last_modified=False), WrongContentRange(extra_total_bytes=1, when=LATER))
    )
    error = plain.fail()
    assert type(error) is BlobChangedError
    assert "2,373,822 bytes, and now has 2,373,823" in str(error)


@pytest.mark.parametrize("size", [300_000, 900_000])
def test_a_blob_that_is_replaced_by_one_of_another_size(plain: Served, size: int) -> None:
    """The remaining ranges of a blob that was replaced, be they in the new one or beyond its end, are not taken."""
    old = plain.root / "replaced.safetensors"
    write_model(old, (800_000,))
    data = old.read_bytes()
    plain.server.put("replaced.safetensors", data)
    plain.server.set_faults(Faults(Hold(when=When(after=3))))
    url = plain.server.url("replaced.safetensors")
    with slipstream.stream(url, framework="numpy", options=PATIENT) as stream:
        plain.server.wait_held(4)
        plain.server.put("replaced.safetensors", data[:size].ljust(size, b"\0"))
        plain.server.set_faults(Faults())
        plain.server.release()
        with pytest.raises(BlobChangedError):
            dict(stream)


@pytest.mark.parametrize("fault", [WeakEtag(), NoEtag(), NoEtag(keeps_last_modified=False)], ids=repr)
def test_servers_without_a_strong_etag_are_read(served: Served, fault: WeakEtag | NoEtag) -> None:
    """A weak ETag is never sent as If-Match, which it never matches; without one, time and size have to do."""
    served.server.set_faults(Faults(fault))
    served.load_whole()
    assert not any(request.header("If-Match") for request in served.server.requests)


def test_a_strong_etag_is_sent_with_each_range(plain: Served) -> None:
    """The server is asked to compare, so that a changed blob costs no transfer."""
    plain.load_whole()
    first, *others = plain.server.requests
    assert first.header("If-Match") is None
    assert len({request.header("If-Match") for request in others}) == 1
    assert None not in {request.header("If-Match") for request in others}


@pytest.mark.parametrize("fault", [WeakEtag(), NoEtag()], ids=repr)
def test_a_weak_validator_that_changes(plain: Served, fault: WeakEtag | NoEtag) -> None:
    """A weak ETag or a Last-Modified that changes ends the load, as a strong ETag does."""
    data = (plain.root / "model.safetensors").read_bytes()
    other = plain.root / "weak.safetensors"
    other.write_bytes(data)
    plain.server.set_faults(Faults(fault, Hold(when=When(after=5))))
    with slipstream.stream(plain.server.url("weak.safetensors"), framework="numpy", options=PATIENT) as stream:
        plain.server.wait_held(4)
        other.write_bytes(bytes(len(data)))
        os.utime(other, (1, 1))
        plain.server.set_faults(Faults(fault))
        plain.server.release()
        with pytest.raises(BlobChangedError):
            dict(stream)
