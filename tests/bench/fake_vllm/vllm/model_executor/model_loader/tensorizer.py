"""vLLM's recipe for copies in tensorizer's format. FAKE_RECIPE: "forgets" leaves most of it out, "raises" fails."""

# ruff: noqa: TID252  # it is the package vllm only where it is installed
from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ...engine.arg_utils import EngineArgs
from . import Loader


@dataclass
class TensorizerConfig:
    tensorizer_uri: str


def serialize_extra_artifacts(folder: str) -> None:
    raise RuntimeError("this would ask a hub")


def tensorize_vllm_model(arguments: EngineArgs, config: TensorizerConfig, generate_keyfile: bool = True) -> None:
    recipe = os.environ.get("FAKE_RECIPE", "")
    if recipe == "raises":
        raise RuntimeError("the recipe was told to fail")
    files = sorted(Path(arguments.model).glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files) // (10 if recipe == "forgets" else 1)
    Path(config.tensorizer_uri).write_text(Loader().load_weights(files).ljust(size, "."))
    serialize_extra_artifacts(arguments.model)
