"""What an interpreter has: which modules, which versions, and whether its torch finds a GPU."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from typing import Any


def main() -> None:
    """Reads {"modules": [...], "distributions": [...], "cuda": bool} and prints what there is. A line of JSON each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    asked = json.loads(sys.stdin.readline())
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "modules": [name for name in asked["modules"] if has_module(name)],
        "versions": {},
        "cuda": "",
    }
    for name in asked["distributions"]:
        try:
            found["versions"][name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if asked["cuda"]:
        found["cuda"] = why_no_cuda()
    print(json.dumps(found), file=answers, flush=True)


def has_module(name: str) -> bool:
    """Whether a module can be found; those above it are imported for that."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def why_no_cuda() -> str:
    """Why torch finds no GPU, in a few words; "" where it does."""
    try:
        import torch
    except Exception as error:
        return f"torch cannot be imported: {error}"
    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return f"torch {torch.__version__} finds no GPU"
