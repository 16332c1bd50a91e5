"""What `--model-loader-extra-config` may say, checked before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from slipstream import Options, UsageError

_OPTIONS = tuple(option.name for option in fields(Options))
_OTHERS = ("storage_options", "distributed", "weights", "enable_weights_track")


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """How weights are loaded under vLLM.

    Attributes:
        options: how to read.
        storage_options: how object stores are reached; None is as the environment says. Never shown: it may hold keys.
        weights: from where, instead of the model's own place; any URI that slipstream reads.
        distributed: whether the ranks of tensor parallelism share the reading.
        enable_weights_track: as vLLM's default loader has it; None leaves it to that.
    """

    options: Options
    storage_options: Mapping[str, object] | None = field(default=None, repr=False)
    weights: str | None = None
    distributed: bool = False
    enable_weights_track: bool | None = None

    @property
    def limited(self) -> bool:
        """Whether the user has set a memory limit."""
        return self.options.memory_limit is not None


def parse_settings(extra: object) -> LoaderSettings:
    """Reads the extra config: every setting of Options, storage_options, weights, distributed.

    Raises:
        UsageError: an unknown setting, or a value that cannot work.
    """
    if not isinstance(extra, Mapping):
        raise UsageError(f"--model-loader-extra-config is a JSON object of settings, not {type(extra).__name__}")
    _refuse_unknown(extra)
    storage_options = extra.get("storage_options")
    if storage_options is not None and not isinstance(storage_options, Mapping):
        raise UsageError(
            f"storage_options is a JSON object, as in docs/object-stores.md, not {type(storage_options).__name__}"
        )
    weights = extra.get("weights")
    if weights is not None and not (isinstance(weights, str) and weights):
        raise UsageError(f"weights is {weights!r}; it is a path or URI such as s3://bucket/model/")
    distributed = extra.get("distributed", False)
    if not isinstance(distributed, bool):
        raise UsageError(f"distributed is {distributed!r}; it is true or false")
    track = extra.get("enable_weights_track")
    if track is not None and not isinstance(track, bool):
        raise UsageError(f"enable_weights_track is {track!r}; it is true or false")
    chosen: dict[str, Any] = {name: extra[name] for name in _OPTIONS if name in extra}
    return LoaderSettings(
        options=Options(**chosen),
        storage_options=storage_options,
        weights=weights,
        distributed=distributed,
        enable_weights_track=track,
    )


def _refuse_unknown(extra: Mapping[object, object]) -> None:
    known = (*_OPTIONS, *_OTHERS)
    for name in extra:
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(
                f"--model-loader-extra-config has {name!r}, which the load format slipstream does not know{meant} "
                f"It knows {', '.join(sorted(known))}"
            )
