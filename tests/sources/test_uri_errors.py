"""What cannot be found or read is one clear error, of the right kind, that says where."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import slipstream
from slipstream import (
    BlobNotFoundError,
    FormatError,
    ShardIndexError,
    SlipstreamError,
    UsageError,
)
from tests.streaming.random_checkpoints import write_flat


def _write_garbage(path: Path) -> Path:
    path.write_bytes(b"garbage")
    return path


def _link_to(path: Path, target: str) -> Path:
    path.symlink_to(target)
    return path


def _make_fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _make_socket(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
    return path


def _make_directory(path: Path) -> Path:
    path.mkdir()
    return path


def _directory_with_fifo(path: Path) -> Path:
    path.mkdir()
    os.mkfifo(path / "a.safetensors")
    return path


def _directory_with_broken_link(path: Path) -> Path:
    path.mkdir()
    (path / "a.safetensors").symlink_to("../blobs/gone")
    return path


def _directory_with_pickle(path: Path) -> Path:
    path.mkdir()
    (path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda path: path / "gone.safetensors", ["does not exist", "exists"], id="missing"),
        pytest.param(lambda path: path / "gone" / "er" / "a.safetensors", ["does not exist"], id="missing directory"),
        pytest.param(lambda path: _write_garbage(path / "a") / "b", ["does not exist"], id="below a file"),
        pytest.param(lambda path: _make_directory(path / "empty"), ["nothing"], id="empty directory"),
        pytest.param(lambda path: _directory_with_pickle(path / "d"), ["pytorch_model.bin"], id="pickles only"),
        pytest.param(lambda path: path / "*.safetensors", ["nothing matches"], id="glob"),
        pytest.param(lambda path: path / "**" / "*.safetensors", ["nothing matches"], id="deep glob"),
        pytest.param(lambda path: _make_fifo(path / "a.safetensors"), ["not a regular file"], id="FIFO"),
        pytest.param(lambda path: _directory_with_fifo(path / "d"), ["not a regular file"], id="FIFO in directory"),
        pytest.param(lambda path: _make_socket(path / "s"), ["not a regular file"], id="socket"),
        pytest.param(lambda path: "/dev/null", ["not a regular file"], id="device"),
        pytest.param(lambda path: _link_to(path / "a", "gone"), ["link to gone", "not exist"], id="broken link"),
        pytest.param(
            lambda path: _directory_with_broken_link(path / "d"), ["link to ../blobs/gone"], id="broken hub link"
        ),
        pytest.param(lambda path: (path / "gone file").as_uri(), ["gone file", "does not exist"], id="file URI"),
    ],
)
@pytest.mark.parametrize("ask", [slipstream.inspect, slipstream.plan, slipstream.load, slipstream.stream])
def test_what_is_not_there(ask: Any, make: Callable[[Path], Any], words: list[str], tmp_path: Path) -> None:
    """What is missing, or is no file, is a BlobNotFoundError that names it, and never a hang."""
    with pytest.raises(BlobNotFoundError) as caught:
        ask(make(tmp_path))
    assert isinstance(caught.value, FileNotFoundError)
    assert caught.value.uri
    for word in words:
        assert word in str(caught.value)


def test_missing_path_names_what_exists(tmp_path: Path) -> None:
    """The error for a missing path names the nearest directory that is there."""
    with pytest.raises(BlobNotFoundError, match=re.escape(f"({tmp_path} exists)")):
        slipstream.inspect(tmp_path / "no" / "such" / "file.safetensors")


@pytest.mark.parametrize("name", ["loop", "x" * 300])
def test_paths_the_system_refuses(name: str, tmp_path: Path) -> None:
    """A link to itself and a name that is too long are errors of the library."""
    if name == "loop":
        (tmp_path / name).symlink_to(name)
    with pytest.raises(SlipstreamError):
        slipstream.inspect(tmp_path / name)


@pytest.mark.parametrize("uri", ["", [], (), "a\0b", ["a\0b"], [""], [None], [3], None, 3, b"path", [b"path"], {}])
def test_what_is_no_uri(uri: Any) -> None:
    """What is neither text nor a path is wrong usage."""
    with pytest.raises(UsageError):
        slipstream.inspect(uri)


def test_path_objects_of_bytes(tmp_path: Path) -> None:
    """A path object that gives bytes is wrong usage, or read as the path that it is."""

    class BytesPath:
        def __fspath__(self) -> bytes:
            return os.fsencode(tmp_path)

    write_flat(tmp_path / "a.safetensors", {"x": 1})
    wrong: Any = BytesPath()
    with contextlib.suppress(UsageError):
        assert len(slipstream.inspect(wrong).tensors) == 1


@pytest.mark.parametrize("uri", ["ftp://host/a.safetensors", "hdfs://b/*", "hf://a/b", "x+y.z-1://a"])
@pytest.mark.parametrize("listed", [False, True])
def test_unknown_schemes(uri: str, listed: bool, tmp_path: Path) -> None:
    """A scheme that no source serves is named in the error."""
    write_flat(tmp_path / "a.safetensors", {"x": 1})
    with pytest.raises(UsageError, match=re.escape(uri.split("/")[0])):
        slipstream.inspect([tmp_path, uri] if listed else uri)


@pytest.mark.parametrize("uri", ["file://host/path", "file://path/a.safetensors", "file://user@host/a"])
def test_file_uris_with_a_host(uri: str) -> None:
    """A file URI of another host, the usual slip of two slashes, is explained."""
    with pytest.raises(UsageError, match="three slashes"):
        slipstream.inspect(uri)


def test_several_indexes(tmp_path: Path) -> None:
    """A directory with several indexes, none of them the usual one, is ambiguous: the error lists them."""
    for name in ("a.safetensors.index.json", "b.safetensors.index.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UsageError, match=r"a\.safetensors\.index\.json, b\.safetensors\.index\.json"):
        slipstream.inspect(tmp_path)


def write_map(directory: Path, weight_map: object) -> None:
    """Writes an index with this weight map."""
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    "shard",
    [
        "../outside.safetensors",
        "sub/../../outside.safetensors",
        "..",
        "/etc/passwd",
        "sub\\..\\..\\outside.safetensors",
        "file:///etc/passwd",
        "s3://bucket/a.safetensors",
        "a\0b",
        "",
        ".",
        "sub/",
        3,
        None,
        ["a.safetensors"],
    ],
)
def test_index_that_leaves_its_directory(shard: object, tmp_path: Path) -> None:
    """A shard name that leads out of the index's directory, or is no name, is refused, also where the file is there."""
    inside = tmp_path / "model"
    inside.mkdir()
    write_flat(tmp_path / "outside.safetensors", {"x": 1})
    write_map(inside, {"x": shard})
    with pytest.raises(ShardIndexError) as caught:
        slipstream.inspect(inside)
    assert isinstance(caught.value, FormatError)
    assert caught.value.uri == str(inside / "model.safetensors.index.json")


def test_missing_shard(tmp_path: Path) -> None:
    """A shard that the index names and the directory lacks is named in the error."""
    write_flat(tmp_path / "a.safetensors", {"x": 1})
    write_map(tmp_path, {"x": "a.safetensors", "y": "b.safetensors"})
    with pytest.raises(BlobNotFoundError, match=re.escape(str(tmp_path / "b.safetensors"))):
        slipstream.inspect(tmp_path)


@pytest.mark.parametrize("shard", ["sub", "fifo"])
def test_shard_that_is_no_file(shard: str, tmp_path: Path) -> None:
    """A shard that is a directory or a FIFO is refused without opening it."""
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "fifo")
    write_map(tmp_path, {"x": shard})
    with pytest.raises(BlobNotFoundError, match="not a regular file"):
        slipstream.inspect(tmp_path)


@pytest.mark.parametrize("form", ["directory", "list", "glob", "index"])
def test_tensor_in_two_shards(form: str, tmp_path: Path) -> None:
    """A tensor that two files have is an error that names it and both files."""
    write_flat(tmp_path / "a.safetensors", {"only a": 1, "both": 2})
    write_flat(tmp_path / "b.safetensors", {"only b": 1, "both": 2})
    if form == "index":
        write_map(tmp_path, {"only a": "a.safetensors", "only b": "b.safetensors", "both": "b.safetensors"})
    uris: dict[str, Any] = {
        "list": [tmp_path / "a.safetensors", tmp_path / "b.safetensors"],
        "glob": tmp_path / "*.safetensors",
    }
    with pytest.raises(FormatError) as caught:
        slipstream.inspect(uris.get(form, tmp_path))
    assert caught.value.tensor == "both"
    for word in ("both", "a.safetensors", "b.safetensors"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("weight_map", "culprit"),
    [
        ({"x": "b.safetensors", "y": "b.safetensors"}, "x"),
        ({"x": "a.safetensors", "z": "a.safetensors"}, "z"),
    ],
)
def test_index_and_shards_that_disagree(weight_map: dict[str, str], culprit: str, tmp_path: Path) -> None:
    """A tensor that is not in the shard that the index names is an error that names it."""
    write_flat(tmp_path / "a.safetensors", {"x": 1})
    write_flat(tmp_path / "b.safetensors", {"y": 1})
    write_map(tmp_path, weight_map)
    with pytest.raises(ShardIndexError) as caught:
        slipstream.inspect(tmp_path)
    assert caught.value.tensor == culprit


@pytest.mark.parametrize("text", ["", "[]", "{", "{}", '{"weight_map": []}', '{"weight_map": {}}', "\xff", "null"])
def test_broken_index(text: str, tmp_path: Path) -> None:
    """An index that is no index is an error that names the file, not a walk over the other files."""
    write_flat(tmp_path / "a.safetensors", {"x": 1})
    (tmp_path / "model.safetensors.index.json").write_text(text, encoding="latin-1")
    with pytest.raises(ShardIndexError) as caught:
        slipstream.inspect(tmp_path)
    assert caught.value.uri == str(tmp_path / "model.safetensors.index.json")
