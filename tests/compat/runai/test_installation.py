"""The drop-in as a distribution: what is in it, what it may import, and that it is not installed over the original."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import pkgutil
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.compat.runai.drop_in import DROP_IN, INSTALLED, NAMES, SOURCES, child_environment

ORIGINALS = (
    "runai-model-streamer",
    "runai-model-streamer-s3",
    "runai-model-streamer-gcs",
    "runai-model-streamer-azure",
)


def modules() -> Iterator[ModuleType]:
    for name in NAMES:
        package = importlib.import_module(name)
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            yield importlib.import_module(found.name)


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = child_environment()
    environment["PYTHONPATH"] = environment["PYTHONPATH"].replace(str(DROP_IN), str(folder), 1)
    command = [sys.executable, "-P", "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_these_tests_import_the_drop_in() -> None:
    """And not the original, which this environment has as well."""
    assert all(Path(str(module.__file__)).is_relative_to(DROP_IN) for module in modules())


def test_every_file_is_in_the_wheel() -> None:
    """What `make test` has installed is what the sources are."""
    if DROP_IN != INSTALLED:
        pytest.skip("the wheel is not built: make test")

    def files(folder: Path) -> set[str]:
        found = (path for name in NAMES for path in (folder / name).rglob("*"))
        return {str(path.relative_to(folder)) for path in found if path.suffix in (".py", ".typed")}

    assert files(INSTALLED) == files(SOURCES)
    (distribution,) = importlib.metadata.distributions(path=[str(INSTALLED)])
    assert distribution.metadata["Name"] == "slipstream-runai"
    assert [requirement.split(">")[0] for requirement in distribution.requires or ()] == ["slipstream[torch]"]


def test_only_the_public_interface_of_slipstream_is_used() -> None:
    """It has no logic of its own, and needs none of slipstream's inside."""
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [str(node.module)]
            wrong = [name for name in names if name.startswith("slipstream.")]
            assert not wrong, f"{path}: {wrong}"


def test_every_annotation_resolves() -> None:
    """As tools that read them need it."""
    seen = 0
    for module in modules():
        for _, thing in inspect.getmembers(module):
            if getattr(thing, "__module__", None) == module.__name__ and callable(thing):
                typing.get_type_hints(thing)
                methods = inspect.getmembers(thing, inspect.isfunction) if inspect.isclass(thing) else []
                for _, method in methods:
                    typing.get_type_hints(method)
                seen += 1 + len(methods)
    assert seen > 80


@pytest.mark.parametrize("original", ORIGINALS)
def test_installed_over_the_original(original: str, tmp_path: Path) -> None:
    """In one folder with any of its distributions it refuses to be imported, and says how to have either."""
    for name in NAMES:
        (tmp_path / name).symlink_to(DROP_IN / name)
    (tmp_path / f"{original.replace('-', '_')}-0.17.0.dist-info").mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {original}\nVersion: 0.17.0\n"
    (tmp_path / f"{original.replace('-', '_')}-0.17.0.dist-info" / "METADATA").write_text(metadata)
    program = (
        "from pathlib import Path; from runai_model_streamer.installation import refuse_mixture; "
        f"refuse_mixture(Path({str(tmp_path)!r}))"
    )
    ran = run(program, DROP_IN)
    assert ran.returncode != 0
    assert "ImportError" in ran.stderr
    assert ran.stderr.count(f"pip uninstall -y slipstream-runai {original} && pip install slipstream-runai") == 2
    assert ran.stderr.count(f"&& pip install {original}") == 2


def test_a_program_that_hides_import_errors_still_shows_it(tmp_path: Path) -> None:
    """vLLM takes an ImportError for "not installed", so the reason is logged as well."""
    import shutil

    for name in NAMES:
        shutil.copytree(DROP_IN / name, tmp_path / name)
    (tmp_path / "runai_model_streamer-0.17.0.dist-info").mkdir()
    (tmp_path / "runai_model_streamer-0.17.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: runai-model-streamer\nVersion: 0.17.0\n"
    )
    program = """
try:
    import runai_model_streamer
except ImportError:
    print("not installed")
"""
    ran = run(program, tmp_path)
    assert (ran.returncode, ran.stdout.strip()) == (0, "not installed")
    assert "slipstream-runai was installed over runai-model-streamer" in ran.stderr


def test_the_original_elsewhere_is_no_matter() -> None:
    """This environment has it in site-packages, and the drop-in before it."""
    ran = run("import runai_model_streamer; print(runai_model_streamer.__file__)", DROP_IN)
    assert ran.returncode == 0, ran.stderr
    assert Path(ran.stdout.strip()).is_relative_to(DROP_IN)
    assert ran.stderr == ""


def test_every_module_that_others_import_is_there() -> None:
    """The module paths of the original that programs and their tests use."""
    for path, names in {
        "runai_model_streamer": "SafetensorsStreamer ObjectStorageModel DistributedStreamer FileStreamer FileChunks "
        "list_safetensors pull_files",
        "runai_model_streamer.safetensors_streamer.safetensors_streamer": "SafetensorsStreamer ObjectStorageModel "
        "list_safetensors pull_files SAFETENSORS_PATTERN",
        "runai_model_streamer.safetensors_streamer.safetensors_pytorch": "SafetensorsMetadata SafetensorMetadata "
        "Offsets prepare_request create_torch_tensor requires_alignment_copy safetensors_to_torch_dtype "
        "element_size_of",
        "runai_model_streamer.safetensors_streamer.streamer_mock": "StreamerPatcher",
        "runai_model_streamer.file_streamer": "FileStreamer FileChunks",
        "runai_model_streamer.file_streamer.file_streamer": "FileStreamer RunaiStreamerInvalidInputException "
        "homogeneous_paths host_or_device",
        "runai_model_streamer.file_streamer.requests_iterator": "FileChunks RunaiStreamerMemoryLimitException "
        "MemoryCapMode RUNAI_STREAMER_MEMORY_LIMIT_ENV_VAR_NAME DEFAULT_MEMORY_LIMIT_STRING",
        "runai_model_streamer.distributed_streamer": "DistributedStreamer",
        "runai_model_streamer.distributed_streamer.distributed_streamer": "DistributedStreamer",
        "runai_model_streamer.s3_utils.s3_utils": "S3Credentials is_s3_path is_gs_path is_azure_path s3_glob "
        "s3_pull_files gcs_glob gcs_pull_files azure_glob azure_pull_files filter_allow filter_ignore removeprefix "
        "get_s3_credentials_module get_s3_files_module get_gcs_files_module get_azure_files_module",
        "runai_model_streamer_s3.credentials.credentials": "S3Credentials get_credentials",
        "runai_model_streamer_s3.files.files": "glob pull_files",
        "runai_model_streamer_gcs.files.files": "glob pull_files",
        "runai_model_streamer_azure.files.files": "glob pull_files",
    }.items():
        module = importlib.import_module(path)
        assert [name for name in names.split() if not hasattr(module, name)] == []


def test_credentials_are_handed_through() -> None:
    """The S3 package's module makes no session: slipstream finds what is not given."""
    from runai_model_streamer.s3_utils.s3_utils import S3Credentials, get_s3_credentials_module

    module = get_s3_credentials_module()
    assert module is not None
    given = S3Credentials(access_key_id="key")
    assert module.get_credentials(given) == (None, given)
    session, empty = module.get_credentials()
    assert (session, vars(empty)) == (None, vars(S3Credentials()))


def test_filters_of_paths() -> None:
    """fnmatch of the whole path, as others use them."""
    from runai_model_streamer.s3_utils import s3_utils

    paths = ["a.txt", "dir/b.txt", "dir/c.bin"]
    assert s3_utils.filter_allow(paths, ["*.txt"]) == ["a.txt", "dir/b.txt"]
    assert s3_utils.filter_ignore(paths, ["dir/*"]) == ["a.txt"]
    assert s3_utils.removeprefix("dir/c.bin", "dir/") == "c.bin"
    assert [s3_utils.is_s3_path("s3://b"), s3_utils.is_gs_path("gs://b"), s3_utils.is_azure_path("az://b")] == [
        True
    ] * 3
    assert not any((s3_utils.is_s3_path("gs://b"), s3_utils.is_gs_path("/b"), s3_utils.is_azure_path("s3://b")))
    assert s3_utils.get_module("no_such_package", "no_such_package.files") is None
