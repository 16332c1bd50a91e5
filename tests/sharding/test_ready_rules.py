"""Rules: what the ready ones do with the families they are for, and what is answered where rules do not suit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest

from slipstream import Blob, Checkpoint, Cut, Dtype, Shard, TensorInfo, UsageError, shard_rules
from slipstream.planning.shard import ShardedTensors, shard_tensors
from slipstream.testing.layouts import LAYOUTS

LAYER = "model.layers.0"


def checkpoint_of(tensors: Iterable[tuple[str, tuple[int, ...]]]) -> Checkpoint:
    """One blob of BF16 tensors."""
    infos, end = [], 1000
    for name, shape in tensors:
        start, end = end, end + 2 * math.prod(shape)
        infos.append(TensorInfo(name, Dtype.BF16, shape, 0, start, end))
    return Checkpoint((Blob("/model", end),), tuple(infos), ({},))


def layout(name: str, layers: int = 1) -> Checkpoint:
    return checkpoint_of((spec.name, spec.shape) for spec in LAYOUTS[name].specs(layers))


def cut(checkpoint: Checkpoint, rank: int, world_size: int, rules: Any = "auto", **more: Any) -> ShardedTensors:
    return shard_tensors(checkpoint, checkpoint.tensors, Shard(rank, world_size, rules, **more))


def shapes(
    checkpoint: Checkpoint, rank: int, world_size: int, rules: Any = "auto", **more: Any
) -> dict[str, tuple[int, ...]]:
    return {info.name: info.shape for info in cut(checkpoint, rank, world_size, rules, **more).tensors}


def mixtral(layers: int = 1, experts: int = 8) -> Checkpoint:
    """Mixtral 8x7B with fewer layers."""

    def tensors() -> Iterable[tuple[str, tuple[int, ...]]]:
        yield "model.embed_tokens.weight", (32_000, 4096)
        for layer in (f"model.layers.{number}" for number in range(layers)):
            for name, rows in (("q", 4096), ("k", 1024), ("v", 1024), ("o", 4096)):
                yield f"{layer}.self_attn.{name}_proj.weight", (rows, 4096)
            yield f"{layer}.block_sparse_moe.gate.weight", (experts, 4096)
            for expert in range(experts):
                place = f"{layer}.block_sparse_moe.experts.{expert}"
                yield from ((f"{place}.w1.weight", (14_336, 4096)), (f"{place}.w2.weight", (4096, 14_336)))
                yield f"{place}.w3.weight", (14_336, 4096)
            yield f"{layer}.input_layernorm.weight", (4096,)
            yield f"{layer}.post_attention_layernorm.weight", (4096,)
        yield "model.norm.weight", (4096,)
        yield "lm_head.weight", (32_000, 4096)

    return checkpoint_of(tensors())


def test_llama() -> None:
    """Llama 3 8B among four: outputs are divided by rows, what brings them together by columns, norms not at all."""
    found = shapes(layout("llama-3-8b"), 1, 4)
    assert found == {
        "model.embed_tokens.weight": (32_064, 4096),
        f"{LAYER}.self_attn.q_proj.weight": (1024, 4096),
        f"{LAYER}.self_attn.k_proj.weight": (256, 4096),
        f"{LAYER}.self_attn.v_proj.weight": (256, 4096),
        f"{LAYER}.self_attn.o_proj.weight": (4096, 1024),
        f"{LAYER}.mlp.gate_proj.weight": (3584, 4096),
        f"{LAYER}.mlp.up_proj.weight": (3584, 4096),
        f"{LAYER}.mlp.down_proj.weight": (4096, 3584),
        f"{LAYER}.input_layernorm.weight": (4096,),
        f"{LAYER}.post_attention_layernorm.weight": (4096,),
        "model.norm.weight": (4096,),
        "lm_head.weight": (32_064, 4096),
    }
    assert set(cut(layout("llama-3-8b"), 1, 4).strips or ()) == {
        f"{LAYER}.self_attn.o_proj.weight",
        f"{LAYER}.mlp.down_proj.weight",
    }


@pytest.mark.parametrize("world_size", [16, 32])
def test_key_value_heads_are_shared(world_size: int) -> None:
    """Where ranks are more than key heads, each gets the one head that its queries belong to."""
    checkpoint = layout("llama-3-8b")
    whole = checkpoint.by_name[f"{LAYER}.self_attn.k_proj.weight"]
    head_bytes = 128 * 4096 * 2
    for rank in range(world_size):
        by_name = {info.name: info for info in cut(checkpoint, rank, world_size, head_dim=128).tensors}
        key, query = by_name[f"{LAYER}.self_attn.k_proj.weight"], by_name[f"{LAYER}.self_attn.q_proj.weight"]
        assert key.shape == (128, 4096)
        assert query.shape == (4096 // world_size, 4096)
        first_query_head = rank * 32 // world_size
        assert (key.start - whole.start) // head_bytes == first_query_head // 4
        assert (key.start - whole.start) % head_bytes == 0


def test_a_head_that_might_be_cut_needs_its_size() -> None:
    """Without head_dim, sixteen ranks are refused for Llama 3 8B, whose heads are eight; with it they are served."""
    with pytest.raises(UsageError, match="head_dim") as caught:
        cut(layout("llama-3-8b"), 0, 16)
    assert "k_proj" in str(caught.value)
    assert shapes(layout("llama-3-8b"), 0, 16, head_dim=128)


def test_heads_that_do_not_come_out_even() -> None:
    """Query heads that ranks cannot divide evenly are an error that says how many there are."""
    with pytest.raises(UsageError, match="3 ranks cannot divide the 32 attention heads"):
        cut(layout("llama-3-8b"), 0, 3, head_dim=128)
    with pytest.raises(UsageError, match="does not consist of heads of 100"):
        cut(layout("llama-3-8b"), 0, 2, head_dim=100)


def test_norms_of_heads_tell_their_size() -> None:
    """Qwen 3 has norms as long as a head: four ranks share its two key heads of 16 without being told."""
    checkpoint = layout("moe-small")
    found = shapes(checkpoint, 3, 4)
    assert found[f"{LAYER}.self_attn.k_proj.weight"] == (16, 64)
    assert found[f"{LAYER}.self_attn.q_proj.weight"] == (16, 64)
    assert found[f"{LAYER}.self_attn.q_norm.weight"] == (16,)
    assert found[f"{LAYER}.mlp.gate.weight"] == (512, 64)
    assert found[f"{LAYER}.mlp.experts.7.gate_proj.weight"] == (8, 64)
    assert found[f"{LAYER}.mlp.experts.7.down_proj.weight"] == (64, 8)
    assert len(found) == len(checkpoint.tensors)


def test_whole_experts() -> None:
    """With expert parallelism a rank has whole experts, by number, and of the rest what tensor parallelism gives it."""
    checkpoint = layout("moe-small")
    seen: list[str] = []
    for rank in range(4):
        found = shapes(checkpoint, rank, 4, "qwen-ep")
        experts = {int(name.split(".")[5]) for name in found if ".experts." in name}
        assert experts == set(range(rank * 128, rank * 128 + 128))
        assert found[f"{LAYER}.mlp.experts.{rank * 128}.down_proj.weight"] == (64, 32)
        assert found["lm_head.weight"] == (256, 64)
        seen += [name for name in found if ".experts." in name]
    assert sorted(seen) == sorted(info.name for info in checkpoint.tensors if ".experts." in info.name)


def test_mixtral() -> None:
    """Mixtral's experts are divided by their own names for the same three weights, or whole."""
    found = shapes(mixtral(), 2, 4)
    place = f"{LAYER}.block_sparse_moe"
    assert found[f"{place}.experts.5.w1.weight"] == (3584, 4096)
    assert found[f"{place}.experts.5.w2.weight"] == (4096, 3584)
    assert found[f"{place}.experts.5.w3.weight"] == (3584, 4096)
    assert found[f"{place}.gate.weight"] == (8, 4096)
    whole = shapes(mixtral(), 2, 4, "mixtral-ep")
    assert {name.split(".")[5] for name in whole if ".experts." in name} == {"4", "5"}
    assert whole[f"{place}.experts.5.w1.weight"] == (14_336, 4096)


def test_uneven_experts() -> None:
    """Experts are divided as torch.chunk divides, so that the last rank may have fewer."""
    checkpoint = checkpoint_of((f"e.{number}.w", (2,)) for number in range(10))
    found = [set(shapes(checkpoint, rank, 4, {"e.#.w": "experts"})) for rank in range(4)]
    assert [len(names) for names in found] == [3, 3, 3, 1]
    assert found[3] == {"e.9.w"}


def test_experts_are_counted_over_the_whole_checkpoint() -> None:
    """Which rank has an expert does not depend on which tensors are selected."""
    checkpoint = checkpoint_of((f"e.{number}.w", (2,)) for number in range(8))
    selected = [info for info in checkpoint.tensors if info.name == "e.3.w"]
    for rank in range(4):
        found = shard_tensors(checkpoint, selected, Shard(rank, 4, {"*.#.*": "experts"})).tensors
        assert len(found) == (rank == 1)


def test_one_rank_has_everything() -> None:
    """In a world of one nothing is cut."""
    checkpoint = layout("llama-tiny")
    assert cut(checkpoint, 0, 1) == (checkpoint.tensors, {})


def test_the_first_rule_that_matches_counts() -> None:
    """Rules are tried in their order, so an exception stands before what it is an exception from."""
    checkpoint = checkpoint_of([("a.0.weight", (4, 4)), ("a.1.weight", (4, 4)), ("b", (4, 4))])
    rules = {"a.1.*": None, "a.#.weight": 0, "?": -1}
    assert shapes(checkpoint, 0, 2, rules) == {"a.0.weight": (2, 4), "a.1.weight": (4, 4), "b": (4, 2)}


def test_ready_rules_can_be_extended() -> None:
    """What a family's rules do not know is named in the error, with the way to keep it whole; that way works."""
    checkpoint = checkpoint_of([("lm_head.weight", (8, 4)), ("adapter.weight", (4, 4)), ("adapter.scale", ())])
    with pytest.raises(UsageError, match=r"adapter\.weight, adapter\.scale") as caught:
        cut(checkpoint, 0, 2, "llama")
    assert '"*": None' in str(caught.value)
    with pytest.raises(UsageError, match=r"adapter\.weight"):
        cut(checkpoint, 0, 2, "auto")
    found = shapes(checkpoint, 0, 2, {**shard_rules("llama"), "*": None})
    assert found == {"lm_head.weight": (4, 4), "adapter.weight": (4, 4), "adapter.scale": ()}


def test_fused_tensors() -> None:
    """A fused tensor is cut in each of its parts; key and value parts may be shared, queries are divided."""
    checkpoint = checkpoint_of([("qkv", (48, 8)), ("gate_up", (32, 8))])
    rules = {"qkv": Cut(parts=(4, 1, 1), unit=8, shared=True), "gate_up": Cut(parts=(1, 1))}
    found = cut(checkpoint, 1, 4, rules)
    assert [info.shape for info in found.tensors] == [(24, 8), (8, 8)]
    assert found.strips is not None
    assert found.strips["qkv"].blocks == ((8 * 16, 16 * 16), (32 * 16, 48 * 16))
    assert found.strips["gate_up"].blocks == ((4 * 16, 8 * 16), (20 * 16, 24 * 16))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 0), "world_size"),
        ((0, 1.0), "world_size"),
        ((0, True), "world_size"),
        ((4, 4), "rank"),
        ((-1, 4), "rank"),
        ((None, 4), "rank"),
        ((0, 4, "gpt"), "'gpt'"),
        ((0, 4, 3), "rules"),
        ((0, 4, {"a": "columns"}), "'columns'"),
        ((0, 4, {"a": 1.5}), "1.5"),
        ((0, 4, {"a": True}), "True"),
        ((0, 4, {"": 0}), "pattern"),
        ((0, 4, {3: 0}), "pattern"),
        ((0, 4, {"a": "experts"}), "#"),
        ((0, 4, {"#.#": "experts"}), "#"),
        ((0, 4, "llama", 0), "head_dim"),
        ((0, 4, "llama", "128"), "head_dim"),
        ((0, 4, "llama", None, 0), "ranks_per_host"),
        ((0, 4, "llama", None, 1.5), "ranks_per_host"),
    ],
    ids=str,
)
def test_impossible_shards(arguments: tuple[Any, ...], words: str) -> None:
    """A value that cannot work is refused when the Shard is made, and the error names it."""
    with pytest.raises(UsageError) as caught:
        Shard(*arguments)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0/4", Shard(0, 4)),
        (" 3 / 4 ", Shard(3, 4)),
        ("1/2:llama", Shard(1, 2, "llama")),
        ("1/2:auto", Shard(1, 2)),
        ("1/2:llama,head_dim=64", Shard(1, 2, "llama", 64)),
        ("1/2:head_dim=64", Shard(1, 2, head_dim=64)),
        ("1/2:ranks_per_host=2,llama,head_dim=64", Shard(1, 2, "llama", 64, 2)),
        ("0/2:*.up=0,*.down=-1,*=none", Shard(0, 2, {"*.up": 0, "*.down": -1, "*": None})),
        ("0/2:e.#.*=experts,*q=head-rows", Shard(0, 2, {"e.#.*": "experts", "*q": "head rows"})),
        ("0/2:x=none,llama", Shard(0, 2, {"x": None, **shard_rules("llama")})),
        ("0/2:a=b=1", Shard(0, 2, {"a=b": 1})),
    ],
)
def test_shards_as_text(text: str, expected: Shard) -> None:
    """RANK/WORLD[:RULES] says the same as a Shard; rules keep their order."""
    found = Shard.parse(text)
    assert found == expected
    if not isinstance(expected.rules, str):
        assert list(found.rules) == list(expected.rules)


@pytest.mark.parametrize(
    "text", ["", "1", "4/4", "a/b", "-1/4", "0/4:gpt", "0/4:x=y", "0/4:llama,auto", "0/4:head_dim=x", "0/0"]
)
def test_text_that_is_no_shard(text: str) -> None:
    """What is not of that form is wrong usage."""
    with pytest.raises(UsageError):
        Shard.parse(text)


def test_hostile_names() -> None:
    """Numbers of thousands of digits in names are no numbers, and cost nothing."""
    checkpoint = checkpoint_of([(f"e.{'9' * 6000}.w", (2,)), ("e.1.w", (2,))])
    with pytest.raises(UsageError, match=r"e\.999"):
        cut(checkpoint, 0, 2, {"e.#.w": "experts"})
    assert shapes(checkpoint, 0, 2, {"e.#.w": "experts", "*": None}).keys() == {f"e.{'9' * 6000}.w"}


def test_shards_are_values() -> None:
    """Equal shards are equal, and a mapping that is changed later changes no shard."""
    rules: dict[str, Any] = {"*": 0}
    shard = Shard(0, 2, rules)
    rules["*"] = 1
    assert shard == Shard(0, 2, {"*": 0})
