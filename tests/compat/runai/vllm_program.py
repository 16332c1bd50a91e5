"""Runs in an environment with vLLM, as a program: makes a tiny Llama, or loads a model and says which tokens follow.

    vllm_program.py make DIRECTORY
    vllm_program.py tokens SETTINGS       prints {"tokens": ..., "module": where runai_model_streamer lies} as JSON

It imports nothing of slipstream, and changes nothing of vLLM.
"""

from __future__ import annotations

import json
import sys
from typing import Any

PROMPTS = ([1, 2, 3, 4, 5], [7, 100, 200, 11])
TOKENS = 12
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # large enough for the tokens to depend on every weight
}


def make(directory: str) -> None:
    """Writes the model in several shards."""
    import torch
    import transformers

    torch.manual_seed(1)
    config = transformers.LlamaConfig(**SMALL, tie_word_embeddings=False)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(
        directory, max_shard_size="200KB"
    )


def tokens(settings: dict[str, Any]) -> dict[str, Any]:
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
    import runai_model_streamer

    found = [list(answer.outputs[0].token_ids) for answer in answers]
    return {"tokens": found, "module": runai_model_streamer.__file__}


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(sys.argv[2])
    else:
        print("\nANSWER", json.dumps(tokens(json.loads(sys.argv[2]))), flush=True)
