"""Adapters (LoRA and others of peft), from a directory or an object store into a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from slipstream.errors import UsageError
from slipstream.options import Options
from slipstream.transformers.choosing import plan_weights
from slipstream.transformers.coming import ComingWeights
from slipstream.transformers.load_report import name_in_reports
from slipstream.transformers.place import ADAPTER_CONFIG, Place, Uri, open_place
from slipstream.transformers.progress import Report, reporting
from slipstream.transformers.requirements import require_peft, require_transformers
from slipstream.types import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.modeling_utils import LoadStateDictInfo

_WEIGHTS = ("adapter_model.safetensors",)
_REFUSED = ("peft_model_id", "peft_config", "adapter_state_dict")


def load_adapter(
    model: PreTrainedModel,
    uri: Uri,
    adapter_name: str | None = None,
    *,
    subfolder: str = "",
    options: Options | None = None,
    storage_options: Mapping[str, object] | None = None,
    progress: bool | Callable[[Progress], object] = False,
    **kwargs: object,
) -> LoadStateDictInfo:
    """Loads an adapter into a model, as `model.load_adapter` of transformers would from a directory.

        slipstream.transformers.load_adapter(model, "s3://models/llama-lora/", "chat")

    Args:
        model: of transformers, whoever has loaded it. It is changed while this runs, also when it ends in an error.
        uri: a directory or prefix with `adapter_config.json` and `adapter_model.safetensors`, as peft saves them.
        adapter_name: by what name the model is to know it; "default" if None.
        subfolder: of `uri`.
        options, storage_options, progress: as in `from_pretrained`.
        kwargs: what `model.load_adapter` takes besides: is_trainable, hotswap and others.

    Returns:
        The report of transformers: keys that are missing, left over or of another shape.

    Raises:
        UsageError: not a model of transformers, or an argument that cannot work.
        BlobNotFoundError: there is no adapter.
        AccessDeniedError, ReadError, FormatError and others: as `from_pretrained`.
        MissingDependencyError: peft or transformers is missing.
        ValueError, RuntimeError: transformers' and peft's own, with a note that names the URI.
    """
    require_transformers()
    require_peft()
    _check(model, kwargs)
    place = open_place(uri, subfolder, options, storage_options)
    with reporting(progress) as report:
        return load_adapter_from(place, model, adapter_name, report, **kwargs)


def load_adapter_from(
    place: Place, model: Any, adapter_name: str | None, report: Report | None = None, **kwargs: object
) -> LoadStateDictInfo:
    """Loads the adapter that lies in a place."""
    from peft import PeftConfig

    place.require(ADAPTER_CONFIG, "give the URI of a directory that peft has saved an adapter to")
    with place.as_directory() as directory:
        config = PeftConfig.from_pretrained(str(directory))
    weights, plan = plan_weights(place, _WEIGHTS)
    keeps = model.device.type == "cpu"
    with (
        ComingWeights(weights, plan, place.options, place.storage_options, keeps=keeps, report=report) as coming,
        name_in_reports(place.shown),
    ):
        return model.load_adapter(
            adapter_name=adapter_name, peft_config=config, adapter_state_dict=coming.state_dict(), **kwargs
        )


def _check(model: object, kwargs: Mapping[str, object]) -> None:
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise UsageError(
            f"an adapter is loaded into a model of transformers, not into a {type(model).__name__}: for a PeftModel, "
            "pull the adapter into a directory (slipstream.pull), and call its own load_adapter"
        )
    for name in _REFUSED:
        if kwargs.get(name) is not None:
            raise UsageError(f"{name} cannot be given here: the adapter comes from the URI")
