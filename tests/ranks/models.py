"""A checkpoint for ranks to share: larger than a piece, uneven, with tensors that are odd, tiny, empty and large."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch

from slipstream.testing.checkpoints import encode_safetensors, write_safetensors
from slipstream.types import Dtype
from tests.ranks.member import digest

MIB = 1 << 20
Shard = Mapping[str, tuple[Dtype, tuple[int, ...], bytes]]


@dataclass(frozen=True)
class Model:
    """What there is to load, and what must come of it.

    Attributes:
        shards: by file name.
        digests: of each tensor, as PyTorch has it.
        nbytes: of all tensors.
        folder: where it lies.
    """

    shards: Mapping[str, Shard]
    digests: Mapping[str, str]
    nbytes: int
    folder: Path


def write_model(folder: Path) -> Model:
    """Makes it, in a folder that is there: 32 MiB, one tensor of 12 MiB that is cut into pieces, and many small."""
    draw = random.Random(4)
    first: dict[str, tuple[Dtype, tuple[int, ...], bytes]] = {
        "embedding": (Dtype.BF16, (6 * 1024, 1024), draw.randbytes(12 * MIB)),
        "empty": (Dtype.F32, (0, 7), b""),
        "odd": (Dtype.U8, (12345,), draw.randbytes(12345)),
        "misaligned": (Dtype.I32, (3 * MIB // 4,), draw.randbytes(3 * MIB)),
    }
    for number in range(9):
        first[f"layer.{number}.weight"] = (Dtype.I16, (512, 1024), draw.randbytes(MIB))
        first[f"layer.{number}.bias"] = (Dtype.I64, (3,), draw.randbytes(24))
    second: dict[str, tuple[Dtype, tuple[int, ...], bytes]] = {
        f"head.{number}": (Dtype.U8, (size,), draw.randbytes(size))
        for number, size in enumerate([5 * MIB + 1, 1, 2 * MIB, 700_001])
    }
    second["last"] = (Dtype.F64, (0,), b"")
    shards = {"model-1.safetensors": first, "model-2.safetensors": second}
    digests: dict[str, str] = {}
    for name, shard in shards.items():
        write_safetensors(folder / name, shard)
        loaded = safetensors.torch.load(encode_safetensors(shard))
        digests |= {name: digest(tensor) for name, tensor in loaded.items()}
    nbytes = sum(len(data) for shard in shards.values() for _, _, data in shard.values())
    return Model(shards, digests, nbytes, folder)
