"""The arguments of `from_pretrained`: those that slipstream takes care of, those that cannot work, and the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slipstream.errors import UsageError

_PARALLEL = (
    "in this version each process reads a whole model: pull the model into a directory (slipstream.pull), and load it "
    "from there by transformers"
)
_REFUSED: Mapping[str, str] = {
    "state_dict": "the weights come from the URI: hand a state dict to transformers itself",
    "gguf_file": "slipstream reads safetensors: load a GGUF file by transformers",
    "distributed_config": _PARALLEL,
    "tp_plan": _PARALLEL,
    "tp_size": _PARALLEL,
    "device_mesh": _PARALLEL,
}
# Of the Hugging Face hub; a config or code that lies there is still found by them.
_HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "token")
# What builds a model, and is no part of its config though a config may have an attribute of that name.
_NOT_FOR_CONFIG = ("dtype", "torch_dtype", "quantization_config")


@dataclass(frozen=True)
class Arguments:
    """What a caller wants.

    Attributes:
        auto: whether the class is one that chooses another by the config.
        subfolder, variant: as in transformers.
        trusted: whether the model's own code may be run.
        code_revision: of that code, if it is on the hub.
        wants_info: whether the report of the keys is returned too.
        adapter_name: of an adapter that lies beside the weights.
        hub: how the hub is reached.
        for_config: what the config is changed by; what it does not know is for the model.
        for_model: what is for the model alone.
    """

    auto: bool
    subfolder: str
    variant: str | None
    trusted: bool
    code_revision: str | None
    wants_info: bool
    adapter_name: str
    hub: Mapping[str, object]
    for_config: Mapping[str, object]
    for_model: Mapping[str, object]


def read_arguments(auto_class: object, given: Mapping[str, object]) -> Arguments:
    """Sorts what was given.

    Raises:
        UsageError: no class of models, or an argument that does not work with slipstream.
    """
    _refuse(given)
    rest = {name: value for name, value in given.items() if name not in (*_REFUSED, "revision", "use_safetensors")}
    adapter_name = rest.pop("adapter_name", None)
    rest.pop("adapter_kwargs", None)  # where on the hub an adapter is
    return Arguments(
        auto=is_auto_class(auto_class),
        subfolder=str(rest.pop("subfolder", None) or ""),
        variant=_text_or_none(rest.pop("variant", None), "variant"),
        trusted=bool(rest.pop("trust_remote_code", None)),
        code_revision=_text_or_none(rest.pop("code_revision", None), "code_revision"),
        wants_info=bool(rest.get("output_loading_info")),
        adapter_name=_text_or_none(adapter_name, "adapter_name") or "default",
        hub={name: rest.pop(name) for name in _HUB if name in rest},
        for_model={name: rest.pop(name) for name in _NOT_FOR_CONFIG if name in rest},
        for_config=rest,
    )


def is_auto_class(auto_class: object) -> bool:
    """Whether it is a class that chooses another by a config, rather than a model.

    Raises:
        UsageError: neither.
    """
    from transformers import PreTrainedModel

    if isinstance(auto_class, type):
        if issubclass(auto_class, PreTrainedModel):
            return False
        if getattr(auto_class, "_model_mapping", None) is not None:
            return True
    raise UsageError(
        f"{getattr(auto_class, '__name__', repr(auto_class))} is no class of models: give AutoModelForCausalLM or "
        "another Auto class, or a model's own class. Tokenizers and processors are loaded by transformers, from files "
        "that slipstream.pull fetches"
    )


def _refuse(given: Mapping[str, object]) -> None:
    for name, reason in _REFUSED.items():
        if given.get(name) is not None:
            raise UsageError(f"{name} cannot be given here: {reason}")
    if given.get("revision") not in (None, "main"):
        raise UsageError("revision is of the Hugging Face hub: the URI says which model is meant")
    if given.get("use_safetensors") is False:
        raise UsageError("use_safetensors=False cannot be given here: slipstream reads safetensors alone")
    _refuse_zero3()


def _refuse_zero3() -> None:
    from transformers.integrations import is_deepspeed_zero3_enabled

    if is_deepspeed_zero3_enabled():
        raise UsageError(f"DeepSpeed's ZeRO stage 3 is active, which shares a model among processes: {_PARALLEL}")


def _text_or_none(value: object, name: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{name} is {value!r}; it is text")
    return value
