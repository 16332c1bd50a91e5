"""Interpreters that samples run in: this one, or others, where versions conflict.

    --python safetensors=/venvs/rc/bin/python

What runs there is the folder `child`, under the name of a package of its own, so slipstream need not be installed
there: the interpreter is told where the folder lies. It needs Python 3.10, numpy, and the contender's packages.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import slipstream
from slipstream.bench.errors import BenchError
from slipstream.errors import UsageError

_CHILD = Path(__file__).resolve().parent / "child"
_PROBE_TIMEOUT_S = 120.0  # torch from a cold disk takes its time
_LONGEST = 300
# What follows -c: the folder, and which of its modules is to be run.
_BOOTSTRAP = """
import importlib, importlib.util, sys
folder, module = sys.argv[1:]
spec = importlib.util.spec_from_file_location(
    "slipstream_bench_child", folder + "/__init__.py", submodule_search_locations=[folder]
)
sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[spec.name])
importlib.import_module(spec.name + "." + module).main()
"""
# Settings are a sample's own; and another interpreter's packages are not to be mixed with this one's.
_SETTINGS = ("RUNAI_STREAMER_", "SLIPSTREAM_", "FASTSAFETENSORS_", "INSTANTTENSOR_")
_OF_THIS_INTERPRETER = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Packages:
    """What an interpreter has.

    Attributes:
        python: its version.
        modules: those of the modules asked for that can be imported.
        versions: those of the distributions asked for that are installed.
    """

    python: str
    modules: frozenset[str]
    versions: Mapping[str, str]


def parse_interpreters(given: Sequence[str]) -> dict[str, Path]:
    """Which contender runs in which interpreter, of arguments of the form NAME=PATH.

    Raises:
        UsageError: an argument of another form, or no such program.
    """
    found: dict[str, Path] = {}
    for argument in given:
        name, equals, path = argument.partition("=")
        if not name or not equals or not path:
            raise UsageError(f"--python {argument} is not of the form NAME=PATH: safetensors=/venvs/rc/bin/python")
        program = Path(os.path.abspath(os.path.expanduser(path)))  # not resolved: a link is how a venv is told apart
        if program.is_dir():
            program /= "bin/python"
        if not os.access(program, os.X_OK) or not program.is_file():
            raise UsageError(f"--python {argument}: there is no interpreter {program}")
        found[name] = program
    return found


def child_command(module: str, python: Path | None) -> list[str]:
    """The command that runs a module of `child` in an interpreter; None is this one."""
    return [str(python or sys.executable), "-c", _BOOTSTRAP, str(_CHILD), module]


def child_environment(python: Path | None) -> dict[str, str]:
    """The environment of such a process: this one's without the settings of any contender."""
    dropped = _OF_THIS_INTERPRETER if python else ()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS) and name not in dropped}
    # The folder that the benchmark was started in is on no path, from Python 3.11 on.
    return kept | {"PYTHONSAFEPATH": "1"} | ({"PYTHONDONTWRITEBYTECODE": "1"} if python else {})


def find_packages(python: Path | None, modules: Iterable[str], distributions: Iterable[str]) -> Packages:
    """Which of these modules and distributions an interpreter has.

    Raises:
        BenchError: it does not run.
    """
    distributions = frozenset(distributions)
    found = _probe(python, tuple(sorted(set(modules))), tuple(sorted(distributions)), False)
    versions = dict(found["versions"])
    if python is None and "slipstream" in distributions:
        versions.setdefault("slipstream", slipstream.__version__)  # run from its sources, it is no distribution
    return Packages(found["python"], frozenset(found["modules"]), versions)


def why_no_cuda(python: Path | None) -> str:
    """Why an interpreter's torch finds no GPU, in a few words; "" where it does.

    Raises:
        BenchError: it does not run.
    """
    return str(_probe(python, (), (), True)["cuda"])


@cache
def _probe(
    python: Path | None, modules: tuple[str, ...], distributions: tuple[str, ...], cuda: bool
) -> Mapping[str, Any]:
    asked = json.dumps({"modules": modules, "distributions": distributions, "cuda": cuda}) + "\n"
    try:
        answer = subprocess.run(
            child_command("probe", python),
            input=asked,
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            env=child_environment(python),
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise BenchError(f"the interpreter {python or sys.executable} does not run: {error}") from error
    try:
        found = json.loads(answer.stdout)
    except ValueError:
        said = " ".join(answer.stderr.split())[-_LONGEST:]
        raise BenchError(
            f"the interpreter {python or sys.executable} cannot run samples (it needs Python 3.10 or newer); "
            f"it ended with exit code {answer.returncode} and said: {said or 'nothing'}"
        ) from None
    assert isinstance(found, dict)
    return found
