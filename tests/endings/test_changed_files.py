"""Files that somebody else truncates, changes, replaces or removes during the load: never a mixture, never zeros."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import slipstream
from slipstream.types import Strategy
from tests.endings.conftest import Sample
from tests.endings.sample import as_bytes, write_sample

Look = Callable[..., None]


class Opening:
    """Calls a function when a file is about to be opened, in the thread that opens it: Python's audit hook as a gate.

    An audit hook cannot be removed, so there is one for all tests, and it does nothing outside of them.
    """

    def __init__(self) -> None:
        self.action: Callable[[str, int], None] | None = None
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and self.action is not None and isinstance(arguments[0], str):
            self.action(arguments[0], arguments[2])


_OPENING = Opening()


@pytest.fixture
def opening() -> Iterator[Opening]:
    yield _OPENING
    _OPENING.action = None


def start(sample: Sample, options: slipstream.Options) -> tuple[slipstream.TensorStream, str, Any]:
    """A stream that has delivered a tensor and, for want of memory, cannot have read the rest of the file."""
    tensors = slipstream.stream(sample.path, framework="numpy", options=options, names="*big.*")
    name, tensor = next(tensors)
    return tensors, name, tensor


def drop_all(tensors: slipstream.TensorStream) -> None:
    """Reads on without touching a tensor: of a mapping, pages that the file has lost cannot be touched (SIGBUS)."""
    for pair in tensors:
        del pair


def test_truncated(disk_sample: Sample, tight_options: slipstream.Options, nothing_left: Look) -> None:
    """A file that is truncated while it is read is a ReadError that says so, and where."""
    tensors, name, tensor = start(disk_sample, tight_options)
    assert tensor.tobytes() == disk_sample.contents[name]
    end = disk_sample.path.stat().st_size // 2 + 100
    os.truncate(disk_sample.path, end)
    del tensor
    with pytest.raises(slipstream.ReadError, match="truncated while it was loaded") as caught:
        drop_all(tensors)
    nothing_left()
    assert caught.value.uri == str(disk_sample.path)
    assert caught.value.offset is not None
    assert caught.value.length is not None
    assert caught.value.offset + caught.value.length > end


def test_truncated_to_nothing(disk_sample: Sample, tight_options: slipstream.Options, nothing_left: Look) -> None:
    """A file that is emptied while it is read is an error and not a signal: slipstream touches no lost page."""
    tensors, _, tensor = start(disk_sample, tight_options)
    del tensor
    os.truncate(disk_sample.path, 0)
    with pytest.raises(slipstream.ReadError):
        drop_all(tensors)
    nothing_left()


def test_truncated_under_small_tensors(disk_sample: Sample, strategy: Strategy) -> None:
    """So it is where small tensors are handed out as copies, which slipstream makes itself.

    In a process of its own, which a signal may end; the file is truncated once some of them are read but not copied.
    """
    program = """
import os, sys, time
import slipstream
options = slipstream.Options(strategy=sys.argv[2], concurrency=1, memory_limit=64_000)
tensors = slipstream.stream(sys.argv[1], framework="numpy", options=options, names="small.*")
kept = [next(tensors)]
deadline = time.monotonic() + 20
while tensors.stats().reads < 3 and time.monotonic() < deadline:
    time.sleep(0.001)
os.truncate(sys.argv[1], 0)
try:
    kept += [next(tensors) for _ in range(5)]  # held, so no further read begins meanwhile
    kept.clear()
    for pair in tensors:
        del pair
except slipstream.ReadError:
    print("read error")
"""
    command = [sys.executable, "-c", program, str(disk_sample.path), strategy]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "read error\n", "")


@pytest.mark.parametrize("change", ["overwritten", "extended", "touched"])
def test_changed(disk_sample: Sample, tight_options: slipstream.Options, nothing_left: Look, change: str) -> None:
    """A file that is written to while it is read is a BlobChangedError at the latest at its last byte."""
    tensors, _, tensor = start(disk_sample, tight_options)
    del tensor
    if change == "touched":
        os.utime(disk_sample.path, ns=(0, 0))
    else:
        with open(disk_sample.path, "ab" if change == "extended" else "r+b") as file:
            file.seek(-100, os.SEEK_END)
            file.write(b"x" * 100)
    with pytest.raises(slipstream.BlobChangedError, match="was changed while it was loaded") as caught:
        as_bytes(tensors)
    assert caught.value.uri == str(disk_sample.path)
    nothing_left()


def test_replaced_while_open(disk_sample: Sample, tight_options: slipstream.Options, tmp_path: Path) -> None:
    """A file that is replaced under its name while it is read is read to its end as it was: one file, no mixture."""
    tensors, name, tensor = start(disk_sample, tight_options)
    found = {name: tensor.tobytes()}
    del tensor
    write_sample(tmp_path / "new", seed=1)
    os.replace(tmp_path / "new", disk_sample.path)
    found |= as_bytes(tensors)
    assert all(disk_sample.contents[name] == data for name, data in found.items())


def test_removed_while_open(disk_sample: Sample, tight_options: slipstream.Options) -> None:
    """A file that is removed while it is read is read to its end."""
    tensors, name, tensor = start(disk_sample, tight_options)
    found = {name: tensor.tobytes()}
    del tensor
    os.unlink(disk_sample.path)
    found |= as_bytes(tensors)
    assert all(disk_sample.contents[name] == data for name, data in found.items())


@pytest.fixture
def two_shards(tmp_path: Path) -> Sample:
    """A directory of two files; with little memory, the second, `source`, is opened once the first was delivered."""
    second = tmp_path / "b.safetensors"
    contents = write_sample(tmp_path / "a.safetensors")
    write_sample(second, prefix="other.")
    return Sample(tmp_path, second, contents)


def test_shard_replaced_before_it_is_opened(
    two_shards: Sample, tight_options: slipstream.Options, nothing_left: Look, tmp_path: Path
) -> None:
    """A shard that is replaced between its header and its tensors is a BlobChangedError that names it."""
    tensors, _, tensor = start(two_shards, tight_options)
    shutil.copyfile(two_shards.source, tmp_path / "new")
    os.replace(tmp_path / "new", two_shards.source)
    del tensor
    with pytest.raises(slipstream.BlobChangedError) as caught:
        as_bytes(tensors)
    assert caught.value.uri == str(two_shards.source)
    nothing_left()


def test_shard_removed_before_it_is_opened(
    two_shards: Sample, tight_options: slipstream.Options, nothing_left: Look
) -> None:
    """A shard that is removed between its header and its tensors is a BlobNotFoundError that names it."""
    tensors, _, tensor = start(two_shards, tight_options)
    two_shards.source.unlink()
    del tensor
    with pytest.raises(slipstream.BlobNotFoundError) as caught:
        as_bytes(tensors)
    assert caught.value.uri == str(two_shards.source)
    nothing_left()


def test_replaced_between_header_and_tensors(
    disk_sample: Sample, options: slipstream.Options, opening: Opening, tmp_path: Path, nothing_left: Look
) -> None:
    """A file that is replaced after its header was read is a BlobChangedError, before any of its tensors."""
    write_sample(tmp_path / "new", seed=1)
    plan = slipstream.plan(disk_sample.path, options=options)
    assert plan.tensor_count
    opens = []

    def replace(path: str, flags: int) -> None:
        if path == str(disk_sample.path):
            opens.append(flags)
            if len(opens) == 3:  # the header, the facts of the storage, and now the tensors
                os.replace(tmp_path / "new", path)

    opening.action = replace
    with pytest.raises(slipstream.BlobChangedError):
        slipstream.load(disk_sample.path, framework="numpy", options=options)
    nothing_left()


def test_replaced_between_two_opens(disk_sample: Sample, opening: Opening, tmp_path: Path) -> None:
    """`direct` opens a file twice; where the second is another file, it is an error or unread, never a mixture."""
    write_sample(tmp_path / "new", seed=1)

    def replace(path: str, flags: int) -> None:
        if flags & os.O_DIRECT and (tmp_path / "new").exists():
            os.replace(tmp_path / "new", disk_sample.path)

    opening.action = replace
    options = slipstream.Options(strategy=Strategy.DIRECT, concurrency=4, chunk_bytes=128 << 10)
    try:
        found = as_bytes(slipstream.load(disk_sample.path, framework="numpy", options=options).items())
    except slipstream.BlobChangedError:
        return
    assert [name for name, data in found.items() if data != disk_sample.contents[name]] == []


def test_no_descriptor_to_spare(
    disk_sample: Sample, options: slipstream.Options, opening: Opening, nothing_left: Look
) -> None:
    """A process that may open no further file gets a ReadError that says so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opens = []

    def exhaust(path: str, flags: int) -> None:
        if path == str(disk_sample.path):
            opens.append(flags)
            if len(opens) == 3:
                resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))

    opening.action = exhaust
    try:
        with pytest.raises(slipstream.ReadError, match=r"EMFILE") as caught:
            slipstream.load(disk_sample.path, framework="numpy", options=options)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EMFILE
    nothing_left()
