"""The drop-in under its import names, for each module of these tests, and files to read with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from slipstream.testing.seaweedfs import SeaweedFS
from tests.compat.runai.drop_in import imported_first, store_variables

BUCKET = "drop-in"


@pytest.fixture(scope="module", autouse=True)
def _drop_in_first() -> Iterator[None]:
    with imported_first():
        yield


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of either side is set when a test begins."""
    for name in list(os.environ):
        if name.startswith(("RUNAI_STREAMER_", "SLIPSTREAM_")):
            monkeypatch.delenv(name)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    """Of many types, one of them empty, one a scalar; each with values of its own."""
    made: dict[str, torch.Tensor] = {
        f"{number}.{str(dtype).removeprefix('torch.')}": (torch.arange(60).reshape(3, 20) + number).to(dtype)
        for number, dtype in enumerate(
            (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.float8_e4m3fn, torch.bool)
        )
    }
    return made | {"empty": torch.empty(0, 3), "scalar": torch.tensor(2.5)}


@pytest.fixture
def model(tensors: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    """A directory with these tensors in two files, and files that are no weights."""
    folder = tmp_path / "model"
    folder.mkdir()
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[::2]}, folder / "model-00001-of-00002.safetensors")
    save_file({name: tensors[name] for name in names[1::2]}, folder / "model-00002-of-00002.safetensors")
    (folder / "config.json").write_text('{"model_type": "test"}')
    (folder / "sub").mkdir()
    (folder / "sub" / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def store(seaweedfs: SeaweedFS, model: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same under a prefix of an S3 server that the environment names; its URI, with a slash at its end."""
    for name, value in store_variables(seaweedfs.storage_options).items():
        monkeypatch.setenv(name, value)
    seaweedfs.create_bucket(BUCKET)
    for path in model.rglob("*"):
        if path.is_file():
            seaweedfs.upload(path, BUCKET, f"models/llama/{path.relative_to(model)}")
    return f"s3://{BUCKET}/models/llama/"
