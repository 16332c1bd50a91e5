"""Many streams at once, read and left in every way by several threads: right bytes, and nothing left at the end."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

import slipstream
from slipstream.testing.checkpoints import write_safetensors
from slipstream.types import FILE_STRATEGIES
from tests.endings.leaks import see_footprint, wait_nothing_left
from tests.endings.sample import evict

THREADS = 4
STREAMS = 50
LARGEST = 70_000


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """Four files of some hundred kilobytes: tensors of every alignment, from none to 70,000 bytes."""
    folder, draw = tmp_path_factory.mktemp("shards"), random.Random(4)
    contents: dict[str, bytes] = {}
    for shard in range(4):
        tensors = {}
        for number in range(30):
            length = draw.choice([0, 1, 100, 4096, draw.randrange(LARGEST)])
            tensors[f"{shard}.{number:02}"] = ("U8", (length,), draw.randbytes(length))
        write_safetensors(folder / f"{shard}.safetensors", tensors)
        evict(folder / f"{shard}.safetensors")
        contents |= {name: data for name, (_, _, data) in tensors.items()}
    return folder, contents


def draw_options(draw: random.Random) -> slipstream.Options:
    return slipstream.Options(
        strategy=draw.choice(["auto", *FILE_STRATEGIES]),
        concurrency=draw.choice(["auto", 1, 2, 5]),
        chunk_bytes=draw.choice([4096, 10_000, 1 << 16, 1 << 20]),
        memory_limit=draw.choice([None, None, LARGEST, 3 * LARGEST]),
    )


def draw_names(draw: random.Random) -> Any:
    some = tuple(str(digit) for digit in draw.sample(range(10), 4))
    return draw.choice([None, None, "2.*", ["0.1*", "3.*"], lambda name: name.endswith(some)])


class Reader(threading.Thread):
    """Opens one stream after the other and ends each in a way that chance picks."""

    def __init__(self, seed: int, folder: Path, contents: dict[str, bytes]) -> None:
        super().__init__()
        self.draw = random.Random(seed)
        self.folder = folder
        self.contents = contents
        self.failure = ""

    def run(self) -> None:
        for number in range(STREAMS):
            state = self.draw.getstate()
            try:
                self.read_one()
            except BaseException as error:
                self.draw.setstate(state)
                self.failure = f"stream {number} with {draw_options(self.draw)}: {error!r}"
                return

    def read_one(self) -> None:
        options, names = draw_options(self.draw), draw_names(self.draw)
        tensors = slipstream.stream(self.folder, framework="numpy", options=options, names=names)
        wanted = tensors.plan.tensor_count
        most = self.draw.choice([0, 1, self.draw.randrange(wanted + 1), wanted, wanted])
        found = self.take(tensors, most)
        ending = self.draw.choice(["close", "drop", "with"])
        if ending == "close":
            tensors.close()
        elif ending == "with":
            with tensors:
                pass
        if most == wanted:
            assert found == wanted

    def take(self, tensors: slipstream.TensorStream, most: int) -> int:
        found: set[str] = set()
        while len(found) < most:
            name, tensor = next(tensors)
            assert numpy.asarray(tensor).tobytes() == self.contents[name], f"{name} has wrong bytes"
            assert name not in found
            found.add(name)
            del tensor
        return len(found)


def test_many_streams_at_once(shards: tuple[Path, dict[str, bytes]], nothing_left: Callable[..., None]) -> None:
    """200 streams in four threads, with random options and endings, deliver right bytes and leave nothing."""
    folder, contents = shards
    before = see_footprint(folder)
    readers = [Reader(seed, folder, contents) for seed in range(THREADS)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert [reader.failure for reader in readers if reader.failure] == []
    wait_nothing_left(before, folder)
