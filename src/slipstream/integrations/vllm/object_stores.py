"""Lets vLLM load a model from an object store by this load format.

vLLM knows two ways there, both under Run:ai's name: it fetches what is not weights with their package, and refuses
every load format but theirs. The first is done by `slipstream.pull` where that package is missing; the second is
widened.
Whatever load format is not slipstream's finds vLLM unchanged.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from vllm.config import VllmConfig
from vllm.transformers_utils import runai_utils

import slipstream

_MARK = "_slipstream_widened"
_STORE_PACKAGES = {
    "s3": "runai_model_streamer_s3",
    "gs": "runai_model_streamer_gcs",
    "az": "runai_model_streamer_azure",
}


def allow_object_stores() -> None:
    """Widens this process's vLLM. Safe to call again."""
    if _MARK in vars(runai_utils):  # not of what is replaced: without Run:ai's package that is no function
        return
    VllmConfig.try_verify_and_update_config = _accept_load_format(VllmConfig.try_verify_and_update_config)
    runai_utils.runai_pull_files = _pull_where_missing(runai_utils.runai_pull_files)
    setattr(runai_utils, _MARK, True)


def _accept_load_format(original: Any) -> Any:
    """The check of a config, which is told that a model in an object store is loaded by the format that it knows."""

    @functools.wraps(original)
    def verify(self: Any) -> Any:
        load_config = self.load_config
        if load_config.load_format != "slipstream":
            return original(self)
        load_config.load_format = "runai_streamer"
        try:
            return original(self)
        finally:
            load_config.load_format = "slipstream"

    return verify


def _pull_where_missing(original: Any) -> Any:
    """Fetches config and tokenizer by slipstream, where what vLLM would take for it is not installed."""

    def pull(
        model_path: str,
        dst: str,
        allow_pattern: Sequence[str] | None = None,
        ignore_pattern: Sequence[str] | None = None,
    ) -> None:
        scheme = model_path.partition("://")[0].lower()
        packages = ("runai_model_streamer", _STORE_PACKAGES.get(scheme, ""))
        if all(package and find_spec(package) for package in packages):
            original(model_path, dst, allow_pattern, ignore_pattern)
            return
        slipstream.pull(model_path, dst, allow=allow_pattern, ignore=ignore_pattern)

    return pull
