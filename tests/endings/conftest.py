"""Checkpoints on a disk and on a FUSE file system that fails on command; and a check that nothing is left of a load."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import slipstream
from slipstream.testing.faulty_fs import FaultyFs
from slipstream.types import FILE_STRATEGIES, Strategy
from tests.endings.leaks import Footprint, see_footprint, wait_nothing_left
from tests.endings.sample import write_sample
from tests.fuse.mounts import mount_faulty

_NUMBERS = itertools.count()


class Sample(NamedTuple):
    """A checkpoint to read.

    Attributes:
        path: the file, or directory, to load.
        source: the same file, or the last of them, where it can be changed: behind the FUSE file system, if any.
        contents: each tensor's bytes.
    """

    path: Path
    source: Path
    contents: dict[str, bytes]


@pytest.fixture(scope="session")
def faulty_mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FaultyFs, Path]]:
    with mount_faulty(tmp_path_factory.mktemp("fuse")) as mounted:
        yield mounted


@pytest.fixture
def faulty_fs(faulty_mount: tuple[FaultyFs, Path]) -> Iterator[FaultyFs]:
    """The faulty file system, without a fault yet."""
    yield faulty_mount[0]
    faulty_mount[0].reset()


@pytest.fixture
def fuse_sample(faulty_mount: tuple[FaultyFs, Path], faulty_fs: FaultyFs) -> Sample:
    """A checkpoint on the faulty file system."""
    source = faulty_mount[1] / f"{next(_NUMBERS)}.safetensors"
    return Sample(faulty_fs.mount_point / source.name, source, write_sample(source))


@pytest.fixture
def disk_sample(tmp_path: Path) -> Sample:
    """A checkpoint on the disk that the tests run on."""
    path = tmp_path / "model.safetensors"
    return Sample(path, path, write_sample(path))


@pytest.fixture(params=["disk", "fuse"])
def sample(request: pytest.FixtureRequest) -> Sample:
    """A checkpoint on each of the two."""
    found: Sample = request.getfixturevalue(f"{request.param}_sample")
    return found


@pytest.fixture(params=FILE_STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> Strategy:
    """Each of the strategies."""
    found: Strategy = request.param
    return found


@pytest.fixture
def options(strategy: Strategy) -> slipstream.Options:
    """A strategy that is forced, with chunks as large as a tensor: nearly each takes two reads of different workers."""
    return slipstream.Options(strategy=strategy, concurrency=4, chunk_bytes=512 << 10)


@pytest.fixture
def tight_options(strategy: Strategy) -> slipstream.Options:
    """Small chunks, and a limit of two and a half tensors: reading goes no further than the caller has come."""
    return slipstream.Options(strategy=strategy, concurrency=4, chunk_bytes=128 << 10, memory_limit=5 << 18)


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Fails every test that leaves something behind; called, looks at once. `but=` names kinds to overlook."""
    folder = tmp_path
    if "faulty_mount" in request.fixturenames:  # its own descriptors are there before the test begins
        folder = request.getfixturevalue("faulty_mount")[0].mount_point
    for name in {"sample", "disk_sample", "fuse_sample", "two_shards"} & set(request.fixturenames):
        found: Sample = request.getfixturevalue(name)
        folder = found.path if found.path.is_dir() else found.path.parent
    before: Footprint = see_footprint(folder)

    def look(*but: str) -> None:
        wait_nothing_left(before, folder, but=but)

    yield look
    if see_footprint(folder) - before:
        gc.collect()  # a test that holds an error and its traceback is a reference cycle
    look()
