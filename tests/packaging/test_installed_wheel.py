"""What is under test is the wheel as a user installs it, and importing it costs a user nothing it does not need."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import slipstream

ROOT = Path(__file__).resolve().parents[2]
PUBLIC_MODULES = ("slipstream", "slipstream.options", "slipstream.errors", "slipstream.types")

# What `import slipstream` may not load: tensor libraries, numpy's test modules, cloud SDKs, the terminal's packages.
UNWANTED = (
    "torch",
    "jax",
    "safetensors",
    "numpy.testing",
    "numpy._core.tests",
    "obstore",
    "boto3",
    "botocore",
    "google.cloud",
    "azure",
    "typer",
    "rich",
)


def _run_python(*arguments: str) -> str:
    """Runs a fresh interpreter that sees the installed packages only: neither the current folder nor PYTHONPATH."""
    command = [sys.executable, "-P", "-E", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_the_installed_wheel_is_under_test() -> None:
    """slipstream comes from site-packages; `make test` never tests the source folder."""
    package = Path(slipstream.__file__).resolve().parent
    assert package == Path(sysconfig.get_paths()["purelib"]).resolve() / "slipstream"


def test_the_source_folder_is_not_importable() -> None:
    """No other copy of slipstream can be imported in its place, so a file missing from the wheel is noticed."""
    package = Path(slipstream.__file__).resolve().parent
    found = {Path(entry or ".").resolve() / "slipstream" for entry in sys.path}
    assert {folder for folder in found if folder.is_dir()} == {package}


def test_every_source_file_is_in_the_wheel() -> None:
    """The installed files are those of src/slipstream: none is missing, none is left over from an older build."""
    source, installed = ROOT / "src" / "slipstream", Path(slipstream.__file__).resolve().parent

    def files(folder: Path) -> set[str]:
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix in (".py", ".typed")}

    assert files(installed) == files(source)


def test_type_checkers_see_the_annotations() -> None:
    """The wheel ships the py.typed marker of PEP 561."""
    assert importlib.resources.files(slipstream).joinpath("py.typed").is_file()


def test_metadata_names_what_a_user_installs() -> None:
    """Version, licence, Python and extras stand in the metadata that pip reads."""
    metadata = importlib.metadata.metadata("slipstream")
    assert metadata["Version"] == importlib.metadata.version("slipstream") == slipstream.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert {"torch", "jax", "bench", "demo", "dev"} <= set(metadata.get_all("Provides-Extra") or ())


def test_nothing_heavy_is_required() -> None:
    """A plain install brings numpy, obstore and the command line's packages, and no tensor library."""
    requires = importlib.metadata.requires("slipstream") or []
    always = {line.split(";")[0].split(">")[0].strip() for line in requires if "extra ==" not in line}
    assert always == {"ml-dtypes", "numpy", "obstore", "rich", "typer"}


def test_the_command_is_installed() -> None:
    """The wheel installs a `slipstream` command, and its entry point can be loaded."""
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="slipstream")
    assert entry.value == "slipstream.cli.main:main"
    assert callable(entry.load())


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_import_loads_nothing_that_a_load_may_not_need(module: str) -> None:
    """A fresh interpreter that imports the public modules has loaded no tensor library and no cloud SDK."""
    program = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(_run_python("-c", program))
    heavy = [name for name in loaded if (name + ".").startswith(tuple(unwanted + "." for unwanted in UNWANTED))]
    assert module in loaded
    assert heavy == []


def test_import_starts_no_thread_and_opens_no_file() -> None:
    """Importing has no effect beyond definitions, so it is safe before a fork."""
    program = (
        "import os, threading; before = set(os.listdir('/proc/self/fd')); import slipstream; "
        "print(threading.active_count(), sorted(set(os.listdir('/proc/self/fd')) - before))"
    )
    assert _run_python("-c", program).split() == ["1", "[]"]
