"""What slipstream takes for granted of vLLM, and whether this vLLM has it.

Tried with 0.32. A loader of one's own is a supported extension of vLLM; that it may also be handed `s3://` is not, and
of the default loader, whose treatment of experts, quantisation and secondary weights is kept, two methods are internal.
"""

from __future__ import annotations

import inspect
from importlib import import_module

# Module, the path to a callable in it, and the parameters that are passed by slipstream or to it.
_EXPECTED = (
    ("vllm.model_executor.model_loader", "register_model_loader", ("load_format",)),
    (
        "vllm.model_executor.model_loader.default_loader",
        "DefaultModelLoader._prepare_weights",
        ("model_name_or_path", "subfolder", "revision", "fall_back_to_pt", "allow_patterns_overrides"),
    ),
    (
        "vllm.model_executor.model_loader.default_loader",
        "DefaultModelLoader._get_weights_iterator",
        ("source",),
    ),
    (
        "vllm.model_executor.model_loader.default_loader",
        "DefaultModelLoader.get_all_weights",
        ("model_config", "model"),
    ),
    ("vllm.model_executor.model_loader.default_loader", "DefaultModelLoader.load_weights", ("model", "model_config")),
    ("vllm.model_executor.model_loader.default_loader", "DefaultModelLoader.download_model", ("model_config",)),
    (
        "vllm.model_executor.model_loader.default_loader",
        "DefaultModelLoader.Source",
        ("model_or_path", "revision", "subfolder", "prefix", "allow_patterns_overrides"),
    ),
    (
        "vllm.model_executor.model_loader.ep_weight_filter",
        "should_skip_weight",
        ("weight_name", "local_expert_ids"),
    ),
    ("vllm.distributed.parallel_state", "get_tp_group", ()),
    ("vllm.config", "VllmConfig.try_verify_and_update_config", ("self",)),
    ("vllm.transformers_utils.runai_utils", "is_runai_obj_uri", ("model_or_path",)),
    (
        "vllm.transformers_utils.runai_utils",
        "ObjectStorageModel.pull_files",
        ("model_path", "allow_pattern", "ignore_pattern"),
    ),
)


def find_differences() -> list[str]:
    """What this vLLM lacks of what slipstream needs, one clause each; empty where all is there."""
    return [*filter(None, (_find_difference(*expected) for expected in _EXPECTED))]


def _find_difference(module: str, path: str, parameters: tuple[str, ...]) -> str:
    try:
        found = import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
        has = inspect.signature(found).parameters  # type: ignore[arg-type]
    except (ImportError, AttributeError, TypeError, ValueError):
        return f"there is no {module}.{path}"
    missing = [name for name in parameters if name not in has]
    return f"{module}.{path} takes no {', '.join(missing)}" if missing else ""
