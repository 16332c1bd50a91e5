"""A checkpoint with the proportions of Llama 3 8B and rows as long as its own, but far fewer of them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy

from slipstream.testing.checkpoints import write_safetensors

# The shares of the tensors in 8.03 billion parameters: embeddings 13 %, attention and MLP of the layers 87 %.
SHAPES = {
    "model.embed_tokens.weight": (496, 4096),
    "model.layers.0.self_attn.q_proj.weight": (512, 4096),
    "model.layers.0.self_attn.k_proj.weight": (512, 1024),
    "model.layers.0.self_attn.v_proj.weight": (512, 1024),
    "model.layers.0.self_attn.o_proj.weight": (512, 4096),
    "model.layers.0.mlp.gate_proj.weight": (1792, 4096),
    "model.layers.0.mlp.up_proj.weight": (1792, 4096),
    "model.layers.0.mlp.down_proj.weight": (512, 14_336),
    "model.layers.0.input_layernorm.weight": (4096,),
    "model.norm.weight": (4096,),
    "lm_head.weight": (496, 4096),
}
COLUMNS = tuple(name for name in SHAPES if "o_proj" in name or "down_proj" in name)


def write_llama_like(path: Path) -> dict[str, numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.uint16]]]:
    """Writes it to the disk, and takes it out of the page cache; returns the elements as 16 bits each."""
    random = numpy.random.default_rng(8)
    tensors = {name: random.integers(0, 1 << 16, shape, numpy.uint16) for name, shape in SHAPES.items()}
    write_safetensors(path, {name: ("BF16", array.shape, array.tobytes()) for name, array in tensors.items()})
    forget(path)
    return tensors


def forget(path: Path) -> None:
    """Takes a file out of the page cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
