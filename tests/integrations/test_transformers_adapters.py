"""An adapter that slipstream.transformers loads does what peft's and transformers' own loading make it do."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from slipstream import BlobNotFoundError, Options, UsageError
from slipstream.testing.seaweedfs import SeaweedFS
from slipstream.transformers import from_pretrained, load_adapter
from tests.integrations.transformers_models import assert_same_tensors, run_model, save_model

BUCKET = "adapters"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of two kinds of matrices and a head that was trained whole; none of it is zero."""
    return make_adapter(base, tmp_path_factory.mktemp("adapters") / "lora")


def make_adapter(base: Path, path: Path, **settings: Any) -> Path:
    torch.manual_seed(3)
    how = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "up_proj"], "modules_to_save": ["lm_head"]} | settings
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**how))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2)
    model.save_pretrained(path)
    return path


def load_base(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base)


def assert_same_outputs(found: Any, reference: Any) -> None:
    for output, expected in zip(run_model(found), run_model(reference), strict=True):
        assert torch.equal(output, expected)


def test_same_as_transformers(base: Path, adapter: Path) -> None:
    """Values, report, config and outputs are those of `model.load_adapter`."""
    found, reference = load_base(base), load_base(base)
    before = run_model(found)[0]
    info = load_adapter(found, adapter)
    expected = reference.load_adapter(str(adapter))
    assert info.to_dict() == expected.to_dict()
    assert_same_tensors(found, reference)
    assert found.peft_config["default"].to_dict() == reference.peft_config["default"].to_dict()
    assert found.active_adapters() == reference.active_adapters()
    assert_same_outputs(found, reference)
    assert not torch.equal(before, run_model(found)[0])


def test_same_as_peft(base: Path, adapter: Path) -> None:
    """A model with the adapter computes what a PeftModel with it does."""
    found = load_base(base)
    load_adapter(found, adapter)
    reference: Any = PeftModel.from_pretrained(load_base(base), adapter).eval()
    for output, expected in zip(run_model(found), run_model(reference.base_model.model), strict=True):
        assert torch.equal(output, expected)


def test_from_a_store(
    base: Path, adapter: Path, seaweedfs: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Base and adapter from S3, a little at a time, and nothing of them is left on the disk."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seaweedfs.create_bucket(BUCKET)
    for folder, prefix in ((base, "llama"), (adapter, "lora/chat")):
        for path in folder.iterdir():
            seaweedfs.upload(path, BUCKET, f"{prefix}/{path.name}")
    reach: Any = {"storage_options": seaweedfs.storage_options, "options": Options(memory_limit=40_000)}
    found = from_pretrained(AutoModelForCausalLM, f"s3://{BUCKET}/llama", **reach)
    load_adapter(found, f"s3://{BUCKET}/lora", "chat", subfolder="chat", **reach)
    reference = load_base(base)
    reference.load_adapter(str(adapter), adapter_name="chat")
    assert list(found.peft_config) == ["chat"]
    assert_same_tensors(found, reference)
    assert_same_outputs(found, reference)
    assert list(tmp_path.iterdir()) == []


def test_adapter_of_merged_experts(tmp_path: Path) -> None:
    """An adapter of a mixture of experts, whose attention it changes."""
    base = save_model("mixtral", tmp_path / "mixtral")
    adapter = make_adapter(base, tmp_path / "lora", target_modules=["q_proj", "v_proj"], modules_to_save=None)
    found, reference = load_base(base), load_base(base)
    load_adapter(found, adapter)
    reference.load_adapter(str(adapter))
    assert_same_tensors(found, reference)
    assert_same_outputs(found, reference)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_several_and_trainable(base: Path, tmp_path: Path) -> None:
    """Adapters stand beside one another under their names; one may be for training; a name is taken once."""
    one = make_adapter(base, tmp_path / "one", modules_to_save=None)
    other = make_adapter(base, tmp_path / "other", r=2, modules_to_save=None)
    found, reference = load_base(base), load_base(base)
    load_adapter(found, one, "first")
    load_adapter(found, other, "second", is_trainable=True)
    reference.load_adapter(str(one), adapter_name="first")
    reference.load_adapter(str(other), adapter_name="second", is_trainable=True)
    assert_same_tensors(found, reference)
    for name in ("second", "first"):
        found.set_adapter(name)
        reference.set_adapter(name)
        assert_same_outputs(found, reference)
    with pytest.raises(ValueError, match="already exists") as caught:
        load_adapter(found, one, "first")
    assert str(one) in caught.value.__notes__[0]


def test_adapter_beside_the_weights(base: Path, adapter: Path, tmp_path: Path) -> None:
    """An adapter that lies in the model's own directory is loaded with it, as by transformers."""
    both = tmp_path / "both"
    both.mkdir()
    for path in (*base.iterdir(), *adapter.iterdir()):
        (both / path.name).write_bytes(path.read_bytes())
    found, info = from_pretrained(AutoModelForCausalLM, both, output_loading_info=True)
    reference, expected = AutoModelForCausalLM.from_pretrained(both, output_loading_info=True)
    assert info == expected
    assert_same_tensors(found, reference)
    assert_same_outputs(found, reference)


def test_adapter_instead_of_a_model(adapter: Path) -> None:
    """An adapter given for a model is an error that says what it is."""
    with pytest.raises(BlobNotFoundError, match=r"it is an adapter.*load_adapter"):
        from_pretrained(AutoModelForCausalLM, adapter)


def test_model_instead_of_an_adapter(base: Path) -> None:
    """And the reverse."""
    with pytest.raises(BlobNotFoundError, match=r"no adapter_config\.json"):
        load_adapter(load_base(base), base)


def test_pickled_adapter(adapter: Path, base: Path, tmp_path: Path) -> None:
    """One without safetensors says so."""
    (tmp_path / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(BlobNotFoundError, match=r"no adapter_model\.safetensors, but adapter_model\.bin"):
        load_adapter(load_base(base), tmp_path)


def test_adapter_of_another_model(adapter: Path, base: Path, tmp_path: Path) -> None:
    """Shapes that do not fit raise what transformers raises, with the place."""
    for path in adapter.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    name = next(name for name in tensors if "lora_A" in name)
    tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError) as reference:
        load_base(base).load_adapter(str(tmp_path))
    with pytest.raises(RuntimeError) as caught:
        load_adapter(load_base(base), tmp_path)
    assert str(caught.value) == str(reference.value)
    assert caught.value.__notes__ == [f"while loading {tmp_path}"]


@pytest.mark.parametrize("name", ["peft_model_id", "peft_config", "adapter_state_dict"])
def test_arguments(name: str, adapter: Path, base: Path) -> None:
    """What would say another place is refused."""
    with pytest.raises(UsageError, match=name):
        load_adapter(load_base(base), adapter, **cast("Any", {name: "x"}))


def test_peft_model(adapter: Path, base: Path) -> None:
    """A PeftModel is told how."""
    model: Any = PeftModel.from_pretrained(load_base(base), adapter)
    with pytest.raises(UsageError, match=r"PeftModel.*slipstream\.pull"):
        load_adapter(model, adapter)


def test_config_of_the_adapter_is_from_the_place(adapter: Path, base: Path) -> None:
    """The base model that the adapter names is kept, and nothing is looked up by it."""
    found = load_base(base)
    load_adapter(found, adapter)
    named = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert found.peft_config["default"].base_model_name_or_path == named
