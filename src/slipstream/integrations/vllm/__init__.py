"""vLLM's load format "slipstream": `vllm serve MODEL --load-format slipstream`.

vLLM finds `register` by the entry point group `vllm.general_plugins`, and calls it in each of its processes.
"""

from __future__ import annotations

import logging

LOAD_FORMAT = "slipstream"

_logger = logging.getLogger("vllm.slipstream")  # vLLM shows only what is logged under its own name


def register() -> None:
    """Registers the load format with vLLM, and lets it load models from object stores. Safe to call again.

    Where this vLLM's interface differs from those that slipstream knows, only who asks for the load format is told:
    everybody else's vLLM starts as if slipstream were not installed.
    """
    try:
        from vllm.model_executor import model_loader
    except ImportError as error:
        _logger.warning("slipstream's load format is not available: this vLLM has no model loaders (%s)", error)
        return
    if LOAD_FORMAT in getattr(model_loader, "_LOAD_FORMAT_TO_MODEL_LOADER", {}):
        return
    from slipstream.integrations.vllm.interface import find_differences

    differences = find_differences()
    if differences:
        from slipstream.integrations.vllm.refusal import make_refusing_loader

        loader = make_refusing_loader(differences)
    else:
        from slipstream.integrations.vllm.loader import SlipstreamLoader as loader  # noqa: N813
        from slipstream.integrations.vllm.object_stores import allow_object_stores

        allow_object_stores()
    model_loader.register_model_loader(LOAD_FORMAT)(loader)
