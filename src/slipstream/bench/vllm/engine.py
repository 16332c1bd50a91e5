"""The interpreter that has vLLM: this one, or the one of `--python vllm=PATH`, and what its vLLM is."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from slipstream.bench.errors import BenchError, SampleError
from slipstream.bench.interpreters import child_environment
from slipstream.bench.page_cache import cached_bytes
from slipstream.bench.sample_process import SampleProcess
from slipstream.bench.vllm.formats import FORMATS, LoadFormat

INSIDE = Path(__file__).resolve().parent / "inside"
_DISTRIBUTIONS = (
    "torch",
    "transformers",
    "runai-model-streamer",
    "runai-model-streamer-s3",
    "tensorizer",
    "slipstream",
)
_PROBE_TIMEOUT_S = 300.0  # 7 to 10 s where its libraries are in the page cache
_STILL_WARM = 0.97
# Nothing is fetched from a hub, and nothing is reported to anyone.
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "NO_COLOR": "1",
}


@dataclass(frozen=True)
class Engine:
    """A vLLM.

    Attributes:
        python: its interpreter.
        version: of vLLM.
        device: what it computes on: "cpu", "cuda".
        formats: the load formats it knows, those of plugins too; empty where it cannot be asked for them.
        plugins: entry points of the group vllm.general_plugins: "name = value".
        modules: those of the load formats' packages that are installed.
        versions: of the distributions that matter, by their names.
        libraries: the files that its processes map.
        warm_bytes: how much of those was in the page cache right after they were used.
    """

    python: Path
    version: str
    device: str
    formats: frozenset[str]
    plugins: tuple[str, ...]
    modules: frozenset[str]
    versions: Mapping[str, str]
    libraries: tuple[Path, ...]
    warm_bytes: int

    def why_not(self, load_format: LoadFormat, schemes: frozenset[str], destination: str) -> str:
        """Why a load format cannot be used here, in a few words with what helps; "" where it can."""
        device = "cuda" if destination.startswith("cuda") else destination
        if device != self.device:
            return f"the vLLM of {self.python} computes on {self.device}, not on {device}"
        if schemes - load_format.schemes:
            reason = load_format.why_no_store or f"it reads {', '.join(sorted(load_format.schemes))}"
            return f"cannot read {', '.join(sorted(schemes - load_format.schemes))}://: {reason}"
        if self.formats and load_format.name not in self.formats:
            return self._why_not_registered(load_format)
        needed = dict(load_format.modules)
        needed |= {name: name for scheme, name in load_format.store_modules.items() if scheme in schemes}
        missing = sorted(needed[name] for name in needed if name not in self.modules)
        if missing:
            return f"{' and '.join(missing)} not installed beside the vLLM of {self.python}: {load_format.install}"
        return ""

    def warm(self) -> None:
        """Sees to it that vLLM's own code is in the page cache: a cold library is no cold model."""
        if cached_bytes(self.libraries) < self.warm_bytes * _STILL_WARM:
            _probe(self.python)

    def _why_not_registered(self, load_format: LoadFormat) -> str:
        named = [plugin for plugin in self.plugins if load_format.contender in plugin]
        if named:
            return f"the plugin {named[0]} of vLLM {self.version} did not register the load format {load_format.name}"
        return (
            f"vLLM {self.version} has no load format {load_format.name}: no entry point of the group "
            f"vllm.general_plugins registers it; {load_format.install}"
        )


@cache
def find_engine(python: Path | None) -> Engine:
    """The vLLM of an interpreter; None is this one.

    Raises:
        BenchError: it has none, or one that cannot be imported.
    """
    python = python or Path(sys.executable)
    found = _probe(python)
    libraries = tuple(Path(path) for path in found["libraries"])
    return Engine(
        python=python,
        version=found["version"],
        device=found["device"],
        formats=frozenset(found["formats"]),
        plugins=tuple(found["plugins"]),
        modules=frozenset(found["modules"]),
        versions=found["versions"],
        libraries=libraries,
        warm_bytes=cached_bytes(libraries),
    )


def _probe(python: Path) -> Mapping[str, Any]:
    modules = {name for each in FORMATS.values() for name in (*each.modules, *each.store_modules.values())}
    asked = {"modules": sorted(modules), "distributions": _DISTRIBUTIONS}
    command = [str(python), str(INSIDE / "probe.py")]
    try:
        with SampleProcess(command, child_environment(python) | QUIET, name=f"the vLLM of {python}") as process:
            return process.ask(asked, "probed", timeout_s=_PROBE_TIMEOUT_S)
    except SampleError as error:
        raise BenchError(
            f"{error}; give an interpreter that has vLLM: --python vllm=/venv/bin/python "
            "(make vllm-env makes one that runs on CPUs: --python vllm=.venv/vllm)"
        ) from error
