"""Known models by their tensors: the names, shapes and dtypes under which their checkpoints are published.

`config` makes the `config.json` that the transformers library reads beside such a checkpoint. Sources: the
models' pages on the Hugging Face hub (config.json and model.safetensors.index.json).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from slipstream.errors import UsageError
from slipstream.testing.checkpoints import tensor_nbytes
from slipstream.types import Dtype


class TensorSpec(NamedTuple):
    """One tensor of a layout."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in a file."""
        return tensor_nbytes(self.dtype, self.shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """A model's tensors, for any number of its layers.

    Attributes:
        name: what it is called on the command line.
        summary: one line for people.
        layers: how many the whole model has.
        tensors: makes the tensors of the first N layers, and what is not in a layer, in model order.
        config: makes the content of `config.json` for N layers.
    """

    name: str
    summary: str
    layers: int
    tensors: Callable[[int], Iterator[TensorSpec]]
    config: Callable[[int], dict[str, object]]

    def specs(self, layers: int | None = None) -> tuple[TensorSpec, ...]:
        """The tensors of the first `layers` layers (None: all), with embeddings, final norm and head.

        Raises:
            UsageError: more layers than the model has, or fewer than one.
        """
        return tuple(self.tensors(self.checked_layers(layers)))

    def checked_layers(self, layers: int | None) -> int:
        """`layers`, or all of them for None; raises UsageError where the model does not have as many."""
        if layers is None:
            return self.layers
        if not 1 <= layers <= self.layers:
            raise UsageError(f"{self.name} has 1 to {self.layers} layers, not {layers}")
        return layers


def find_layout(name: str) -> Layout:
    """The layout of that name.

    Raises:
        UsageError: there is none; the message lists those there are.
    """
    try:
        return LAYOUTS[name]
    except KeyError:
        raise UsageError(f'there is no layout "{name}"; the layouts are {", ".join(LAYOUTS)}') from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decoder:
    """The sizes of a decoder-only transformer, and the tensors that follow from them; all of them BF16."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool

    def outer(self, layers: Iterator[TensorSpec]) -> Iterator[TensorSpec]:
        yield self.spec("model.embed_tokens.weight", self.vocab, self.hidden)
        yield from layers
        yield self.spec("model.norm.weight", self.hidden)
        if not self.tied:
            yield self.spec("lm_head.weight", self.vocab, self.hidden)

    def attention(self, layer: str) -> Iterator[TensorSpec]:
        yield self.spec(f"{layer}.self_attn.q_proj.weight", self.heads * self.head_dim, self.hidden)
        yield self.spec(f"{layer}.self_attn.k_proj.weight", self.kv_heads * self.head_dim, self.hidden)
        yield self.spec(f"{layer}.self_attn.v_proj.weight", self.kv_heads * self.head_dim, self.hidden)
        yield self.spec(f"{layer}.self_attn.o_proj.weight", self.hidden, self.heads * self.head_dim)

    def gated_mlp(self, block: str, intermediate: int) -> Iterator[TensorSpec]:
        yield self.spec(f"{block}.gate_proj.weight", intermediate, self.hidden)
        yield self.spec(f"{block}.up_proj.weight", intermediate, self.hidden)
        yield self.spec(f"{block}.down_proj.weight", self.hidden, intermediate)

    def norms(self, layer: str) -> Iterator[TensorSpec]:
        yield self.spec(f"{layer}.input_layernorm.weight", self.hidden)
        yield self.spec(f"{layer}.post_attention_layernorm.weight", self.hidden)

    def spec(self, name: str, *shape: int) -> TensorSpec:
        return TensorSpec(name, Dtype.BF16, shape)

    def config(self, layers: int) -> dict[str, object]:
        return {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "num_attention_heads": self.heads,
            "num_hidden_layers": layers,
            "num_key_value_heads": self.kv_heads,
            "tie_word_embeddings": self.tied,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "vocab_size": self.vocab,
        }


def _llama(name: str, summary: str, layers: int, sizes: _Decoder, intermediate: int, **config: object) -> Layout:
    def in_layers(count: int) -> Iterator[TensorSpec]:
        for layer in (f"model.layers.{number}" for number in range(count)):
            yield from sizes.attention(layer)
            yield from sizes.gated_mlp(f"{layer}.mlp", intermediate)
            yield from sizes.norms(layer)

    def make_config(count: int) -> dict[str, object]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **sizes.config(count),
            "intermediate_size": intermediate,
            "mlp_bias": False,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            **config,
        }

    return Layout(name, summary, layers, lambda count: sizes.outer(in_layers(count)), make_config)


def _mixture(name: str, summary: str, layers: int, sizes: _Decoder, experts: int, intermediate: int) -> Layout:
    def in_layers(count: int) -> Iterator[TensorSpec]:
        for layer in (f"model.layers.{number}" for number in range(count)):
            yield from sizes.attention(layer)
            yield sizes.spec(f"{layer}.self_attn.q_norm.weight", sizes.head_dim)
            yield sizes.spec(f"{layer}.self_attn.k_norm.weight", sizes.head_dim)
            yield sizes.spec(f"{layer}.mlp.gate.weight", experts, sizes.hidden)
            for expert in range(experts):
                yield from sizes.gated_mlp(f"{layer}.mlp.experts.{expert}", intermediate)
            yield from sizes.norms(layer)

    def make_config(count: int) -> dict[str, object]:
        return {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            **sizes.config(count),
            "decoder_sparse_step": 1,
            "intermediate_size": experts * intermediate,
            "max_position_embeddings": 4096,
            "mlp_only_layers": [],
            "moe_intermediate_size": intermediate,
            "norm_topk_prob": True,
            "num_experts": experts,
            "num_experts_per_tok": 8,
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0,
        }

    return Layout(name, summary, layers, lambda count: sizes.outer(in_layers(count)), make_config)


_LLAMA_3_TOKENS: Mapping[str, object] = {"bos_token_id": 128000, "eos_token_id": 128001}
_LLAMA_3_2_ROPE: Mapping[str, object] = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        _llama(
            "llama-3-8b",
            "Llama 3 8B: 32 layers, 291 tensors, 16.06 GB",
            32,
            _Decoder(hidden=4096, heads=32, kv_heads=8, head_dim=128, vocab=128256, tied=False),
            14336,
            max_position_embeddings=8192,
            rope_scaling=None,
            rope_theta=500000.0,
            **_LLAMA_3_TOKENS,
        ),
        _llama(
            "llama-3.2-1b",
            "Llama 3.2 1B: 16 layers, 146 tensors, 2.47 GB, embeddings tied",
            16,
            _Decoder(hidden=2048, heads=32, kv_heads=8, head_dim=64, vocab=128256, tied=True),
            8192,
            max_position_embeddings=131072,
            rope_scaling=dict(_LLAMA_3_2_ROPE),
            rope_theta=500000.0,
            **_LLAMA_3_TOKENS,
        ),
        _llama(
            "llama-tiny",
            "a Llama small enough to run anywhere: 4 layers, 39 tensors, 8.0 MB",
            4,
            _Decoder(hidden=256, heads=4, kv_heads=2, head_dim=64, vocab=2048, tied=False),
            704,
            max_position_embeddings=2048,
            rope_scaling=None,
            rope_theta=10000.0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        _mixture(
            "moe-small",
            "a mixture of 512 experts in each of 58 layers: 89,613 tensors of mostly 4 KiB, 370 MB",
            58,
            _Decoder(hidden=64, heads=4, kv_heads=2, head_dim=16, vocab=1024, tied=False),
            512,
            32,
        ),
    )
}
