"""`from_pretrained` of transformers, for directories and object stores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

from slipstream.errors import ModuleMismatchError
from slipstream.options import Options
from slipstream.transformers.adapters import load_adapter_from
from slipstream.transformers.arguments import Arguments, read_arguments
from slipstream.transformers.choosing import plan_weights, weights_names
from slipstream.transformers.coming import ComingWeights
from slipstream.transformers.load_report import name_in_reports
from slipstream.transformers.model_class import find_model_class
from slipstream.transformers.place import ADAPTER_CONFIG, CONFIG, GENERATION_CONFIG, Place, Uri, open_place
from slipstream.transformers.progress import reporting
from slipstream.transformers.requirements import TRIED, require_transformers
from slipstream.types import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# They shape how the config is made, and are no settings of generation.
_NOT_FOR_GENERATION = ("attn_implementation", "experts_implementation", "name_or_path")


def from_pretrained(
    auto_class: type[Any],
    uri: Uri,
    *model_args: object,
    config: PreTrainedConfig | str | None = None,
    weights: Uri | Sequence[Uri] | None = None,
    options: Options | None = None,
    storage_options: Mapping[str, object] | None = None,
    progress: bool | Callable[[Progress], object] = False,
    **kwargs: object,
) -> PreTrainedModel:
    """Loads a model of transformers, as `auto_class.from_pretrained` would if all of it lay in a local directory.

        model = slipstream.transformers.from_pretrained(AutoModelForCausalLM, "s3://models/llama/", dtype="auto")

    Config, generation config and an adapter that lies beside the weights are loaded too. Reading begins before the
    model is built. transformers does all that makes a checkpoint a model: renames, merges of experts, tied weights,
    buffers, types, initialisation, and its report of keys that are missing, left over or of another shape.

    Args:
        auto_class: an Auto class such as AutoModelForCausalLM, or a model's own class.
        uri: a directory, an s3://, gs:// or az:// prefix, or the http(s):// address of a folder.
        model_args: for the model's constructor, as in transformers.
        config: instead of the one that lies there: a config, or where AutoConfig finds one.
        weights: where the weights are, if not in `uri`: whatever `slipstream.stream` takes.
        options: how to read; see slipstream.Options. `memory_limit` is for what was read and transformers has not
            asked for yet: 2 GiB without it. Mapped files do not count.
        storage_options: how stores are reached; see `slipstream.stream`.
        progress: True for a bar in the style of transformers, or a function that is given a Progress now and then, in
            one thread at a time.
        kwargs: what transformers' from_pretrained takes: dtype, device_map, attn_implementation, quantization_config,
            ignore_mismatched_sizes, output_loading_info, trust_remote_code, variant, subfolder and others. Those that
            cannot work here are refused by name.

    Returns:
        The model, in evaluation mode; with `output_loading_info=True` the pair of it and the report. Its parameters are
        its own. On the CPU and in the checkpoint's type they are the memory that slipstream has read them into, without
        a copy; those of mapped files are private views of them, which are to be replaced by renaming, not truncated.

    Raises:
        UsageError: arguments that cannot work, a class without such a model, code that is not trusted, and
            combinations that slipstream cannot load; the text says what can.
        BlobNotFoundError: no such place, or it lacks a config or weights.
        AccessDeniedError, ReadError, BlobChangedError, FormatError, MemoryLimitError: as in `slipstream.stream`.
        MissingDependencyError: transformers or PyTorch is missing, or too old.
        RuntimeError, ValueError, OSError: transformers' own, with a note that names the URI.

    Thread-safety: any number of loads may run at once, as far as transformers allows it.
    """
    require_transformers()
    wanted = read_arguments(auto_class, kwargs)
    place = open_place(uri, wanted.subfolder, options, storage_options)
    with place.as_directory(code=wanted.trusted) as directory:
        model_class, found, for_model = find_model_class(auto_class, config, place, directory, wanted)
    names = weights_names(wanted.variant, getattr(found, "transformers_weights", None))
    where, plan = plan_weights(place, names, weights)
    keeps = for_model.get("device_map") in (None, "cpu")
    with (
        reporting(progress) as report,
        ComingWeights(where, plan, options, storage_options, keeps=keeps, report=report) as coming,
        name_in_reports(place.shown),
    ):
        loaded: Any = model_class.from_pretrained(
            None, *model_args, config=found, state_dict=coming.state_dict(), **wanted.hub, **for_model
        )
    model, info = loaded if wanted.wants_info else (loaded, None)
    _check_filled(model, place)
    _adjust_generation(model, place, wanted, changed=wanted.for_config.keys() - for_model.keys())
    _name(model, place.name)
    if _has_adapter(place):
        info = load_adapter_from(place, model, wanted.adapter_name).to_dict()
    return cast("PreTrainedModel", (model, info) if wanted.wants_info else model)


def _check_filled(model: PreTrainedModel, place: Place) -> None:
    """Makes sure that transformers, of whatever version, has put a value into every tensor.

    Those that a device map leaves to be fetched when they are used have none yet.
    """
    devices = set(getattr(model, "hf_device_map", {}).values())
    if len(devices) > 1 or "disk" in devices:
        return
    empty = [name for name, tensor in chain(model.named_parameters(), model.named_buffers()) if tensor.is_meta]
    if empty:
        import transformers

        raise ModuleMismatchError(
            f"transformers {transformers.__version__} has left {len(empty)} tensors of {place.shown} without values, "
            f"{empty[0]} for one: it works otherwise than {TRIED}, with which slipstream was tried",
            uri=place.shown,
        )


def _adjust_generation(model: Any, place: Place, wanted: Arguments, changed: set[str]) -> None:
    """Loads the generation config as transformers does, which makes one of the model's config where there is none."""
    if wanted.for_config.get("generation_config") is not None or not hasattr(model, "adjust_generation_fn"):
        return
    if not model.can_generate() or not (place.has(GENERATION_CONFIG) or place.has(CONFIG)):
        return
    settings = {name: wanted.for_config[name] for name in changed if name not in _NOT_FOR_GENERATION}
    with place.as_directory(code=wanted.trusted) as directory:
        model.adjust_generation_fn(
            generation_config=None,
            from_auto_class=wanted.auto,
            from_pipeline=None,
            pretrained_model_name_or_path=str(directory),
            cache_dir=None,
            force_download=False,
            proxies=None,
            local_files_only=True,
            token=None,
            revision=None,
            subfolder="",
            trust_remote_code=wanted.trusted,
            **({} if wanted.auto else settings),
        )


def _name(model: PreTrainedModel, name: str) -> None:
    """The model's name is where it came from, as of every model that transformers loads."""
    model.name_or_path = name
    model.config.name_or_path = name


def _has_adapter(place: Place) -> bool:
    from transformers.utils import is_peft_available

    return place.has(ADAPTER_CONFIG) and bool(is_peft_available())
