"""However the caller leaves a stream, its threads, descriptors and memory are gone at once, and its tensors live on."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import pytest

import slipstream
from slipstream.types import Progress
from tests.endings.conftest import Sample
from tests.endings.sample import as_bytes

Look = Callable[..., None]


class CallerError(Exception):
    """Something of the caller's own."""


def open_stream(sample: Sample, options: slipstream.Options) -> slipstream.TensorStream:
    return slipstream.stream(sample.path, framework="numpy", options=options)


def test_exhausted(sample: Sample, options: slipstream.Options, nothing_left: Look) -> None:
    """A stream that is read to its end has delivered every byte and left nothing, before its `with` block ends."""
    with open_stream(sample, options) as tensors:
        assert as_bytes(tensors) == sample.contents
        nothing_left()


def test_exhausted_without_a_with_block(sample: Sample, options: slipstream.Options, nothing_left: Look) -> None:
    """A stream in a plain loop needs no close: its end is one."""
    tensors = open_stream(sample, options)
    assert as_bytes(tensors) == sample.contents
    nothing_left()
    assert repr(tensors).startswith("<TensorStream closed")


def test_left_early(sample: Sample, options: slipstream.Options, nothing_left: Look) -> None:
    """A `with` block that is left after one tensor leaves nothing but that tensor, which stays whole."""
    with open_stream(sample, options) as tensors:
        name, tensor = next(tensors)
    nothing_left("mappings", "reserved_kib")
    assert numpy.asarray(tensor).tobytes() == sample.contents[name]
    del tensor
    nothing_left()


def test_left_at_once(sample: Sample, options: slipstream.Options, nothing_left: Look) -> None:
    """A `with` block in which no tensor is asked for leaves nothing."""
    with open_stream(sample, options):
        pass
    nothing_left()


def test_break(sample: Sample, options: slipstream.Options, nothing_left: Look) -> None:
    """`break` inside the `with` block leaves nothing."""
    with open_stream(sample, options) as tensors:
        for name, tensor in tensors:
            assert numpy.asarray(tensor).tobytes() == sample.contents[name]
            break
    del tensor
    nothing_left()


def test_break_while_memory_is_short(sample: Sample, tight_options: slipstream.Options, nothing_left: Look) -> None:
    """Workers that wait for memory are woken and end when the stream is left."""
    with open_stream(sample, tight_options) as tensors:
        for _, tensor in tensors:
            if tensor.nbytes > 5000:
                break
    del tensor
    nothing_left()


def test_error_of_the_caller(sample: Sample, options: slipstream.Options, nothing_left: Look) -> None:
    """An exception in the caller's loop comes out unchanged, and nothing is left while it is still held."""

    def load() -> None:
        with open_stream(sample, options) as tensors:
            for name, _ in tensors:
                raise CallerError(name)

    with pytest.raises(CallerError) as caught:
        load()
    assert caught.value.__cause__ is None
    nothing_left("mappings", "reserved_kib")  # the loop's own variables, which the traceback holds, are tensors
    del caught
    nothing_left()


def test_error_of_the_progress_function(sample: Sample, options: slipstream.Options, nothing_left: Look) -> None:
    """An exception in the progress function comes out unchanged and ends the stream."""

    def fail(progress: Progress) -> None:
        raise CallerError

    tensors = slipstream.stream(sample.path, framework="numpy", options=options, progress=fail)
    with pytest.raises(CallerError):
        as_bytes(tensors)
    nothing_left()
    with pytest.raises(slipstream.StreamClosedError):
        next(tensors)


def test_abandoned(sample: Sample, options: slipstream.Options, nothing_left: Look) -> None:
    """A stream that is forgotten after one tensor ends when its last reference goes, and the tensor lives on."""
    tensors = open_stream(sample, options)
    name, tensor = next(tensors)
    del tensors
    nothing_left("mappings", "reserved_kib")
    assert numpy.asarray(tensor).tobytes() == sample.contents[name]


def test_abandoned_unused(sample: Sample, options: slipstream.Options, nothing_left: Look) -> None:
    """A stream that nobody ever asked for a tensor ends when its last reference goes."""
    tensors = open_stream(sample, options)
    del tensors
    nothing_left()


def test_abandoned_loop(sample: Sample, options: slipstream.Options, nothing_left: Look) -> None:
    """`for ... in slipstream.stream(...)` ends the stream when the loop is broken off, without a `with` block."""
    for _ in slipstream.stream(sample.path, framework="numpy", options=options):
        break
    del _
    nothing_left()


def test_abandoned_while_memory_is_short(sample: Sample, tight_options: slipstream.Options, nothing_left: Look) -> None:
    """A forgotten stream whose workers wait for memory ends too."""
    tensors = open_stream(sample, tight_options)
    next(tensors)
    del tensors
    nothing_left()


def test_abandoned_in_torch(disk_sample: Sample, options: slipstream.Options, nothing_left: Look) -> None:
    """PyTorch tensors keep nothing of a stream either, but their own memory."""
    torch = pytest.importorskip("torch")
    tensors = slipstream.stream(disk_sample.path, framework="torch", options=options)
    name, tensor = next(tensors)
    del tensors
    nothing_left("mappings", "reserved_kib", "tasks")  # threads of PyTorch's own
    assert isinstance(tensor, torch.Tensor)
    assert tensor.numpy().tobytes() == disk_sample.contents[name]


def test_next_after_the_end(sample: Sample, options: slipstream.Options) -> None:
    """After exhaustion every next() raises StopIteration, also when the stream was closed since."""
    with open_stream(sample, options) as tensors:
        as_bytes(tensors)
        assert next(tensors, None) is None
        assert next(tensors, None) is None
    assert next(tensors, None) is None
    tensors.close()
    assert as_bytes(tensors) == {}


def test_next_after_close(sample: Sample, options: slipstream.Options) -> None:
    """After close() every next() raises StreamClosedError, also for tensors that were read already."""
    with open_stream(sample, options) as tensors:
        next(tensors)
    for _ in range(2):
        with pytest.raises(slipstream.StreamClosedError, match="closed"):
            next(tensors)


def test_close_twice(sample: Sample, options: slipstream.Options, nothing_left: Look) -> None:
    """Closing again does nothing, before, inside and after the end of the `with` block."""
    with open_stream(sample, options) as tensors:
        next(tensors)
        tensors.close()
        tensors.close()
        nothing_left()
    tensors.close()


def test_stats_after_leaving(sample: Sample, options: slipstream.Options) -> None:
    """The figures can be asked for after the stream was left, and they stand still once it was read to its end."""
    with open_stream(sample, options) as tensors:
        next(tensors)
    assert tensors.stats().tensors >= 1
    with open_stream(sample, options) as tensors:
        as_bytes(tensors)
    stats = tensors.stats()
    assert stats == tensors.stats()
    assert stats.bytes == sum(map(len, sample.contents.values()))
    assert stats.tensors == len(sample.contents)
