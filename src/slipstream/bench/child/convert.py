"""Writes a model in tensorizer's own format, with the tensorizer of this interpreter and no loader of anybody."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import headers
from .lifetime import end_with_parent


def main() -> None:
    """Reads {"files": [...], "target": ..., "parent": ...} and writes the target: whole, or not at all."""
    end_with_parent(None)
    asked = json.loads(sys.stdin.readline())
    end_with_parent(asked["parent"])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        convert(asked["files"], asked["target"])
        said = {"said": "converted"}
    except Exception as error:
        said = {"said": "failed", "reason": f"{type(error).__name__}: {error}"}
    print(json.dumps(said), file=answers, flush=True)


def convert(files: Sequence[str], target: str) -> None:
    """Writes the tensors of safetensors files as one file for tensorizer. They are mapped, not read into memory."""
    from tensorizer import TensorSerializer

    unfinished = f"{target}.{os.getpid()}.unfinished"
    try:
        serializer = TensorSerializer(unfinished)
        serializer.write_state_dict({name: tensor for path in files for name, tensor in _map(path).items()})
        serializer.close()
        os.replace(unfinished, target)
    except BaseException:
        if os.path.exists(unfinished):
            os.unlink(unfinished)
        raise


def _map(path: str) -> dict[str, Any]:
    import torch

    stored = np.memmap(path, np.uint8, "c")  # copy on write: torch has no tensors that may only be read
    return {
        entry.name: torch.from_numpy(stored[entry.start : entry.end]).view(_torch_dtype(entry)).reshape(entry.shape)
        for entry in headers.read_entries(path)
    }


def _torch_dtype(entry: headers.Entry) -> Any:
    """The dtype of torch with that name in the format.

    Raises:
        ValueError: torch has none.
    """
    import torch

    names = {
        "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
        "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
        "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    }  # fmt: skip
    dtype = getattr(torch, names.get(entry.dtype, ""), None)
    if dtype is None:
        raise ValueError(f"{entry.name} is {entry.dtype}, for which torch {torch.__version__} has no dtype")
    return dtype
