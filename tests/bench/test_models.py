"""The model under test: found or made once, and known byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors import deserialize

from slipstream.bench.child.reference import make_reference
from slipstream.bench.errors import BenchError
from slipstream.bench.models import Model, default_cache, find_model
from slipstream.errors import BlobNotFoundError, SlipstreamError, UsageError
from slipstream.testing.checkpoints import write_safetensors
from slipstream.testing.range_server import RangeServer
from slipstream.testing.seaweedfs import SeaweedFS
from slipstream.testing.synthetic import write_checkpoint


def _read(path: Path) -> Mapping[str, Any]:
    """A file's tensors, by the reference reader: shape, dtype and data."""
    return dict(deserialize(path.read_bytes()))


def _digests(model: Model) -> Mapping[str, Mapping[str, object]]:
    found = json.loads(model.reference().read_text())["tensors"]
    assert isinstance(found, dict)
    return found


def test_a_layout_is_made_once(tmp_path: Path) -> None:
    """The first call writes it and says how far it is; the second finds it; its facts are those of its headers."""
    told: list[tuple[str, int, int]] = []
    model = find_model("llama-tiny", tmp_path, layers=1, report=lambda *how: told.append(how))
    assert told[-1][1] == told[-1][2] > 0
    assert "llama-tiny-1-layers" in told[0][0]
    changed = model.files[0].stat().st_mtime_ns
    told.clear()
    again = find_model("llama-tiny", tmp_path, layers=1, report=lambda *how: told.append(how))
    assert (again, told) == (model, [])
    assert again.files[0].stat().st_mtime_ns == changed
    assert (model.facts.name, model.facts.layers, model.facts.files) == ("llama-tiny", 1, 1)
    tensors = _read(model.files[0])
    assert (model.facts.tensors, model.facts.nbytes) == (
        len(tensors),
        sum(len(each["data"]) for each in tensors.values()),
    )


def test_all_layers_are_the_layout_itself(tmp_path: Path) -> None:
    """Asking for as many layers as there are is asking for all: one model, not two copies of it."""
    whole = find_model("llama-tiny", tmp_path)
    assert whole.facts.layers is None
    assert find_model("llama-tiny", tmp_path, layers=4) == whole


def test_something_else_in_the_place_of_a_layout(tmp_path: Path) -> None:
    """A cached model that is not the one asked for is an error, and not measured."""
    model = find_model("llama-tiny", tmp_path, layers=1)
    write_safetensors(model.files[0], {"other": ("U8", [1], b"x")})
    with pytest.raises(BenchError, match="something else"):
        find_model("llama-tiny", tmp_path, layers=1)


def test_paths(tmp_path: Path) -> None:
    """A directory's files are those of its index, in order; a file is one; both by absolute paths."""
    written = write_checkpoint("llama-tiny", tmp_path / "model", shards=3)
    model = find_model(str(tmp_path / "model"), tmp_path / "cache")
    assert model.files == written.files
    assert (model.name, model.facts.tensors, model.facts.nbytes) == ("model", written.tensors, written.nbytes)
    one = find_model(os.path.relpath(written.files[1]), tmp_path / "cache")
    assert one.files == (written.files[1],)
    assert one.name == written.files[1].stem


def test_what_is_no_model(tmp_path: Path) -> None:
    """A path that is not there, and layers of something that has none, are errors that say so."""
    with pytest.raises(BlobNotFoundError):
        find_model(str(tmp_path / "none"), tmp_path)
    with pytest.raises(UsageError, match="layers"):
        find_model(str(tmp_path), tmp_path, layers=2)
    with pytest.raises(UsageError, match="layers"):
        find_model("llama-tiny", tmp_path, layers=99)


def test_the_reference_is_what_the_format_says(tmp_path: Path) -> None:
    """Every tensor's digest is that of the bytes that the reference reader hands out, with its dtype and shape."""
    written = write_checkpoint("llama-tiny", tmp_path / "model", shards=2)
    model = find_model(str(tmp_path / "model"), tmp_path / "cache")
    digests = _digests(model)
    tensors = {name: tensor for path in written.files for name, tensor in _read(path).items()}
    assert digests.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert digests[name]["sha256"] == hashlib.sha256(tensor["data"]).hexdigest()
        assert (digests[name]["dtype"], digests[name]["shape"]) == (tensor["dtype"], list(tensor["shape"]))


def test_the_reference_is_made_once_and_again_when_a_file_changes(tmp_path: Path) -> None:
    """A file that was replaced by one of the same size has another reference."""
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": ("U8", [4], b"1234")})
    model = find_model(str(path), tmp_path / "cache")
    first = model.reference()
    told: list[object] = []
    assert model.reference(lambda *how: told.append(how)) == first
    assert told == []
    before = _digests(model)
    write_safetensors(path, {"a": ("U8", [4], b"1235")})
    os.utime(path, ns=(1, 1))
    assert _digests(model) != before


def test_files_that_are_no_checkpoint_together(tmp_path: Path) -> None:
    """Two files with a tensor of the same name have no reference."""
    for name in ("a", "b"):
        write_safetensors(tmp_path / f"{name}.safetensors", {"same": ("U8", [1], b"x")})
    with pytest.raises(ValueError, match="same name"):
        make_reference([str(path) for path in sorted(tmp_path.glob("*.safetensors"))], str(tmp_path / "reference"))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".safetensors", ".safetensors"]


def test_a_model_of_a_store(tmp_path: Path, seaweedfs: SeaweedFS) -> None:
    """A prefix of a store is fetched once, by no loader, and is then a model like any other."""
    written = write_checkpoint("llama-tiny", tmp_path / "model", shards=2)
    seaweedfs.create_bucket("bench-models")
    for path in [*written.files, tmp_path / "model" / "model.safetensors.index.json"]:
        seaweedfs.upload(path, "bench-models", f"tiny/{path.name}")
    told: list[tuple[str, int, int]] = []
    uri, options = "s3://bench-models/tiny/", seaweedfs.storage_options
    model = find_model(uri, tmp_path / "cache", storage_options=options, report=lambda *how: told.append(how))
    assert [path.read_bytes() for path in model.files] == [path.read_bytes() for path in written.files]
    assert told[-1][1] == told[-1][2] == sum(path.stat().st_size for path in written.files)
    assert (model.name, model.facts.nbytes) == ("tiny", written.nbytes)
    told.clear()
    again = find_model(uri, tmp_path / "cache", storage_options=options, report=lambda *how: told.append(how))
    assert (again, told) == (model, [])


def test_a_model_of_a_url(tmp_path: Path) -> None:
    """A URL is taken with its query, which no file name and no error shows."""
    written = write_checkpoint("llama-tiny", tmp_path / "model")
    with RangeServer(tmp_path) as server:
        url = server.url("model/model.safetensors")
        model = find_model(f"{url}?signature=secret", tmp_path / "cache")
        assert model.files[0].read_bytes() == written.files[0].read_bytes()
        assert "secret" not in str(model.files)
        with pytest.raises(SlipstreamError) as raised:
            find_model(f"{url}x?signature=secret", tmp_path / "cache")
        assert "secret" not in str(raised.value)


def test_converts_for_tensorizer_once(tmp_path: Path) -> None:
    """The copy holds every tensor, with its dtype and shape, and is found by the next call."""
    torch, serialization = pytest.importorskip("torch"), pytest.importorskip("tensorizer.serialization")
    path = tmp_path / "model.safetensors"
    stored = {
        "odd": ("U8", [3], b"abc"),  # what follows lies misaligned in the file
        "scalar": ("F32", [], b"\0\0\x80\x3f"),
        "halves": ("BF16", [2, 2], bytes(range(8))),
        "flags": ("BOOL", [2], b"\1\0"),
        "small": ("F8_E4M3", [4], b"\x01\x02\x03\x04"),
    }
    write_safetensors(path, stored)
    model = find_model(str(path), tmp_path / "cache")
    copy = model.tensorizer_copy()
    with serialization.TensorDeserializer(str(copy), device="cpu", lazy_load=False) as loaded:
        found = dict(loaded.items())
    assert found.keys() == stored.keys()
    for name, (_, shape, data) in stored.items():
        assert list(found[name].shape) == shape
        assert bytes(found[name].detach().reshape(-1).view(torch.uint8).numpy()) == data
    changed = copy.stat().st_mtime_ns
    assert model.tensorizer_copy() == copy
    assert copy.stat().st_mtime_ns == changed
    assert [other.name for other in copy.parent.iterdir()] == [copy.name]


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """What tensorizer cannot hold is an error with its reason, and no file is left."""
    pytest.importorskip("tensorizer")
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"packed": ("F6_E2M3", [4], b"abc")})
    model = find_model(str(path), tmp_path / "cache")
    with pytest.raises(BenchError, match="packed is F6_E2M3"):
        model.tensorizer_copy()
    assert [found for found in (tmp_path / "cache").rglob("*") if found.is_file()] == []


def test_a_conversion_ends_with_the_benchmark(tmp_path: Path) -> None:
    """Killed in the middle of a conversion, the benchmark leaves no process."""
    pytest.importorskip("tensorizer")
    model = find_model("llama-tiny", tmp_path, layers=1)
    # The benchmark is killed once the converter has begun its file, which waits then for its reader: a pipe.
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from slipstream.bench.models import find_model\n"
        "model = find_model('llama-tiny', Path(sys.argv[1]), layers=1)\n"
        "os.rename(model.files[0], str(model.files[0]) + '.real')\n"
        "os.mkfifo(model.files[0])\n"
        "object.__setattr__(model, '_fingerprint', lambda: 'fifo')\n"
        "model.tensorizer_copy(report=lambda *how: print('waiting', flush=True))\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "waiting\n"
        children = Path(f"/proc/{owner.pid}/task/{owner.pid}/children").read_text().split()
        owner.send_signal(signal.SIGKILL)
    assert len(children) == 1
    deadline = time.monotonic() + 20
    while Path("/proc", children[0]).exists():
        assert time.monotonic() < deadline, "the converter outlived the benchmark"
    assert model.files[0].is_fifo()


def test_removes_what_a_killed_conversion_left(tmp_path: Path) -> None:
    """A half-written copy of a process that is gone is removed by the next conversion; that of a running one stays."""
    pytest.importorskip("tensorizer")
    model = find_model("llama-tiny", tmp_path, layers=1)
    copy = model.tensorizer_copy()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, running = (copy.with_name(f"{copy.name}.{pid}.unfinished") for pid in (gone.pid, os.getpid()))
    for path in (dead, running):
        path.write_bytes(b"half")
    copy.unlink()
    assert model.tensorizer_copy() == copy
    assert (dead.exists(), running.exists()) == (False, True)


def test_the_default_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Caches go where the desktop's rules say."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "slipstream" / "bench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "slipstream" / "bench"
