"""What the tests of slipstream.safetensors share: checkpoints, and how tensors of either framework are compared."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch

from slipstream import Dtype
from slipstream.testing.checkpoints import write_safetensors
from tests.streaming.random_checkpoints import make_content

FRAMEWORKS = ("pt", "np")


def write_varied(path: Path, metadata: Mapping[str, str] | None = None) -> list[str]:
    """Writes a file with tensors of the usual types and of odd shapes, stored in another order than their names'."""
    shapes: dict[str, tuple[Dtype, tuple[int, ...]]] = {
        "z.matrix": (Dtype.F32, (6, 5)),
        "a.scalar": (Dtype.F64, ()),
        "m.empty": (Dtype.F16, (0, 3)),
        "b.cube": (Dtype.BF16, (2, 3, 4)),
        "y.odd": (Dtype.U8, (3,)),
        "c.after_odd": (Dtype.I64, (7,)),
        "x.truth": (Dtype.BOOL, (9,)),
    }
    contents = {name: (dtype, shape, make_content(dtype, shape, seed=7)) for name, (dtype, shape) in shapes.items()}
    write_safetensors(path, contents, metadata)
    return list(shapes)


def write_layers(path: Path, layers: int, columns: int = 1000, per_layer: int = 3) -> list[str]:
    """Writes a model of many layers, each of some matrices of 10 rows of F32; stored as safetensors sorts names."""
    names = sorted(f"model.layers.{layer}.part{part}" for layer in range(layers) for part in range(per_layer))
    shape = (10, columns)
    write_safetensors(
        path, {name: (Dtype.F32, shape, make_content(Dtype.F32, shape, seed)) for seed, name in enumerate(names)}
    )
    return names


def evict(path: Path) -> None:
    """Puts a file out of the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def same(found: Any, reference: Any) -> bool:
    """Whether two tensors of one framework agree in kind, type, shape and every bit, whatever their strides."""
    if type(found) is not type(reference) or found.dtype != reference.dtype or found.shape != reference.shape:
        return False
    return _bits(found) == _bits(reference)


def _bits(tensor: torch.Tensor | numpy.ndarray[Any, numpy.dtype[Any]]) -> bytes:
    if isinstance(tensor, numpy.ndarray):
        return tensor.tobytes()
    carriers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.view(carriers[tensor.element_size()]).contiguous().numpy().tobytes()


def numbered(shape: Sequence[int], dtype: Dtype = Dtype.I32) -> tuple[Dtype, tuple[int, ...], bytes]:
    """A tensor whose elements are their own positions, for the plain writer."""
    kind = {Dtype.I32: "<i4", Dtype.U8: "u1", Dtype.I64: "<i8"}[dtype]
    count = math.prod(shape)
    return dtype, tuple(shape), numpy.arange(count).astype(kind).tobytes()
