"""Every way to name a checkpoint finds the same tensors."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import slipstream
from slipstream import Dtype
from slipstream.testing.checkpoints import write_safetensors
from tests.streaming.random_checkpoints import write_checkpoint, write_flat, write_index

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with two shards, x in a, y in b, and files that are none of ours."""
    folder = tmp_path / "my model"
    folder.mkdir()
    write_flat(folder / "a-1.safetensors", {"x": 10})
    write_flat(folder / "b-2.safetensors", {"y": 10})
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02")
    (folder / "sub").mkdir()
    write_flat(folder / "sub" / "c-3.safetensors", {"z": 10})
    return folder


def find_names(uri: Any) -> list[str]:
    """The tensors that a URI stands for."""
    return [tensor.name for tensor in slipstream.inspect(uri).tensors]


@pytest.mark.parametrize(
    ("form", "names"),
    [
        (lambda folder: str(folder), "xy"),
        (lambda folder: folder, "xy"),
        (lambda folder: f"{folder}/", "xy"),
        (lambda folder: f"{folder}/sub/..", "xy"),
        (lambda folder: folder / "b-2.safetensors", "y"),
        (lambda folder: f"{folder}/*.safetensors", "xy"),
        (lambda folder: f"{folder}/?-1.safetensors", "x"),
        (lambda folder: f"{folder}/[b-z]-*.safetensors", "y"),
        (lambda folder: f"{folder}/*", "xy"),
        (lambda folder: f"{folder}/**/*.safetensors", "xyz"),
        (lambda folder: f"{folder.parent}/*/*.safetensors", "xy"),
        (lambda folder: folder / "*.safetensors", "xy"),
        (lambda folder: folder.as_uri(), "xy"),
        (lambda folder: (folder / "a-1.safetensors").as_uri(), "x"),
        (lambda folder: f"file://localhost{folder}", "xy"),
        (lambda folder: f"FILE://{folder}", "xy"),
        (lambda folder: f"{folder.as_uri()}/*.safetensors", "xy"),
        (lambda folder: f"{folder.as_uri()}/?-1.safetensors", "x"),
        (lambda folder: [folder], "xy"),
        (lambda folder: (folder / "b-2.safetensors", folder / "a-1.safetensors"), "yx"),
        (lambda folder: [folder / "sub", folder], "zxy"),
        (lambda folder: [f"{folder}/*.safetensors", folder.as_uri() + "/sub"], "xyz"),
    ],
)
def test_forms(form: Callable[[Path], Any], names: str, directory: Path) -> None:
    """Paths, directories, globs, file URIs and lists of them stand for the files one expects, in their order."""
    assert find_names(form(directory)) == list(names)


@pytest.mark.parametrize(
    "form",
    [
        lambda path: [path, path],
        lambda path: [str(path), path],
        lambda path: [path, path.parent],
        lambda path: [path.parent, f"{path.parent}/./"],
        lambda path: [path, path.as_uri()],
        lambda path: [path, f"{path.parent}/*.safetensors"],
        lambda path: [os.path.relpath(path), path],
    ],
)
def test_a_file_named_twice_is_read_once(form: Callable[[Path], Any], tmp_path: Path) -> None:
    """The same file by two names of the same path is one blob, not a tensor that is there twice."""
    write_flat(tmp_path / "a.safetensors", {"x": 10})
    assert len(slipstream.inspect(form(tmp_path / "a.safetensors")).blobs) == 1
    assert list(slipstream.load(form(tmp_path / "a.safetensors"))) == ["x"]


def test_relative_paths_and_home(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths start from the working directory, `~` from the home, and blobs are named absolutely."""
    monkeypatch.chdir(directory.parent)
    monkeypatch.setenv("HOME", str(directory.parent))
    for uri in ("my model", "./my model", "my model/*.safetensors", "~/my model", "~/my model/*.safetensors"):
        checkpoint = slipstream.inspect(uri)
        assert [blob.uri for blob in checkpoint.blobs] == [
            str(directory / "a-1.safetensors"),
            str(directory / "b-2.safetensors"),
        ]


@pytest.mark.parametrize(
    "name",
    [
        "a[1].safetensors",
        "*.safetensors",
        "what?.safetensors",
        "[x].safetensors",
        "a b.safetensors",
        "ключ-é.safetensors",
        "100%25.safetensors",
        "a#b.safetensors",
        "new\nline.safetensors",
        "-rf.safetensors",
        "model.bin",
        "no suffix",
        ".safetensors",
    ],
)
def test_strange_file_names(name: str, tmp_path: Path) -> None:
    """A path that exists is taken literally, whatever characters it has, as text, path and file URI."""
    write_flat(tmp_path / name, {"right": 10})
    write_flat(tmp_path / "z.safetensors", {"wrong": 10})
    path = tmp_path / name
    for uri in (str(path), path, path.as_uri(), [path]):
        assert find_names(uri) == ["right"]
        assert list(slipstream.load(uri)) == ["right"]


def test_file_name_that_is_not_utf_8(tmp_path: Path) -> None:
    """A file name of bytes that are no text is read as Python names it."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.safetensors")
    write_flat(Path(path), {"x": 10})
    assert list(slipstream.load(path)) == ["x"]


@pytest.mark.parametrize("name", ["[x]", "*", "a?"])
def test_directories_with_glob_characters(name: str, tmp_path: Path) -> None:
    """A directory that exists is taken literally."""
    (tmp_path / name).mkdir()
    write_flat(tmp_path / name / "a.safetensors", {"x": 10})
    assert find_names(tmp_path / name) == ["x"]


def test_glob_that_also_finds_other_files(tmp_path: Path) -> None:
    """Of what a glob finds, files of the usual suffix are taken; where there are none, all files."""
    write_flat(tmp_path / "a.safetensors", {"x": 10})
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "a.dir").mkdir()
    write_flat(tmp_path / "b.weights", {"y": 10})
    assert find_names(tmp_path / "a.*") == ["x"]
    assert find_names(tmp_path / "b.*") == ["y"]


def test_links(tmp_path: Path) -> None:
    """Links to files and to directories are followed, and blobs keep the name that was given."""
    (tmp_path / "real").mkdir()
    write_flat(tmp_path / "real" / "blob", {"x": 10})
    (tmp_path / "link.safetensors").symlink_to("real/blob")
    (tmp_path / "folder").symlink_to("real", target_is_directory=True)
    assert find_names(tmp_path / "link.safetensors") == ["x"]
    assert find_names(tmp_path) == ["x"]
    assert find_names(tmp_path / "folder" / "blob") == ["x"]
    (blob,) = slipstream.inspect(tmp_path / "link.safetensors").blobs
    assert blob.uri == str(tmp_path / "link.safetensors")


def test_hub_cache(tmp_path: Path) -> None:
    """A repository of the Hugging Face cache is read by its main revision, a snapshot and a file by name."""
    tensor = (Dtype.U8, (3,), b"abc")
    repository = Path(str(write_checkpoint(tmp_path, [{"x": tensor}, {"y": tensor}], "hub repository")))
    snapshot = repository / "snapshots" / REVISION
    older = repository / "snapshots" / "older"
    older.mkdir()
    write_flat(older / "model.safetensors", {"old": 10})
    assert find_names(repository) == ["x", "y"]
    assert find_names(snapshot) == ["x", "y"]
    assert find_names(older) == ["old"]
    assert find_names(snapshot / "model-00001.safetensors") == ["y"]
    assert find_names(snapshot / "*.safetensors") == ["x", "y"]


@pytest.mark.parametrize("revision", [b"\xff\xfe", b"", b"gone", b"../../..", b"x" * 5000])
def test_hub_cache_with_a_broken_reference(revision: bytes, tmp_path: Path) -> None:
    """A `refs/main` of any content gives the library's own error, or is passed over."""
    tensor = (Dtype.U8, (3,), b"abc")
    repository = Path(str(write_checkpoint(tmp_path, [{"x": tensor}], "hub repository")))
    (repository / "refs" / "main").write_bytes(revision)
    with pytest.raises(slipstream.SlipstreamError):
        slipstream.inspect(repository)


def test_shards_in_subdirectories(tmp_path: Path) -> None:
    """An index may name shards in directories below its own."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    write_flat(tmp_path / "deep" / "er" / "a.safetensors", {"x": 10})
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"x": "deep/er/a.safetensors"}}')
    assert find_names(tmp_path) == ["x"]
    assert find_names(tmp_path / "model.safetensors.index.json") == ["x"]


def test_the_usual_index_comes_first(tmp_path: Path) -> None:
    """Of several indexes the one that transformers looks for is taken; those of pickled shards are passed over."""
    tensor = (Dtype.U8, (3,), b"abc")
    for number, name in enumerate("xy"):
        write_safetensors(tmp_path / f"model-{number:05}.safetensors", {name: tensor})
    write_index(tmp_path, [{"x": tensor}])
    (tmp_path / "consolidated.safetensors.index.json").write_text("no JSON")
    (tmp_path / "pytorch_model.bin.index.json").write_text("no JSON")
    assert find_names(tmp_path) == ["x"]
    (tmp_path / "model.safetensors.index.json").unlink()
    (tmp_path / "consolidated.safetensors.index.json").unlink()
    assert find_names(tmp_path) == ["x", "y"]
