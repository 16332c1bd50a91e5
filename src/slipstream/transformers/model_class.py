"""Which class a model is of, and its config: as transformers' Auto classes decide it.

They decide and load in one call, which takes no weights but from files. So the decision is made here, from the same
mappings, and the class that it comes to is asked to load.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from slipstream.errors import UsageError
from slipstream.transformers.arguments import Arguments
from slipstream.transformers.place import CONFIG, Place

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def find_model_class(
    auto_class: type[Any], config: object, place: Place, directory: Path, wanted: Arguments
) -> tuple[type[PreTrainedModel], PreTrainedConfig, dict[str, object]]:
    """Loads the config, and finds the class.

    Args:
        auto_class: what the caller named.
        config: the config itself, a path or name to load it from, or None for the one of the model.
        place, directory: of the model; and where its config files are.
        wanted: the other arguments.

    Returns:
        The class, its config, and the arguments that are for the model.

    Raises:
        UsageError: the class has no model of this kind; the model has code of its own, which is not trusted; or it
            is of a kind that slipstream cannot load.
        BlobNotFoundError: there is no config.
        Others: what transformers raises for a config that it cannot use.
    """
    if not wanted.auto:
        _refuse_own_loading(auto_class)
    found, for_model = _load_config(auto_class, config, place, directory, wanted)
    model_class = auto_class
    if wanted.auto:
        model_class, found = _choose(auto_class, found, place, directory, wanted)
        _refuse_own_loading(model_class)
    _refuse_quantization(found, place)
    return model_class, found, for_model


def _load_config(
    auto_class: type[Any], config: object, place: Place, directory: Path, wanted: Arguments
) -> tuple[PreTrainedConfig, dict[str, object]]:
    from transformers import AutoConfig, PreTrainedConfig

    if isinstance(config, PreTrainedConfig):
        return config, {**wanted.for_config, **wanted.for_model}
    source = directory if config is None else config
    if config is None:
        place.require(CONFIG, _advise(place))
    config_class = AutoConfig if wanted.auto else auto_class.config_class
    settings = dict(wanted.for_config)
    if wanted.auto:
        _refuse_unknown_code(source, place, wanted)
        settings |= {"trust_remote_code": wanted.trusted, "code_revision": wanted.code_revision}
    if config_class is None:
        raise UsageError(f"{auto_class.__name__} has no config class: give a config, or an Auto class")
    found, unused = config_class.from_pretrained(source, return_unused_kwargs=True, **wanted.hub, **settings)
    return found, {**unused, **wanted.for_model}


def _advise(place: Place) -> str:
    if place.has("adapter_config.json"):
        return (
            "it is an adapter. Load the model that it is for, and then slipstream.transformers.load_adapter(model, uri)"
        )
    return "give the URI of a model's directory, or its config as config="


def _refuse_unknown_code(source: object, place: Place, wanted: Arguments) -> None:
    """Refuses a config whose class only the model's own code has, unless that is trusted."""
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    if wanted.trusted:
        return
    content, _ = PreTrainedConfig.get_config_dict(source, **wanted.hub)
    if "AutoConfig" in (content.get("auto_map") or {}) and content.get("model_type") not in CONFIG_MAPPING:
        raise _untrusted(place)


def _choose(
    auto_class: type[Any], config: PreTrainedConfig, place: Place, directory: Path, wanted: Arguments
) -> tuple[type[PreTrainedModel], PreTrainedConfig]:
    known = _choose_known(auto_class, config)
    reference = (getattr(config, "auto_map", None) or {}).get(auto_class.__name__)
    if reference and wanted.trusted and (known is None or known.__module__.startswith("transformers.")):
        return _import_code(auto_class, config, reference, directory, wanted, register=known is None), config
    if known is not None:
        return known, _narrow(known, config)
    if reference:
        raise _untrusted(place)
    kind = getattr(config, "model_type", None) or type(config).__name__
    raise UsageError(
        f"{auto_class.__name__} has no class for {place.shown}, a model of the type {kind}: take another Auto class, "
        "AutoModel for example, or the model's own",
        uri=place.shown,
    )


def _choose_known(auto_class: type[Any], config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """The class that transformers has for a config: of several the one that the config names, else the first."""
    mapping: Mapping[type[Any], Any] = auto_class._model_mapping
    if type(config) not in mapping:
        return None
    classes = mapping[type(config)]
    if not isinstance(classes, list | tuple):
        return cast("type[PreTrainedModel]", classes)
    by_name = {model_class.__name__: model_class for model_class in classes}
    named = [by_name[name] for name in getattr(config, "architectures", None) or () if name in by_name]
    return cast("type[PreTrainedModel]", (named or classes)[0])


def _narrow(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedConfig:
    """The part of a composite config that is for this class, if it is only for its text model."""
    text_config = config.sub_configs.get("text_config")
    if text_config is None or getattr(model_class, "config_class", None) is not text_config:
        return config
    narrowed = config.get_text_config()
    quantization = getattr(config, "quantization_config", None)
    if quantization is not None:
        narrowed.quantization_config = quantization
    return narrowed


def _import_code(
    auto_class: type[Any],
    config: PreTrainedConfig,
    reference: str,
    directory: Path,
    wanted: Arguments,
    *,
    register: bool,
) -> type[PreTrainedModel]:
    """The class out of the model's own code, which transformers copies into its cache of modules and runs."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module
    from transformers.models.auto.auto_factory import add_generation_mixin_to_remote_model

    model_class = get_class_from_dynamic_module(reference, directory, code_revision=wanted.code_revision, **wanted.hub)
    if register:
        auto_class.register(type(config), model_class, exist_ok=True)
    model_class.register_for_auto_class(auto_class=auto_class)
    return cast("type[PreTrainedModel]", add_generation_mixin_to_remote_model(model_class))


def _untrusted(place: Place) -> UsageError:
    return UsageError(
        f"{place.shown} is a model that only its own Python code can build: read that, and if you trust it, give "
        "trust_remote_code=True",
        uri=place.shown,
    )


def _refuse_own_loading(model_class: type[Any]) -> None:
    """Refuses a class that loads in its own way: it reads more from its directory than config and weights."""
    from transformers import PreTrainedModel

    if model_class.from_pretrained.__func__ is not PreTrainedModel.from_pretrained.__func__:
        raise UsageError(
            f"{model_class.__name__} reads files of its own when it is loaded: pull the model into a directory "
            "(slipstream.pull), and load it from there by transformers"
        )


def _refuse_quantization(config: PreTrainedConfig, place: Place) -> None:
    """Refuses what transformers can put together from files only: it looks into their headers for more than tensors."""
    found = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(decoder=True), "quantization_config", None
    )
    method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
    if getattr(method, "value", method) == "torchao":
        raise UsageError(
            f"{place.shown} was quantised by torchao, whose checkpoints transformers puts together from local files "
            "only: pull it into a directory (slipstream.pull), and load it from there by transformers",
            uri=place.shown,
        )
