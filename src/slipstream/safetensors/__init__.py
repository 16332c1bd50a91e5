"""safetensors' interface on slipstream: the same names, for paths and URIs, for files and sharded checkpoints.

    from slipstream.safetensors import safe_open, load_file

    weights = load_file("s3://models/llama/")                     PyTorch; slipstream.safetensors.numpy has NumPy's
    with safe_open("s3://models/llama/", framework="pt") as f:
        rows = f.get_slice("model.embed_tokens.weight")[:1000]    reads a thousand rows

    with slipstream.safetensors.install():                        what others open by safetensors is read by slipstream
        model = AutoModel.from_pretrained("model/")

`slipstream.safetensors.torch` and `.numpy` stand for the modules of safetensors that have these names.
"""

from slipstream.safetensors.errors import SafetensorError
from slipstream.safetensors.installing import Installation, install
from slipstream.safetensors.opening import SafeSlice, safe_open
from slipstream.safetensors.torch import load_file, load_model

__all__ = ["Installation", "SafeSlice", "SafetensorError", "install", "load_file", "load_model", "safe_open"]
