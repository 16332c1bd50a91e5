"""Models that bring their own Python code: run only if they are trusted, from a directory and from a store."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM
from transformers import dynamic_module_utils as modules

from slipstream import UsageError
from slipstream.testing.range_server import RangeServer
from slipstream.testing.seaweedfs import SeaweedFS
from slipstream.transformers import from_pretrained

BUCKET = "own-code"
CONFIG = """
from transformers import PreTrainedConfig

class OwnConfig(PreTrainedConfig):
    model_type = "{kind}"

    def __init__(self, width=3, **kwargs):
        super().__init__(**kwargs)
        self.width = width
"""
MODEL = """
import torch
from transformers import PreTrainedModel
from .configuration import OwnConfig

class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.scale = torch.nn.Linear(config.width, config.width, bias=False)
        self.post_init()

    def forward(self, x):
        return self.scale(x) + 1
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where transformers copies code to; what was imported from there is forgotten."""
    cache = tmp_path / "modules"
    cache.mkdir()
    monkeypatch.setattr(modules, "HF_MODULES_CACHE", str(cache))
    monkeypatch.setattr(sys, "path", [*sys.path, str(cache)])
    yield_to = [name for name in sys.modules if name.startswith("transformers_modules")]
    for name in yield_to:
        monkeypatch.delitem(sys.modules, name)
    return cache


def make_model(path: Path, kind: str) -> Path:
    """A model of a type that transformers does not know, with the code that does."""
    from safetensors.torch import save_file

    path.mkdir()
    (path / "config.json").write_text(
        f'{{"model_type": "{kind}", "width": 4, "auto_map": '
        '{"AutoConfig": "configuration.OwnConfig", "AutoModel": "own_model.OwnModel"}}'
    )
    (path / "configuration.py").write_text(CONFIG.format(kind=kind))
    (path / "own_model.py").write_text(MODEL)
    save_file({"scale.weight": torch.arange(16.0).reshape(4, 4)}, path / "model.safetensors", {"format": "pt"})
    return path


def assert_loaded(model: Any) -> None:
    assert type(model).__name__ == "OwnModel"
    assert torch.equal(model(torch.ones(4)), torch.arange(16.0).reshape(4, 4).sum(1) + 1)


def test_code_of_a_directory(tmp_path: Path) -> None:
    """It is run if it is trusted, and refused if not, before anything is imported."""
    path = make_model(tmp_path / "own", "own-of-a-directory")
    with pytest.raises(UsageError, match="trust_remote_code=True") as caught:
        from_pretrained(AutoModel, path)
    assert str(path) in str(caught.value)
    assert not [name for name in sys.modules if name.startswith("transformers_modules.own")]
    assert_loaded(from_pretrained(AutoModel, path, trust_remote_code=True))


def test_code_of_a_store(
    tmp_path: Path, own_cache: Path, seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code is fetched from the store only if it is trusted; a second load leaves no second copy of it."""
    path = make_model(tmp_path / "own", "own-of-a-store")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    seaweedfs.create_bucket(BUCKET)
    for file in path.iterdir():
        seaweedfs.upload(file, BUCKET, f"models/own.v2/{file.name}")
    reach: Any = {"storage_options": seaweedfs.storage_options}
    uri = f"s3://{BUCKET}/models/own.v2/"
    with pytest.raises(UsageError, match="trust_remote_code=True"):
        from_pretrained(AutoModel, uri, **reach)
    assert list(own_cache.rglob("*.py")) == []
    assert_loaded(from_pretrained(AutoModel, uri, trust_remote_code=True, **reach))
    copies = sorted(own_cache.rglob("own_model.py"))
    assert len(copies) == 1
    assert_loaded(from_pretrained(AutoModel, uri, trust_remote_code=True, **reach))
    assert sorted(own_cache.rglob("own_model.py")) == copies
    assert os.listdir(temporary) == []


def test_code_of_a_web_server(tmp_path: Path) -> None:
    """A place that cannot be listed cannot tell its code, and an error says how it is done."""
    path = make_model(tmp_path / "own", "own-of-a-server")
    with RangeServer(tmp_path) as server:
        with pytest.raises(UsageError, match=r"cannot be listed.*weights="):
            from_pretrained(AutoModel, server.url("own"), trust_remote_code=True)
        (tmp_path / "small").mkdir()
        for name in ("config.json", "configuration.py", "own_model.py"):
            (tmp_path / "small" / name).write_bytes((path / name).read_bytes())
        url = server.url("own/model.safetensors")
        assert_loaded(from_pretrained(AutoModel, tmp_path / "small", weights=url, trust_remote_code=True))


def test_class_that_only_the_code_has(tmp_path: Path) -> None:
    """Where the config is known and the class is not, the same holds."""
    path = make_model(tmp_path / "own", "own-of-a-class")
    config = from_pretrained(AutoModel, path, trust_remote_code=True).config
    with pytest.raises(UsageError, match="AutoModelForCausalLM has no class"):
        from_pretrained(AutoModelForCausalLM, path, config=config, trust_remote_code=True)
    AutoModel._model_mapping._extra_content.clear()  # as in a process that has not loaded it
    with pytest.raises(UsageError, match="trust_remote_code=True"):
        from_pretrained(AutoModel, path, config=config)
