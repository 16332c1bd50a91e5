"""Loads through a ring end as others do: nothing is left of them, nor of the ring."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy
import pytest

import slipstream
from slipstream import DeviceError
from slipstream.testing.faulty_fs import FaultyFs
from tests.endings.conftest import Sample
from tests.endings.sample import as_bytes
from tests.endings.test_failing_storage import bad_offset
from tests.endings.test_leaving import CallerError
from tests.staging.conftest import accelerated as accelerated
from tests.staging.conftest import late as late
from tests.staging.conftest import wrap_copiers

Look = Callable[..., None]
HANG_S = 60.0
# Slots that a device's next load finds, and threads of PyTorch's own, which copies on the CPU wake.
KEPT = ("reserved_kib", "tasks")


@pytest.fixture(params=["host", "late", "accelerated"])
def way(request: pytest.FixtureRequest) -> str:
    """Each way to where tensors stand."""
    if request.param != "host":
        request.getfixturevalue(request.param)
    return str(request.param)


@pytest.fixture
def staged(options: slipstream.Options, way: str) -> slipstream.Options:
    """Few slots, smaller than most tensors."""
    return replace(options, staging=True, ring_bytes=1 << 20, chunk_bytes=128 << 10)


@pytest.fixture
def nothing_else_left(nothing_left: Look, way: str) -> Look:
    """nothing_left, with what a device keeps left out."""

    def look(*but: str) -> None:
        nothing_left(*but, *(KEPT if way == "accelerated" else ()))

    return look


def open_stream(sample: Sample, options: slipstream.Options) -> slipstream.TensorStream:
    return slipstream.stream(sample.path, options=options)


def test_exhausted(sample: Sample, staged: slipstream.Options, nothing_else_left: Look) -> None:
    """A stream that is read to its end has delivered every byte; its ring is gone before its `with` block ends."""
    with open_stream(sample, staged) as tensors:
        assert as_bytes(tensors) == sample.contents
        nothing_else_left()
        stats = tensors.stats()
    assert stats.copies > 40
    assert 0 < stats.ring_bytes <= 1 << 20


def test_left_early(sample: Sample, staged: slipstream.Options, nothing_else_left: Look) -> None:
    """A `with` block that is left after one tensor leaves nothing but that tensor, which stays whole."""
    with open_stream(sample, staged) as tensors:
        name, tensor = next(tensors)
    nothing_else_left("reserved_kib")
    slipstream.load(sample.path, options=staged)
    assert numpy.asarray(tensor).tobytes() == sample.contents[name]
    del tensor
    nothing_else_left()


def test_abandoned(sample: Sample, staged: slipstream.Options, nothing_else_left: Look) -> None:
    """A stream that is forgotten, with copies under way, ends when its last reference goes."""
    tensors = open_stream(sample, staged)
    name, tensor = next(tensors)
    del tensors
    nothing_else_left("reserved_kib")
    assert numpy.asarray(tensor).tobytes() == sample.contents[name]


def test_error_of_the_caller(sample: Sample, staged: slipstream.Options, nothing_else_left: Look) -> None:
    """An exception in the caller's loop comes out unchanged."""

    def load() -> None:
        with open_stream(sample, staged) as tensors:
            for name, _ in tensors:
                raise CallerError(name)

    with pytest.raises(CallerError):
        load()
    nothing_else_left("reserved_kib")


def test_failing_disk(
    fuse_sample: Sample, faulty_fs: FaultyFs, staged: slipstream.Options, nothing_else_left: Look
) -> None:
    """EIO in mid-stream is a ReadError that says where; slots come back, and nothing is left while it is held."""
    bad = bad_offset(fuse_sample)
    faulty_fs.fail_from(bad)
    with pytest.raises(slipstream.ReadError, match="EIO") as caught, open_stream(fuse_sample, staged) as tensors:
        as_bytes(tensors)
    nothing_else_left()
    error = caught.value
    assert (error.uri, error.errno) == (str(fuse_sample.path), errno.EIO)
    assert error.offset is not None
    assert error.length is not None
    assert error.offset + error.length > bad


@pytest.mark.parametrize("number", [0, 7, 30])
def test_a_copy_that_fails(
    number: int,
    disk_sample: Sample,
    options: slipstream.Options,
    monkeypatch: pytest.MonkeyPatch,
    nothing_left: Look,
) -> None:
    """Where a device fails in mid-stream, its error comes out, whoever waits for that copy, and nothing is left."""
    wrap_copiers(monkeypatch, most_late=5, fails=number.__eq__)
    how = replace(options, staging=True, ring_bytes=1 << 20, chunk_bytes=128 << 10)
    with pytest.raises(DeviceError, match=f"copy {number} failed"), open_stream(disk_sample, how) as tensors:
        as_bytes(tensors)
    nothing_left()


def test_closed_while_reads_wait_for_slots(
    fuse_sample: Sample, faulty_fs: FaultyFs, staged: slipstream.Options, nothing_else_left: Look
) -> None:
    """close() in another thread ends a load whose every slot is in a read that hangs, once these reads end."""
    faulty_fs.hold_from(slipstream.inspect(fuse_sample.path).by_name["big.04"].start)
    tensors = open_stream(fuse_sample, replace(staged, concurrency=8))
    ended: list[BaseException] = []

    def iterate() -> None:
        try:
            as_bytes(tensors)
        except slipstream.SlipstreamError as error:
            ended.append(error)

    iterating = threading.Thread(target=iterate)
    closing = threading.Thread(target=tensors.close)
    iterating.start()
    faulty_fs.wait_held(1)
    closing.start()
    iterating.join(HANG_S)
    assert [type(error) for error in ended] == [slipstream.StreamClosedError]
    faulty_fs.release()
    closing.join(HANG_S)
    nothing_else_left()


def test_tensors_go_back_one_by_one(disk_sample: Sample, staged: slipstream.Options, way: str) -> None:
    """Under a limit a caller who drops each tensor loads more than the limit, and one who holds all gets an error."""
    limit = 2 << 20
    how = replace(staged, memory_wait_s=0.1)
    how = replace(how, device_memory_limit=limit) if way == "accelerated" else replace(how, memory_limit=limit)
    with open_stream(disk_sample, how) as tensors:
        assert as_bytes(tensors) == disk_sample.contents
        assert tensors.stats().peak_buffer_bytes <= limit
    with open_stream(disk_sample, how) as tensors, pytest.raises(slipstream.MemoryLimitError) as caught:
        dict(tensors)
    assert ("device_memory_limit" in str(caught.value)) == (way == "accelerated")
