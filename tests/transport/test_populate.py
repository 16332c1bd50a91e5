"""Memory that is made ready ahead of the reads: for whom, and that nothing is left of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pytest

import slipstream
from slipstream.testing.process_watch import wait_for
from slipstream.testing.range_faults import Hold, Status
from slipstream.testing.range_schedule import Faults, When
from tests.endings.leaks import see_footprint, wait_nothing_left
from tests.endings.sample import as_bytes
from tests.transport.serving import PATIENT, Served, quick, write_model

WIDE = "wide/model.safetensors"
TENSORS, TENSOR_BYTES = 12, 4 << 20
ALMOST_ALL = TENSORS * TENSOR_BYTES * 0.95
HEADER_ONLY = When(after=1)


@pytest.fixture(scope="module")
def wide(both_served: dict[str, Served]) -> Iterator[Served]:
    """A checkpoint of 48 MiB."""
    served = both_served["plain"]
    path = served.root / WIDE
    path.parent.mkdir()
    tensors = write_model(path, sizes=[TENSOR_BYTES] * TENSORS)
    yield Served(served.server, tensors, path.parent, {})
    path.unlink()


def resident_bytes() -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))


def populators() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "slipstream-memory"]


def let_go(served: Served) -> None:
    """Answers what was held back, and all that comes."""
    served.server.set_faults(Faults())
    served.server.release()


def stream(wide: Served, options: slipstream.Options) -> slipstream.TensorStream:
    return slipstream.stream(wide.server.url(WIDE), framework="numpy", options=options)


def test_memory_is_there_before_the_bytes_are(plain: Served, wide: Served) -> None:
    """While the server holds every answer back, all tensors' memory is resident; then the right bytes come into it."""
    plain.server.set_faults(Faults(Hold(when=HEADER_ONLY)))
    before = resident_bytes()
    with stream(wide, quick(populate=True, first_byte_timeout_s=60.0)) as tensors:
        plain.server.wait_held(4)
        wait_for(lambda: resident_bytes() - before > ALMOST_ALL, "the memory is not made ready")
        let_go(plain)
        assert as_bytes(tensors) == wide.tensors
    assert not populators()


@pytest.mark.parametrize(
    "settings", [{}, {"populate": False}, {"populate": True, "memory_limit": 16 << 20}], ids=["auto", "no", "limited"]
)
def test_a_stream_takes_memory_as_it_reads(plain: Served, wide: Served, settings: dict[str, bool | int]) -> None:
    """A caller who may drop each tensor, or has set a limit, has no more memory taken than is being read into."""
    plain.server.set_faults(Faults(Hold(when=HEADER_ONLY)))
    with stream(wide, quick(first_byte_timeout_s=60.0, **settings)):
        plain.server.wait_held(4)
        assert not populators()


@pytest.mark.parametrize("populate", ["auto", False])
def test_load_makes_memory_ready(plain: Served, wide: Served, populate: bool | Literal["auto"]) -> None:
    """`load`, which keeps everything, does so by itself; `populate=False` keeps it from it."""
    plain.server.set_faults(Faults(Hold(when=HEADER_ONLY)))
    options = quick(populate=populate, first_byte_timeout_s=60.0)
    before = resident_bytes()
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(slipstream.load, wide.server.url(WIDE), framework="numpy", options=options)
        plain.server.wait_held(4)
        if populate:
            wait_for(lambda: resident_bytes() - before > ALMOST_ALL, "the memory is not made ready")
        else:
            assert not populators()
        let_go(plain)
        assert as_bytes(loading.result().items()) == wide.tensors


@pytest.mark.parametrize("how", ["leave", "forget"])
def test_nothing_is_left_of_it(plain: Served, wide: Served, how: str) -> None:
    """However a load is left, its thread ends and all memory goes back."""
    plain.server.set_faults(Faults(Hold(when=HEADER_ONLY)))
    before = see_footprint(wide.root)
    tensors = stream(wide, PATIENT if how == "forget" else quick(populate=True, first_byte_timeout_s=60.0))
    plain.server.wait_held(4)
    if how == "leave":
        with tensors:
            pass
    del tensors
    wait_nothing_left(before, wide.root)


def test_a_failed_load_gives_its_memory_back(plain: Served, wide: Served) -> None:
    """An error leaves nothing of the memory that was ready for what did not come."""
    before = see_footprint(wide.root)
    plain.server.set_faults(Faults(Status(403, when=HEADER_ONLY)))
    with pytest.raises(slipstream.AccessDeniedError):
        dict(stream(wide, quick(populate=True)))
    wait_nothing_left(before, wide.root)


def test_where_the_kernel_refuses_the_reads_do_it(plain: Served, wide: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 5.14 there is no such call (EINVAL): pages come with the bytes, as ever."""
    from slipstream.reading import memory

    monkeypatch.setattr(memory, "_MADV_POPULATE_WRITE", 9999)
    with stream(wide, quick(populate=True)) as tensors:
        assert as_bytes(tensors) == wide.tensors


def test_what_is_no_switch_is_refused() -> None:
    """Anything but True, False and "auto" is an error at once."""
    with pytest.raises(slipstream.UsageError, match="populate"):
        slipstream.Options(populate="sometimes")  # type: ignore[arg-type]
