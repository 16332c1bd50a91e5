"""One rank that loads with runai_model_streamer, whichever it is: the original or the drop-in. Runs as a program.

    rank_program.py RANK SIZE PORT PATH ...       prints {"module": where it lies, "said": what came} as JSON

PORT is that of a TCPStore. It knows the public interface only, and imports nothing of slipstream.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

import runai_model_streamer
from runai_model_streamer import DistributedStreamer, FileChunks, SafetensorsStreamer


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


def bytes_read() -> int:
    """What this process has read by system calls so far."""
    return int(Path("/proc/self/io").read_text().partition("rchar:")[2].split()[0])


def load(paths: Sequence[str]) -> dict[str, Any]:
    """All tensors, and how much was read for them."""
    before = bytes_read()
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(list(paths), is_distributed=True)
        told = sorted(tensor.name for file in streamer.files_to_tensors_metadata.values() for tensor in file)
        found = {
            name: [str(tensor.dtype), list(tensor.shape), digest(tensor)] for name, tensor in streamer.get_tensors()
        }
    return {"told": told, "tensors": found, "read": bytes_read() - before}


def load_ranges(paths: Sequence[str]) -> dict[str, Any]:
    """Ranges that overlap and repeat, of every file, and whether they were shared."""
    with DistributedStreamer() as streamer:
        requests = [FileChunks(number, path, [0, 9, 0, 9], [8, 1000, 8, 5]) for number, path in enumerate(paths)]
        streamer.stream_files(requests, None, "cpu", True)
        found = sorted([number, position, digest(data)] for number, position, data in streamer.get_chunks())
        return {"ranges": found, "shared": streamer.is_distributed, "ranks": streamer.get_group_size()}


def main(rank: int, size: int, port: int, *paths: str) -> None:
    dist.init_process_group("gloo", store=TCPStore("127.0.0.1", port, is_master=False), rank=rank, world_size=size)
    said = {**load(paths), **load_ranges(paths)}
    dist.barrier()
    dist.destroy_process_group()
    print(json.dumps({"module": runai_model_streamer.__file__, "said": said}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
