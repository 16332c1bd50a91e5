"""A process that forks in the midst of a load: the parent goes on, the child is told, and neither hangs."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import slipstream
from slipstream.testing.process_watch import run_in_child
from slipstream.types import Strategy
from tests.endings.conftest import Sample
from tests.endings.sample import as_bytes, write_sample

Look = Callable[..., None]


@pytest.fixture(autouse=True)
def fork_is_meant() -> Iterator[None]:
    """Python 3.12 and later warn of every fork of a process that has threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def open_stream(sample: Sample, options: slipstream.Options) -> slipstream.TensorStream:
    return slipstream.stream(sample.path, framework="numpy", options=options)


def test_next_in_the_child(sample: Sample, options: slipstream.Options) -> None:
    """next() in the child raises StreamClosedError that names the fork, and the parent reads on to the end."""
    tensors = open_stream(sample, options)
    found = as_bytes([next(tensors)])

    def iterate() -> None:
        with pytest.raises(slipstream.StreamClosedError, match="fork"):
            as_bytes(tensors)

    assert run_in_child(iterate) == ""
    found |= as_bytes(tensors)
    assert found == sample.contents


def test_next_in_the_child_of_neighbours(tmp_path: Path, disk_sample: Sample, options: slipstream.Options) -> None:
    """So it does where the parent has tensors ready: which of the two gets them is no matter of chance."""
    tensors = slipstream.stream(disk_sample.path, framework="numpy", options=options, names="small.*")
    next(tensors)

    def iterate() -> None:
        with pytest.raises(slipstream.StreamClosedError, match="fork"):
            next(tensors)

    assert run_in_child(iterate) == ""
    assert len(as_bytes(tensors)) == 35


def test_leaving_in_the_child(sample: Sample, options: slipstream.Options, nothing_left: Look) -> None:
    """The child may close the stream, leave its `with` block and drop it; the parent's files and threads stay."""
    tensors = open_stream(sample, options)

    def leave() -> None:
        nonlocal tensors
        tensors.stats()
        repr(tensors)
        with tensors:
            pass
        tensors.close()
        del tensors
        gc.collect()

    assert run_in_child(leave) == ""
    assert as_bytes(tensors) == sample.contents
    nothing_left()


def test_tensors_in_the_child(sample: Sample, options: slipstream.Options) -> None:
    """Tensors that were delivered before the fork are the child's too: it may read, change and drop its copies."""
    tensors = open_stream(sample, options)
    kept = dict(tensors)

    def change() -> None:
        assert as_bytes(kept.items()) == sample.contents
        for tensor in kept.values():
            tensor[...] = 0
        kept.clear()

    assert run_in_child(change) == ""
    assert as_bytes(kept.items()) == sample.contents


def test_own_stream_in_the_child(sample: Sample, options: slipstream.Options, nothing_left: Look) -> None:
    """A child that was forked in the midst of a load can load by itself, and so can the parent after it."""
    tensors = open_stream(sample, options)
    next(tensors)

    def load() -> None:
        assert as_bytes(open_stream(sample, options)) == sample.contents

    assert run_in_child(load) == ""
    tensors.close()
    load()
    nothing_left()


def test_fork_while_the_stream_decides(disk_sample: Sample) -> None:
    """A child may drop tensors and ask for figures, whatever a thread of the parent held locked when it was forked.

    The moment is fixed by the garbage collection that a stream makes, under its lock, before it gives up for want of
    memory: one thread is held there while another forks.
    """
    tensors = open_stream(disk_sample, slipstream.Options(strategy=Strategy.BUFFERED, memory_limit=5 << 18))
    kept = [next(tensors)]
    while sum(tensor.nbytes for _, tensor in kept) < 900_000:
        kept.append(next(tensors))
    locked, forked = threading.Event(), threading.Event()

    def hold(phase: str, info: dict[str, int]) -> None:
        if threading.current_thread() is iterating and phase == "start":
            locked.set()
            forked.wait()

    def iterate() -> None:
        try:
            while True:
                kept.append(next(tensors))
        except slipstream.MemoryLimitError:
            pass

    def drop() -> None:
        kept.clear()
        tensors.stats()

    iterating = threading.Thread(target=iterate)
    gc.callbacks.append(hold)
    try:
        iterating.start()
        assert locked.wait(20)
        outcome = run_in_child(drop)
    finally:
        forked.set()
        gc.callbacks.remove(hold)
        kept.clear()
        iterating.join()
    tensors.close()
    assert outcome == ""


def test_many_forks(tmp_path: Path, disk_sample: Sample, options: slipstream.Options, nothing_left: Look) -> None:
    """Forks at any moment of a busy load: no child hangs when it drops what it holds, the parent gets every byte."""
    for seed in range(2):
        contents = write_sample(disk_sample.path, seed)
        tensors = open_stream(disk_sample, options)
        found: dict[str, bytes] = {}
        for number, (name, tensor) in enumerate(tensors):
            if number % 8 == 0:
                kept = [tensor]
                assert run_in_child(kept.clear) == ""
            found |= as_bytes([(name, tensor)])
        assert found == contents
    del kept, tensor
    nothing_left()
