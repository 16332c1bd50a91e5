"""Ready shard rules: how the weights of known families of models are divided for tensor and expert parallelism.

Source of the scheme: "Megatron-LM", Shoeybi et al., arXiv:1909.08053, section 3: what makes more of an input is divided
along its outputs (rows, since PyTorch keeps a weight as outputs by inputs), what brings it together again along its
inputs (columns), so that one reduction follows each pair. Attention is divided between heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

from slipstream.errors import UsageError
from slipstream.planning.divide import Cut
from slipstream.types import Checkpoint, TensorInfo

HeadRule: TypeAlias = Literal["head rows", "head columns", "shared heads"]
Rule: TypeAlias = Cut | int | HeadRule | Literal["experts"] | None
_Rules: TypeAlias = Mapping[str, Rule]

# Where the size of heads is not known, ranks that get a multiple of this are taken to have whole ones: no family here
# has heads of another size than 64 or 128 without having norms that tell it.
_SAFE_ELEMENTS = 128

_LLAMA: _Rules = {
    "*embed_tokens.weight": 0,
    "*lm_head.weight": 0,
    "*.self_attn.q_proj.weight": "head rows",
    "*.self_attn.q_proj.bias": "head rows",
    "*.self_attn.k_proj.weight": "shared heads",
    "*.self_attn.k_proj.bias": "shared heads",
    "*.self_attn.v_proj.weight": "shared heads",
    "*.self_attn.v_proj.bias": "shared heads",
    "*.self_attn.o_proj.weight": "head columns",
    "*.self_attn.o_proj.bias": None,
    "*.gate_proj.weight": 0,
    "*.gate_proj.bias": 0,
    "*.up_proj.weight": 0,
    "*.up_proj.bias": 0,
    "*.down_proj.weight": 1,
    "*.down_proj.bias": None,
    "*norm.weight": None,
    "*.rotary_emb.inv_freq": None,
}
_QWEN: _Rules = {
    **_LLAMA,
    "*.mlp.gate.weight": None,
    "*.mlp.shared_expert_gate.weight": None,
}
_MIXTRAL: _Rules = {
    **_LLAMA,
    "*.block_sparse_moe.gate.weight": None,
    "*.block_sparse_moe.experts.#.w1.weight": 0,
    "*.block_sparse_moe.experts.#.w2.weight": 1,
    "*.block_sparse_moe.experts.#.w3.weight": 0,
}

READY_RULES: Mapping[str, _Rules] = MappingProxyType(
    {
        "llama": _LLAMA,
        "qwen": _QWEN,
        "mixtral": _MIXTRAL,
        "qwen-ep": {"*.mlp.experts.#.*": "experts", **_QWEN},
        "mixtral-ep": {"*.block_sparse_moe.experts.#.*": "experts", **_MIXTRAL},
    }
)


def shard_rules(name: str) -> _Rules:
    """The ready rules of that name, to be looked at or extended.

        rules = {"*.adapter.weight": None, **slipstream.shard_rules("llama")}  # what stands first goes first

    Args:
        name: "llama" (Llama, Mistral and all that is built and named like them), "qwen" (Qwen 2 and 3, with experts or
            without), "mixtral", and "qwen-ep" and "mixtral-ep", in which ranks have whole experts.

    Returns:
        A new mapping from patterns to rules; see Shard.

    Raises:
        UsageError: there are none of that name.
    """
    if name not in READY_RULES:
        raise UsageError(f"there are no shard rules called {name!r}; there are {', '.join(READY_RULES)}")
    return dict(READY_RULES[name])


def find_head_dim(checkpoint: Checkpoint) -> int | None:
    """How many elements an attention head has, where a norm of queries or keys tells: it is as long as one head."""
    for tensor in checkpoint.tensors:
        if tensor.name.endswith((".self_attn.q_norm.weight", ".self_attn.k_norm.weight")) and len(tensor.shape) == 1:
            return tensor.shape[0] or None
    return None


def find_head_cut(rule: HeadRule, info: TensorInfo, head_dim: int | None, world_size: int) -> Cut:
    """How a tensor of attention is divided, so that no head is cut.

    Queries must come out even: a rank with fewer heads could not take its part in the sums. Keys and values may be
    shared where there are fewer of them than ranks; then each rank has just the one that its queries look at.

    Raises:
        UsageError: it cannot be divided so, or whether it can depends on the size of a head, which is not known.
    """
    dim = 1 if rule == "head columns" else 0
    if len(info.shape) <= dim:
        return Cut(dim=dim)  # whose division says what is wrong
    size = info.shape[dim]
    if head_dim is None:
        if size % (world_size * _SAFE_ELEMENTS):
            raise UsageError(
                f"whether {world_size} ranks can divide {info.name!r} of shape {list(info.shape)} depends on the size "
                "of an attention head, which the checkpoint does not tell: give head_dim, as config.json has it"
            )
        return Cut(dim=dim)
    heads, rest = divmod(size, head_dim)
    if rest:
        raise UsageError(
            f"the tensor {info.name!r} of shape {list(info.shape)} does not consist of heads of {head_dim} elements: "
            "correct head_dim"
        )
    shared = rule == "shared heads"
    if heads % world_size and not (shared and heads and world_size % heads == 0):
        raise UsageError(
            f"{world_size} ranks cannot divide the {heads} attention heads of {info.name!r} evenly: "
            "take a number of ranks that can"
        )
    return Cut(dim=dim, unit=head_dim, shared=shared)
