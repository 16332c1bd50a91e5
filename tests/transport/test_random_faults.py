"""Any mixture of faults that can be healed, on any checkpoint: the same bytes."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipstream.testing.range_faults import (
    CloseConnection,
    CloseEarly,
    Delay,
    MaxInFlight,
    Redirect,
    Reset,
    Stall,
    Status,
)
from slipstream.testing.range_lies import CorruptHead, NoContentRange, WeakEtag, WrongContentRange, WrongLength
from slipstream.testing.range_schedule import Fault, Faults, When
from tests.transport.serving import Served, load, quick, write_model

PLACES = st.sampled_from([None, 0, 1, 1_000, 5_000])


@st.composite
def faults(draw: st.DrawFn) -> Fault:
    """One kind of fault, at most at every third request."""
    place = draw(PLACES)
    when = When(
        first_attempts=draw(st.sampled_from([1, 2, None])),
        after=draw(st.integers(0, 5)),
        probability=draw(st.sampled_from([0.03, 0.1, 0.3])),
    )
    rare = When(after=when.after, probability=0.02)
    return draw(
        st.sampled_from(
            [
                Status(503, when=when),
                Status(429, retry_after_s=0, when=when),
                Reset(place, when=when),
                CloseEarly(place, when=when),
                Stall(place, when=rare),
                CloseConnection(waits_for_next=True, when=when),
                CloseConnection(announced=True, when=when),
                WrongContentRange(4096, when=when),
                NoContentRange(when=when),
                WrongLength(-7, when=when),
                WrongLength(7, when=when),
                CorruptHead("no_colon", when=when),
                CorruptHead("two_content_lengths", when=when),
                Delay(0.005, when=when),
                Redirect("/random/{path}", 307, when=When(path="random.safetensors", probability=when.probability)),
                MaxInFlight(5, when=when),
                WeakEtag(),
            ]
        )
    )


@settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    mixture=st.lists(faults(), max_size=4),
    sizes=st.lists(st.one_of(st.integers(0, 40), st.integers(4_000, 300_000)), max_size=8),
    chunk_bytes=st.sampled_from([4_096, 16_384, 100_000]),
    concurrency=st.sampled_from(["auto", 1, 3, 8]),
    hedge=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_mixture_of_faults(
    served: Served,
    mixture: list[Fault],
    sizes: list[int],
    chunk_bytes: int,
    concurrency: str | int,
    hedge: bool,
    seed: int,
) -> None:
    """A load that ends well has brought what is in the file, and faults that can be healed let it end well."""
    (served.root / "random").mkdir(exist_ok=True)
    path = served.root / "random.safetensors"
    tensors = write_model(path, sizes, seed)
    beside = served.root / "random" / path.name
    if not beside.is_symlink():
        beside.symlink_to(path)
    served.server.set_faults(Faults(*mixture))
    options = quick(
        chunk_bytes=chunk_bytes,
        concurrency=concurrency,
        hedge=hedge,
        attempts=20,
        retries=100_000,
        first_byte_timeout_s=0.3,
        stall_timeout_s=0.3,
    )
    assert load(served.server.url(path.name), options, served.storage_options).tensors == tensors
