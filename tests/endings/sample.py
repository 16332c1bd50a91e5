"""The checkpoint that the tests of endings and fallbacks read, and the bytes that must come out of it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy

from slipstream.testing.checkpoints import write_safetensors

BIG_BYTES = 512 << 10
BIG_TENSORS = 12
_Tensors = Mapping[str, tuple[str, tuple[int, ...], bytes]]


@cache
def make_tensors(seed: int) -> _Tensors:
    """Twelve tensors of 512 KiB; among them odd, tiny and empty ones, and a scalar. In the file in this order."""
    draw = random.Random(seed)
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for number in range(BIG_TENSORS):
        tensors[f"big.{number:02}"] = ("U8", (BIG_BYTES // 256, 256), draw.randbytes(BIG_BYTES))
        for small in range(3):
            length = draw.randrange(1, 5000)
            tensors[f"small.{number:02}.{small}"] = ("I8", (length,), draw.randbytes(length))
    tensors["empty"] = ("F32", (0, 7), b"")
    tensors["scalar"] = ("U8", (), draw.randbytes(1))
    return tensors


def write_sample(path: Path, seed: int = 0, prefix: str = "") -> dict[str, bytes]:
    """Writes the checkpoint, brings it to the disk and out of the page cache; returns each tensor's bytes."""
    tensors = {prefix + name: tensor for name, tensor in make_tensors(seed).items()}
    write_safetensors(path, tensors)
    evict(path)
    return {name: data for name, (_, _, data) in tensors.items()}


def evict(path: Path) -> None:
    """Takes a file out of the page cache, where its file system allows that."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def as_bytes(pairs: Iterable[tuple[str, Any]]) -> dict[str, bytes]:
    """What a stream delivers, as bytes. Each tensor is dropped at once."""
    found: dict[str, bytes] = {}
    for name, tensor in pairs:
        assert name not in found, f"{name} was delivered twice"
        found[name] = numpy.asarray(tensor).tobytes()
        del tensor
    return found
