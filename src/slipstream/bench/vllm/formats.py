"""The load formats of vLLM that are measured, each under the name of the contender that does the loading.

safetensors   auto              vLLM's default loader
runai         runai_streamer    Run:ai Model Streamer
tensorizer    tensorizer        Tensorizer, from a copy that vLLM itself has serialised
slipstream    slipstream        by the entry point of slipstream's integration, group vllm.general_plugins
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slipstream.bench.records import Role
from slipstream.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from slipstream.bench.storages.base import PlacedModel

_FILES = frozenset({"file"})
_STORES = frozenset({"s3", "gs", "az"})


@dataclass(frozen=True, kw_only=True)
class LoadFormat:
    """One of them.

    Attributes:
        contender: as records name it.
        name: as vLLM does.
        schemes: of what it can load.
        why_no_store: why it reads no other schemes.
        modules: which packages it needs beside vLLM, by what pip calls them.
        store_modules: the same for URIs of a scheme.
        install: the pip command that brings what is missing.
        role: what it is compared as.
        needs_tensorizer: whether it loads the copy in tensorizer's format.
    """

    contender: str
    name: str
    schemes: frozenset[str]
    why_no_store: str = ""
    modules: Mapping[str, str] = field(default_factory=dict)
    store_modules: Mapping[str, str] = field(default_factory=dict)
    install: str = ""
    role: Role = "peer"
    needs_tensorizer: bool = False

    @property
    def label(self) -> str:
        """As tables call it."""
        return f"load format {self.name}"

    def arguments(self, placed: PlacedModel, folder: Path) -> list[str]:
        """What vLLM is started with.

        Args:
            placed: where the model is.
            folder: of the files beside the weights; with the weights, where they are local files.
        """
        if self.needs_tensorizer:
            assert placed.tensorizer_uri is not None, "no copy for tensorizer has been placed"
            extra = {"tensorizer_uri": placed.tensorizer_uri, **_tensorizer_store(placed)}
            return [
                "--model",
                str(folder),
                "--load-format",
                self.name,
                "--model-loader-extra-config",
                json.dumps(extra),
            ]
        if placed.is_local:
            return ["--model", str(folder), "--load-format", self.name]
        # vLLM fetches what lies beside the weights. A storage of the benchmark has weights alone, so they are local.
        prefix = placed.uris[0].rpartition("/")[0] + "/"
        beside = ["--hf-config-path", str(folder), "--tokenizer", str(folder)]
        return ["--model", prefix, "--load-format", self.name, *beside]


def find_format(contender: str) -> LoadFormat:
    """The load format of a contender.

    Raises:
        UsageError: it has none in vLLM.
    """
    try:
        return FORMATS[contender]
    except KeyError:
        raise UsageError(f"{contender} has no load format in vLLM; those that have one: {', '.join(FORMATS)}") from None


def _tensorizer_store(placed: PlacedModel) -> dict[str, object]:
    """How tensorizer reaches the store. Keys are in the environment, where botocore finds them: vLLM logs arguments."""
    if placed.is_local:
        return {}
    variables = placed.environment
    region = variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION")
    given = variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL")
    # Left to itself it takes an endpoint of a third party, and refuses plain http in one that it is given.
    endpoint = given or f"https://s3.{region or 'us-east-1'}.amazonaws.com"
    how: dict[str, object] = {"force_http": endpoint.startswith("http://")}
    return {"s3_endpoint": endpoint, "stream_kwargs": how | ({"s3_region_name": region} if region else {})}


AUTO = LoadFormat(
    contender="safetensors",
    name="auto",
    schemes=_FILES,
    why_no_store="vLLM's default loader reads files; for an object store vLLM itself takes runai_streamer instead",
)
_RUNAI = LoadFormat(
    contender="runai",
    name="runai_streamer",
    schemes=_FILES | _STORES,
    modules={"runai_model_streamer": "runai-model-streamer"},
    store_modules={
        "s3": "runai_model_streamer_s3",
        "gs": "runai_model_streamer_gcs",
        "az": "runai_model_streamer_azure",
    },
    install="pip install 'runai-model-streamer[s3]'",
)
_TENSORIZER = LoadFormat(
    contender="tensorizer",
    name="tensorizer",
    schemes=_FILES | {"s3"},
    why_no_store="tensorizer reads files and s3://",
    modules={"tensorizer": "tensorizer"},
    install="pip install tensorizer",
    needs_tensorizer=True,
)
_SLIPSTREAM = LoadFormat(
    contender="slipstream",
    name="slipstream",
    schemes=_FILES | _STORES,
    modules={"slipstream": "slipstream"},
    install="pip install 'slipstream[vllm]'",
    role="slipstream",
)
FORMATS: Mapping[str, LoadFormat] = {each.contender: each for each in (_SLIPSTREAM, AUTO, _RUNAI, _TENSORIZER)}
