"""The loader itself: vLLM's default one, with slipstream in the place of safetensors.

What the default loader knows of models stays in force: secondary weights, prefixes and subfolders, the filter of an
expert-parallel rank (applied before anything is read), what a multimodal model leaves out, quantised checkpoints, and
the check that every parameter got its weights. Only which bytes are read, and how, is decided here.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vllm.distributed.parallel_state import get_tp_group
from vllm.logger import init_logger
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.model_loader.ep_weight_filter import should_skip_weight

from slipstream import SlipstreamError, UsageError
from slipstream.integrations.vllm.settings import LoaderSettings, parse_settings
from slipstream.integrations.vllm.weights import stream_weights

if TYPE_CHECKING:
    import torch

_logger = init_logger("vllm.slipstream")  # vLLM shows only what is logged under its own name

# The default loader's own settings: as if safetensors files had been asked for, and nothing else.
_READS_AS = "safetensors"


class SlipstreamLoader(DefaultModelLoader):  # type: ignore[misc]  # vLLM is not there where types are checked
    """Loads weights from a local directory, the Hugging Face hub's cache, or an object store, by slipstream.

    A tensor is handed to the model as it lies in memory, without a copy, and its memory is given back once the model
    has copied it into its parameters.
    """

    def __init__(self, load_config: Any) -> None:
        """
        Args:
            load_config: vLLM's. Its `model_loader_extra_config` is what `parse_settings` reads.

        Raises:
            UsageError: a setting that is unknown or cannot work.
        """
        self._settings = parse_settings(load_config.model_loader_extra_config or {})
        settings = self._settings.enable_weights_track
        extra = {} if settings is None else {"enable_weights_track": settings}
        as_default = replace(load_config, load_format=_READS_AS, model_loader_extra_config=extra)
        self.counter_before_loading_weights = 0.0
        super().__init__(as_default)

    def download_model(self, model_config: Any) -> None:
        """See BaseModelLoader. What is in an object store is streamed when it is loaded, and never downloaded."""
        located = _locate(model_config, self._settings)
        if "://" not in located.model:
            super().download_model(located)

    def get_all_weights(self, model_config: Any, model: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """See DefaultModelLoader; from the object store where the model is in one."""
        yield from super().get_all_weights(_locate(model_config, self._settings), model)

    def _get_weights_iterator(self, source: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """Streams one source's tensors, each under its name with the source's prefix."""
        if self.load_config.safetensors_load_strategy == "torchao":
            return self._load_torchao(source)
        uris = self._find_uris(source)
        if self.counter_before_loading_weights == 0.0:
            self.counter_before_loading_weights = time.perf_counter()
        if self._settings.distributed:
            return self._stream_shared(uris, source)
        return stream_weights(uris, self._settings, self._choose_names(source), source.prefix, _logger.info)

    def _stream_shared(self, uris: str | list[str], source: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """Streams one source together with the other ranks of tensor parallelism.

        These and no others, because they always load the same: the last stage of a pipeline may load a draft model
        that the others know nothing of. They ask for the same tensors, also for experts that only one of them needs.
        """
        experts = self.local_expert_ids
        return stream_weights(
            uris,
            self._settings,
            lambda name: not _is_unused(source, name),
            source.prefix,
            _logger.info,
            group=get_tp_group().cpu_group,
            skips=lambda name: should_skip_weight(name, experts),
        )

    def _load_torchao(self, source: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """torchao puts several stored tensors together to one of its own; vLLM has that with safetensors alone."""
        if "://" in source.model_or_path:
            raise UsageError(
                "a checkpoint that torchao has quantised is loaded from a local directory only: fetch it with "
                "`slipstream pull`, or take another load format",
                uri=source.model_or_path,
            )
        _logger.warning("a checkpoint that torchao has quantised is read by safetensors, not by slipstream")
        weights: Iterator[tuple[str, torch.Tensor]] = super()._get_weights_iterator(source)
        return weights

    def _find_uris(self, source: Any) -> str | list[str]:
        """What slipstream is given: files that vLLM has found, or a prefix whose index slipstream reads itself."""
        if "://" not in source.model_or_path:
            return self._find_files(source)
        model = str(source.model_or_path)
        prefix = model.rstrip("/") + "/"
        if model.endswith(".safetensors") or "*" in model:
            prefix = model
        if source.subfolder is not None:
            prefix += source.subfolder.strip("/") + "/"
        if source.allow_patterns_overrides is not None:
            return [prefix + pattern for pattern in source.allow_patterns_overrides]
        return prefix

    def _find_files(self, source: Any) -> list[str]:
        folder, files, _, index = self._prepare_weights(
            source.model_or_path,
            source.subfolder,
            source.revision,
            False,  # weights as pickles are not read
            source.allow_patterns_overrides,
        )
        prefixes = getattr(self, "_encoder_only_lm_prefixes", None)
        if prefixes is not None:
            from vllm.model_executor.model_loader.weight_utils import filter_mm_encoder_only_safetensors_files

            mapper = getattr(self, "_encoder_only_weights_mapper", None)
            files = filter_mm_encoder_only_safetensors_files(files, folder, index, prefixes, weights_mapper=mapper)
        _refuse_other_formats(files, source.model_or_path)
        return list(files)

    def _choose_names(self, source: Any) -> Callable[[str], bool]:
        """Which tensors this rank reads: all but other ranks' experts, and what the model says it never loads."""
        experts = self.local_expert_ids
        return lambda name: not should_skip_weight(name, experts) and not _is_unused(source, name)


def _locate(model_config: Any, settings: LoaderSettings) -> Any:
    """The model's config with the place of its weights, where that is not the directory of its other files."""
    weights = settings.weights or getattr(model_config, "model_weights", "")
    if not weights:
        return model_config
    located = copy.copy(model_config)
    located.model = weights
    return located


def _is_unused(source: Any, name: str) -> bool:
    """Whether the model says that it never loads a tensor of this name."""
    is_unused: Callable[[str], bool] | None = getattr(source, "is_unused_weight", None)
    return is_unused is not None and is_unused(name)


def _refuse_other_formats(files: Sequence[str], model: str) -> None:
    others = [file for file in files if not file.endswith(".safetensors")]
    if others:
        raise SlipstreamError(
            f"{model}: {others[0]} is no safetensors file, and slipstream reads no other format: convert it, or take "
            "the load format auto",
            uri=others[0],
        )
