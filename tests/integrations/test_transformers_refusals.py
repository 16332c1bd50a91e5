"""What slipstream.transformers cannot do is refused before anything is read, with what to do instead."""

from __future__ import annotations

import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSpeechSeq2Seq,
    AutoTokenizer,
    LlamaForCausalLM,
    TimmBackbone,
)

from slipstream import BlobNotFoundError, FormatError, MissingDependencyError, ModuleMismatchError, UsageError
from slipstream.transformers import from_pretrained, load_adapter
from slipstream.transformers.model_class import find_model_class
from tests.integrations.transformers_models import save_model


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save_model("llama", tmp_path / "llama")


def change_config(path: Path, **values: object) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | values))


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("state_dict", {}, "come from the URI"),
        ("gguf_file", "model.gguf", "safetensors"),
        ("tp_plan", "auto", "slipstream.pull"),
        ("tp_size", 2, "slipstream.pull"),
        ("distributed_config", {}, "slipstream.pull"),
        ("device_mesh", object(), "slipstream.pull"),
        ("revision", "v2", "the URI says which"),
        ("use_safetensors", False, "safetensors alone"),
        ("variant", 16, "it is text"),
    ],
)
def test_arguments(name: str, value: Any, advice: str, llama: Path) -> None:
    """An argument that cannot work is named, with the reason."""
    with pytest.raises(UsageError, match=advice) as caught:
        from_pretrained(AutoModel, llama, **{name: value})
    assert name in str(caught.value)


def test_arguments_that_say_nothing(llama: Path) -> None:
    """The same with their defaults, and what is for the hub, do no harm."""
    hub: dict[str, Any] = {
        "cache_dir": "/nowhere",
        "token": "x",
        "local_files_only": True,
        "force_download": False,
        "proxies": None,
    }
    nothing: dict[str, Any] = {
        "state_dict": None,
        "revision": "main",
        "use_safetensors": True,
        "tp_plan": None,
        "variant": None,
    }
    assert isinstance(from_pretrained(AutoModelForCausalLM, llama, **hub, **nothing), LlamaForCausalLM)


@pytest.mark.parametrize("given", [AutoTokenizer, AutoConfig, dict, "AutoModel", None], ids=str)
def test_no_class_of_models(given: Any, llama: Path) -> None:
    """What is no class of models is refused; tokenizers with the way to load them."""
    with pytest.raises(UsageError, match=r"no class of models.*slipstream\.pull"):
        from_pretrained(given, llama)


def test_class_without_such_a_model(llama: Path) -> None:
    """An Auto class that has no class for this model says so, with the type of the model."""
    with pytest.raises(UsageError, match=r"AutoModelForSpeechSeq2Seq has no class for .*type llama"):
        from_pretrained(AutoModelForSpeechSeq2Seq, llama)


def test_class_that_loads_in_its_own_way(llama: Path) -> None:
    """A class whose from_pretrained reads other files is refused."""
    with pytest.raises(UsageError, match="TimmBackbone reads files of its own"):
        from_pretrained(TimmBackbone, llama)


def test_model_that_torchao_has_quantised(llama: Path) -> None:
    """Its tensors cannot be put together without the files."""
    change_config(llama, quantization_config={"quant_method": "torchao", "quant_type": {"default": {}}})
    with pytest.raises(UsageError, match="torchao"):
        from_pretrained(AutoModelForCausalLM, llama)


def test_directory_that_is_none(llama: Path) -> None:
    """A path that does not exist, a model of the hub, a file, and nothing are told apart."""
    with pytest.raises(BlobNotFoundError, match=r"is no directory.*Hugging Face hub"):
        from_pretrained(AutoModel, "meta-llama/Llama-3.1-8B")
    with pytest.raises(UsageError, match=r"is a file.*weights="):
        from_pretrained(AutoModel, llama / "model.safetensors")
    with pytest.raises(UsageError, match="is no URI"):
        from_pretrained(AutoModel, "")
    with pytest.raises(UsageError, match="is no URI"):
        from_pretrained(AutoModel, [str(llama)])  # type: ignore[arg-type]


def test_file_uri_and_home(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory may be given as file:// or from the home directory."""
    assert isinstance(from_pretrained(AutoModelForCausalLM, llama.as_uri()), LlamaForCausalLM)
    monkeypatch.setenv("HOME", str(llama.parent))
    assert isinstance(from_pretrained(AutoModelForCausalLM, "~/llama"), LlamaForCausalLM)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/secret.safetensors", "model.bin"])
def test_weights_outside_the_directory(name: str, llama: Path) -> None:
    """A config cannot name a file outside the model's directory, or of another format."""
    change_config(llama, transformers_weights=name)
    with pytest.raises(UsageError, match="transformers_weights"):
        from_pretrained(AutoModelForCausalLM, llama)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"weight_map": {"a": "../model.safetensors"}}'])
def test_index_of_a_variant_that_is_none(content: bytes, llama: Path) -> None:
    """An index that is no JSON, has no map, or leads out of the directory is an error."""
    (llama / "model.safetensors.index.fp16.json").write_bytes(content)
    with pytest.raises(FormatError, match=r"model\.safetensors\.index\.fp16\.json"):
        from_pretrained(AutoModelForCausalLM, llama, variant="fp16")


def test_truncated_weights(llama: Path) -> None:
    """A file that is not whole is a FormatError before the model is built."""
    weights = llama / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1)
    with pytest.raises(FormatError):
        from_pretrained(AutoModelForCausalLM, llama)


def test_progress_that_is_none(llama: Path) -> None:
    """progress is a truth value or a function."""
    with pytest.raises(UsageError, match="progress"):
        from_pretrained(AutoModelForCausalLM, llama, progress="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("package", "version", "advice"),
    [
        ("transformers", None, r"slipstream\[transformers\]"),
        ("transformers", "4.57.1", "4.57.1 is too old.*transformers>=5"),
        ("torch", None, r"slipstream\[transformers\]"),
        ("peft", None, "pip install .peft"),
    ],
)
def test_missing_packages(
    package: str, version: str | None, advice: str, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that is missing or too old is named, with the command that installs it."""
    model = from_pretrained(AutoModelForCausalLM, llama)
    original = importlib.metadata.version

    def find(name: str) -> str:
        if name != package:
            return original(name)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr("slipstream.transformers.requirements.version", find)
    with pytest.raises(MissingDependencyError, match=advice):
        load_adapter(model, llama)


def test_another_transformers(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a transformers leave tensors without values, that is an error and not a model of noise."""

    def leave_empty(cls: Any, *args: object, config: Any, **kwargs: object) -> Any:
        with torch.device("meta"):
            return cls(config)

    patched = _patched(find_model_class, leave_empty)
    monkeypatch.setattr("slipstream.transformers.loading.find_model_class", patched)
    with pytest.raises(ModuleMismatchError, match=r"has left 113 tensors .* without values"):
        from_pretrained(AutoModelForCausalLM, llama)


def _patched(find: Any, load: Any) -> Any:
    def find_and_patch(*args: Any) -> Any:
        model_class, *rest = find(*args)
        return type(model_class.__name__, (model_class,), {"from_pretrained": classmethod(load)}), *rest

    return find_and_patch
