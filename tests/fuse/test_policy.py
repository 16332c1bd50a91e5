"""FUSE file systems are recognised, and what serves their pages from another process is read in parallel."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest

import slipstream
from slipstream.sources.mounts import see_storage
from slipstream.testing.checkpoints import write_safetensors
from slipstream.testing.faulty_fs import FaultyFs, HeldRead
from slipstream.types import FILE_STRATEGIES, Strategy
from tests.endings.sample import as_bytes, write_sample

MIB = 1 << 20


def write_large(path: Path) -> dict[str, bytes]:
    """One tensor of 10 MiB, which many workers read in parallel."""
    data = random.Random(0).randbytes(10 * MIB)
    write_safetensors(path, {"large": ("U8", [10 * MIB], data)})
    return {"large": data}


def wait_held_apart(faulty: FaultyFs, count: int, place: Callable[[HeldRead], object]) -> None:
    """Waits until reads of so many different places are at the gate together; one place may have several."""
    held = faulty.wait_held(count)
    while len({place(read) for read in held}) < count:
        held = faulty.wait_held(len(held) + 1)


def test_facts(bindfs_checkpoint: tuple[Path, dict[str, bytes]]) -> None:
    """bindfs is a FUSE file system to the kernel: remote, not in memory, with a volume of its own."""
    path, _ = bindfs_checkpoint
    facts = see_storage(str(path))
    assert facts.filesystem in ("fuse", "fuse.bindfs")
    assert (facts.remote, facts.in_memory) == (True, False)
    assert facts.volume != see_storage(str(path.parent.parent / "source" / path.name)).volume


def test_facts_of_a_subtype(faulty_fs: tuple[FaultyFs, Path]) -> None:
    """A FUSE file system that names itself keeps its name in the facts, and is as remote."""
    faulty, source = faulty_fs
    write_sample(source / "model.safetensors")
    facts = see_storage(str(faulty.mount_point / "model.safetensors"))
    assert (facts.filesystem, facts.remote) == ("fuse.faulty", True)


def test_auto(bindfs_checkpoint: tuple[Path, dict[str, bytes]]) -> None:
    """auto reads it `buffered`, with more than one read in flight, and gives the reason in words, in plan and stats."""
    path, contents = bindfs_checkpoint
    (choice,) = slipstream.plan(path).choices
    assert choice is not None
    assert choice.strategy is Strategy.BUFFERED
    assert choice.concurrency > 1
    assert "network or FUSE file system" in choice.reason
    assert "in parallel" in choice.reason
    tensors = slipstream.stream(path, framework="numpy")
    assert as_bytes(tensors) == contents
    (file,) = tensors.stats().files
    assert (file.strategy, file.reason) == (choice.strategy, choice.reason)
    assert tensors.stats().fallbacks == ()


@pytest.mark.parametrize("strategy", FILE_STRATEGIES)
def test_forced(bindfs_checkpoint: tuple[Path, dict[str, bytes]], strategy: Strategy) -> None:
    """Each strategy works there when it is forced, cold and again with what the first load has left cached."""
    path, contents = bindfs_checkpoint
    for _ in range(2):
        options = slipstream.Options(strategy=strategy, concurrency=4, chunk_bytes=128 << 10)
        tensors = slipstream.stream(path, framework="numpy", options=options)
        assert as_bytes(tensors) == contents
        assert tensors.stats().files[0].strategy is strategy


@pytest.mark.parametrize("strategy", FILE_STRATEGIES)
def test_writing_to_a_tensor(bindfs_checkpoint: tuple[Path, dict[str, bytes]], strategy: Strategy) -> None:
    """Tensors from there are the caller's: writing to them changes neither the file nor what is loaded next."""
    path, contents = bindfs_checkpoint
    options = slipstream.Options(strategy=strategy)
    tensors = slipstream.load(path, framework="numpy", options=options)
    for tensor in tensors.values():
        tensor[...] = 1
    assert numpy.asarray(tensors["big.00"]).all()
    assert as_bytes(slipstream.load(path, framework="numpy", options=options).items()) == contents


@pytest.mark.parametrize("strategy", ["auto", *FILE_STRATEGIES])
def test_reads_are_in_flight_together(faulty_fs: tuple[FaultyFs, Path], strategy: Strategy) -> None:
    """Eight reads of eight chunks reach the file system before any of them is answered: they are in parallel."""
    faulty, source = faulty_fs
    contents = write_large(source / "large.safetensors")
    path = faulty.mount_point / "large.safetensors"
    options = slipstream.Options(strategy=strategy, concurrency=8, chunk_bytes=MIB)
    faulty.hold_from(MIB)
    with slipstream.stream(path, framework="numpy", options=options) as tensors:
        wait_held_apart(faulty, 8, lambda read: read.offset // MIB)
        faulty.release()
        assert as_bytes(tensors) == contents


def test_files_are_read_together(faulty_fs: tuple[FaultyFs, Path], tmp_path: Path) -> None:
    """Several files of one checkpoint are read at once, not one after the other."""
    faulty, source = faulty_fs
    (source / "shards").mkdir()
    contents: dict[str, bytes] = {}
    for shard in range(3):
        contents |= write_sample(source / "shards" / f"{shard}.safetensors", seed=shard, prefix=f"{shard}.")
    faulty.hold_from(5 * MIB)
    options = slipstream.Options(concurrency=12, chunk_bytes=4 * MIB)
    with slipstream.stream(faulty.mount_point / "shards", framework="numpy", options=options) as tensors:
        wait_held_apart(faulty, 3, lambda read: read.path)
        faulty.release()
        assert as_bytes(tensors) == contents


def test_command_line(bindfs_checkpoint: tuple[Path, dict[str, bytes]]) -> None:
    """`slipstream plan` shows the same choice and reason."""
    path, _ = bindfs_checkpoint
    command = [sys.executable, "-m", "slipstream", "plan", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    text = json.dumps(json.loads(done.stdout))
    assert '"buffered"' in text
    assert "FUSE file system" in text
