"""What an interpreter's vLLM is: versions, device, load formats, and the libraries that it maps.

Asked {"modules": [...], "distributions": [...]}, it says "probed". What it imports is what a server imports, so that
all of it is in the page cache afterwards.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import traceback
from typing import Any

_GROUP = "vllm.general_plugins"


def main() -> None:
    """Answers one question."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints is no answer
    asked = json.loads(sys.stdin.readline())
    try:
        found = {"said": "probed", **_probe(asked)}
    except Exception as error:
        traceback.print_exc()
        found = {"said": "failed", "reason": f"{type(error).__name__}: {error}"}
    print(json.dumps(found), file=answers, flush=True)
    os._exit(0)  # not torn down: it takes a second, and what counts has been said


def _probe(asked: dict[str, Any]) -> dict[str, Any]:
    vllm = importlib.import_module("vllm")
    importlib.import_module("vllm.plugins").load_general_plugins()  # entry points register load formats
    loaders = importlib.import_module("vllm.model_executor.model_loader")
    device = importlib.import_module("vllm.platforms").current_platform.device_type
    importlib.import_module("vllm.entrypoints.openai.api_server")
    return {
        "version": str(vllm.__version__),
        "device": str(device),
        "formats": sorted(getattr(loaders, "_LOAD_FORMAT_TO_MODEL_LOADER", {})),
        "plugins": [f"{each.name} = {each.value}" for each in importlib.metadata.entry_points(group=_GROUP)],
        "modules": [name for name in asked["modules"] if importlib.util.find_spec(name) is not None],
        "versions": _versions(asked["distributions"]),
        "libraries": _mapped_files(),
    }


def _versions(distributions: list[str]) -> dict[str, str]:
    owners = importlib.metadata.packages_distributions().get("vllm", [])
    found = {"python": platform.python_version()}
    for name in dict.fromkeys([*owners, *distributions]):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _mapped_files() -> list[str]:
    """The libraries that are mapped, which a start would have to read were they not in the page cache."""
    with open("/proc/self/maps") as maps:
        paths = {line.split(maxsplit=5)[-1].strip() for line in maps if "/" in line}
    return sorted(path for path in paths if ".so" in path and os.path.isfile(path))


if __name__ == "__main__":
    main()
