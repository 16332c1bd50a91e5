"""Models and adapters of transformers, streamed from a directory or an object store.

    import slipstream.transformers
    from transformers import AutoModelForCausalLM

    model = slipstream.transformers.from_pretrained(AutoModelForCausalLM, "s3://models/llama/", dtype="auto")
    slipstream.transformers.load_adapter(model, "s3://models/llama-lora/")

transformers makes the model, as ever: it renames and merges what the checkpoint has under other names, ties, casts and
initialises. slipstream brings it the files and the tensors:

    place       which files lie there? the small ones are fetched
    model_class which class is it, with which config?
    choosing    which files hold the weights?
    coming      streams them, a window at a time, ahead of whoever asks     ──▶  transformers' from_pretrained
"""

from slipstream.transformers.adapters import load_adapter
from slipstream.transformers.loading import from_pretrained

__all__ = ["from_pretrained", "load_adapter"]
