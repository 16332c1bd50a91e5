"""Where the drop-in is, and how to have its import names, which the original of this environment has too.

`make test` installs the built wheel into a folder of its own, `.venv/runai`, beside which the original stays. Without
it the sources are taken.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ROOT / "compat" / "runai" / "src"
INSTALLED = ROOT / ".venv" / "runai"
DROP_IN = INSTALLED if (INSTALLED / ".installed").exists() else SOURCES

NAMES = tuple(sorted(path.name for path in SOURCES.iterdir()))
"""The top-level modules it provides."""


@contextmanager
def imported_first() -> Iterator[None]:
    """In this process the names stand for the drop-in, and for what they stood for before in the end."""
    theirs = _forget()
    sys.path.insert(0, str(DROP_IN))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(DROP_IN))
        _forget()
        sys.modules.update(theirs)


def child_environment(**variables: str) -> dict[str, str]:
    """The environment of a child process in which the names stand for the drop-in."""
    known = os.environ.get("PYTHONPATH")
    paths = [str(DROP_IN), *([known] if known else [])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **variables}


def store_variables(options: Mapping[str, str]) -> dict[str, str]:
    """How both the original and the drop-in are told of an S3 server: by the environment."""
    return {
        "AWS_ENDPOINT_URL": options["endpoint"],
        "AWS_ACCESS_KEY_ID": options["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": options["secret_access_key"],
        "AWS_REGION": options["region"],
        "AWS_DEFAULT_REGION": options["region"],
        "AWS_EC2_METADATA_DISABLED": "true",
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
    }


def _forget() -> dict[str, ModuleType]:
    """Takes the modules of these names out of this process, and returns them."""
    found = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in NAMES}
    for name in found:
        del sys.modules[name]
    return dict(found)
