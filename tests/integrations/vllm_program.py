"""Runs inside an environment with vLLM, as a program: makes tiny models, or loads one and says which tokens follow.

    vllm_program.py make DIRECTORY              writes the models llama, tied and moe below it, in shards
    vllm_program.py tokens SETTINGS             loads by vLLM's engine in this process; prints the tokens as JSON

It imports nothing of slipstream: what is tested is that vLLM finds the load format by itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PROMPTS = ([1, 2, 3, 4, 5], [7, 100, 200, 11])
TOKENS = 12
_SMALL = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,  # large enough for the tokens to depend on every weight
}


def make(directory: Path) -> None:
    """Writes each model with its own random weights; the tied one has no lm_head, the moe one has eight experts."""
    import torch
    import transformers

    mixtral = {"num_local_experts": 8, "num_experts_per_tok": 2}
    models = {
        "llama": transformers.LlamaConfig(**_SMALL, tie_word_embeddings=False),
        "tied": transformers.LlamaConfig(**_SMALL, tie_word_embeddings=True),
        "moe": transformers.MixtralConfig(**_SMALL, **mixtral, tie_word_embeddings=False),
    }
    for number, (name, config) in enumerate(models.items()):
        torch.manual_seed(number)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(directory / name, max_shard_size="600KB")


def tokens(settings: dict[str, Any]) -> list[list[int]]:
    """The most likely tokens after each prompt, by a model loaded as `settings` say."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        **settings,
        skip_tokenizer_init=True,
        enforce_eager=True,
        dtype="bfloat16",
        max_model_len=64,
        max_num_seqs=4,
        max_num_batched_tokens=64,
    )
    sampling = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True, detokenize=False)
    answers = llm.generate([{"prompt_token_ids": prompt} for prompt in PROMPTS], sampling, use_tqdm=False)
    return [list(answer.outputs[0].token_ids) for answer in answers]


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        print("TOKENS", json.dumps(tokens(json.loads(sys.argv[2]))), flush=True)
