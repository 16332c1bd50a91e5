"""Files to pull, where they are served, and what a pull leaves in a directory."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import slipstream
from slipstream import Options, Progress
from slipstream.testing.checkpoints import encode_index
from slipstream.testing.range_server import RangeServer

CHUNK_BYTES = 64 << 10
FIRST_LOOK_BYTES = 96 << 10  # of each blob, when its size and ETag are found out
INDEX = "model.safetensors.index.json"
# What is held at a gate is waited for, however busy the computer is: nothing but what a test does ends it.
SMALL_CHUNKS = Options(
    chunk_bytes=CHUNK_BYTES, concurrency=4, hedge=False, first_byte_timeout_s=60.0, stall_timeout_s=60.0
)


def write_files(root: Path, sizes: Mapping[str, int], seed: int = 0) -> dict[str, bytes]:
    """Writes files of random bytes, by their paths; returns their contents."""
    draw = random.Random(seed)
    contents = {path: draw.randbytes(size) for path, size in sizes.items()}
    for path, data in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return contents


@dataclass(frozen=True)
class Served:
    """Files behind a range server, and an index that names them all: what HTTP has of a listing.

    Attributes:
        contents: of all of them, by path, with the index.
    """

    server: RangeServer
    root: Path
    contents: dict[str, bytes]

    @property
    def url(self) -> str:
        return self.server.url(INDEX)

    @property
    def nbytes(self) -> int:
        return sum(map(len, self.contents.values()))

    def pull(self, directory: Path, *, options: Options = SMALL_CHUNKS) -> Progress:
        """Pulls all of them, and checks every byte; returns the last report."""
        reports: list[Progress] = []
        paths = slipstream.pull(self.url, directory, options=options, progress=reports.append)
        assert paths == tuple(sorted(directory / path for path in self.contents))
        assert read_tree(directory) == self.contents
        return reports[-1]

    def count_sent(self, path: str) -> int:
        """Bytes of a file sent since the last `reset`."""
        return sum(request.body_bytes for request in self.server.requests if request.path == path)


def serve_files(server: RangeServer, root: Path, sizes: Mapping[str, int], seed: int = 0) -> Served:
    """Puts files, with their index, below the folder that a server serves."""
    contents = write_files(root, sizes, seed)
    contents[INDEX] = encode_index({f"t{number}": path for number, path in enumerate(sizes)}, sum(sizes.values()))
    (root / INDEX).write_bytes(contents[INDEX])
    return Served(server, root, contents)


def read_tree(directory: Path) -> dict[str, bytes]:
    """The files of a directory by path, but for what a pull keeps for itself."""
    return {
        os.fspath(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and ".slipstream" not in path.parts
    }


def own_names(directory: Path) -> list[str]:
    """What a pull keeps in a directory, with `*.partial` for every partial file."""
    names = [path.name for path in (directory / ".slipstream").iterdir()]
    return sorted("*.partial" if name.endswith(".partial") else name for name in names)


def landed_bytes(directory: Path, path: str) -> int:
    """How much of a file that is not whole the record says is there."""
    try:
        text = (directory / ".slipstream" / "pull.jsonl").read_text()
    except FileNotFoundError:
        return 0
    lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    spans = [span for line in lines if line["path"] == path for span in line.get("landed", ())]
    return sum(end - start for start, end in spans)
