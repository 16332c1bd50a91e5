"""Synthetic checkpoints in object stores: the same bytes as in a directory, there whole or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import slipstream
from slipstream.errors import AccessDeniedError, BlobNotFoundError, SlipstreamError, UsageError
from slipstream.testing import azurite as azurite_module
from slipstream.testing import uploading
from slipstream.testing.azurite import Azurite
from slipstream.testing.layouts import Layout, TensorSpec
from slipstream.testing.seaweedfs import SeaweedFS, why_unavailable
from slipstream.testing.synthetic import write_checkpoint
from slipstream.testing.uploading import upload_checkpoint
from slipstream.types import Dtype
from tests.testing.s3_uploads import list_uploads

BUCKET = "uploads"
# In two files of 24 MB each, which are uploaded in two parts.
LARGE = Layout(
    "large",
    "for these tests",
    1,
    tensors=lambda layers: iter([TensorSpec(name, Dtype.BF16, (12_000_000,)) for name in ("first", "second")]),
    config=lambda layers: {},
)


@pytest.fixture(params=["s3", "az"])
def store(request: pytest.FixtureRequest) -> SeaweedFS | Azurite:
    server: SeaweedFS | Azurite = request.getfixturevalue({"s3": "seaweedfs", "az": "azurite"}[request.param])
    server.create_bucket(BUCKET)
    return server


def scheme_of(server: SeaweedFS | Azurite) -> str:
    return "s3" if isinstance(server, SeaweedFS) else "az"


def load(uri: str | Path, server: SeaweedFS | Azurite) -> dict[str, bytes]:
    found = slipstream.load(uri, framework="numpy", storage_options=server.storage_options)
    return {name: np.asarray(tensor).tobytes() for name, tensor in found.items()}


@pytest.mark.parametrize("shards", [1, 3])
def test_same_bytes_as_in_a_directory(store: SeaweedFS | Azurite, tmp_path: Path, shards: int) -> None:
    """An uploaded checkpoint has the names and bytes of one that was written to a disk, and loads to equal tensors."""
    uri = f"{scheme_of(store)}://{BUCKET}/same-{shards}"
    written = upload_checkpoint("llama-tiny", uri, shards=shards, seed=5, storage_options=store.storage_options)
    local = write_checkpoint("llama-tiny", tmp_path, shards=shards, seed=5)
    assert (written.tensors, written.nbytes, written.uri) == (local.tensors, local.nbytes, f"{uri}/")
    assert [name.rpartition("/")[2] for name in written.files] == [path.name for path in local.files]
    found = slipstream.inspect(uri, storage_options=store.storage_options)
    assert [blob.size for blob in found.blobs] == [path.stat().st_size for path in local.files]
    assert load(uri, store) == load(tmp_path, store)


def test_progress_reaches_the_total_in_the_callers_thread(seaweedfs: SeaweedFS) -> None:
    """Progress rises to the size of the files, as that of a directory does."""
    seaweedfs.create_bucket(BUCKET)
    seen: list[tuple[int, int, str]] = []

    def note(done: int, total: int) -> None:
        seen.append((done, total, threading.current_thread().name))

    written = upload_checkpoint(
        "llama-tiny", f"s3://{BUCKET}/seen", storage_options=seaweedfs.storage_options, progress=note
    )
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert seen[-1][0] == seen[-1][1] > written.nbytes
    assert {name for _, _, name in seen} == {threading.current_thread().name}


def test_overwriting_wants_force(store: SeaweedFS | Azurite) -> None:
    """A checkpoint that is there is kept, unless force is given; then nothing of the old one stays."""
    uri = f"{scheme_of(store)}://{BUCKET}/forced/"
    options = store.storage_options
    upload_checkpoint("llama-tiny", uri, shards=3, seed=1, storage_options=options)
    before = load(uri, store)
    with pytest.raises(UsageError, match="force"):
        upload_checkpoint("llama-tiny", uri, storage_options=options)
    assert load(uri, store) == before
    upload_checkpoint("llama-tiny", uri, storage_options=options, force=True)
    checkpoint = slipstream.inspect(uri, storage_options=options)
    assert [blob.uri.removeprefix(uri) for blob in checkpoint.blobs] == ["model.safetensors"]
    assert load(uri, store) != before


def test_foreign_objects_are_never_replaced(seaweedfs: SeaweedFS) -> None:
    """A prefix with weights that this writer did not name is refused even with force."""
    seaweedfs.create_bucket(BUCKET)
    seaweedfs.upload(b"precious", BUCKET, "foreign/consolidated.safetensors")
    with pytest.raises(UsageError, match=r"consolidated\.safetensors"):
        upload_checkpoint("llama-tiny", f"s3://{BUCKET}/foreign", storage_options=seaweedfs.storage_options, force=True)


def test_root_of_a_bucket(seaweedfs: SeaweedFS) -> None:
    """A bucket itself is a place like any other, and what lies deeper is none of its checkpoint."""
    seaweedfs.create_bucket("whole-bucket")
    seaweedfs.upload(b"x", "whole-bucket", "deeper/other.safetensors")
    upload_checkpoint("llama-tiny", "s3://whole-bucket", storage_options=seaweedfs.storage_options)
    assert len(load("s3://whole-bucket", seaweedfs)) == 39


@pytest.mark.parametrize(
    "uri", ["http://h/models", "https://h/models?key=hush", "file:///models", "ftp://h/models", "models"]
)
def test_other_places(uri: str) -> None:
    """What is no object store is wrong usage, and the message gives no query away."""
    with pytest.raises(UsageError, match="s3://") as caught:
        upload_checkpoint("llama-tiny", uri)
    assert "hush" not in str(caught.value)


def test_missing_bucket_and_wrong_secret(seaweedfs: SeaweedFS) -> None:
    """Both are told before anything is made, as for a load."""
    options = seaweedfs.storage_options
    with pytest.raises(BlobNotFoundError, match="no such bucket"):
        upload_checkpoint("llama-tiny", "s3://nowhere/x", storage_options=options)
    with pytest.raises(AccessDeniedError, match="SignatureDoesNotMatch"):
        upload_checkpoint("llama-tiny", f"s3://{BUCKET}/x", storage_options={**options, "secret_access_key": "another"})


def test_too_many_shards(seaweedfs: SeaweedFS) -> None:
    """More files than threads are sensible are refused."""
    with pytest.raises(UsageError, match="512"):
        upload_checkpoint("moe-small", f"s3://{BUCKET}/x", shards=513, storage_options=seaweedfs.storage_options)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_interrupted_by_the_caller(seaweedfs: SeaweedFS, interruption: type[BaseException]) -> None:
    """Ctrl-C, or an error in the progress function, ends the threads and aborts all uploads, also of whole files."""
    seaweedfs.create_bucket("interrupted")

    def interrupt(done: int, total: int) -> None:
        if done > total * 0.7:  # the first file is whole by then
            assert len(list_uploads(seaweedfs, "interrupted")) == 2
            raise interruption

    threads = set(threading.enumerate())
    with pytest.raises(interruption):
        upload_checkpoint(
            LARGE, "s3://interrupted/x", shards=2, storage_options=seaweedfs.storage_options, progress=interrupt
        )
    assert set(threading.enumerate()) <= threads
    assert list_uploads(seaweedfs, "interrupted") == []
    with pytest.raises(BlobNotFoundError):
        slipstream.inspect("s3://interrupted/x", storage_options=seaweedfs.storage_options)


def test_interrupted_on_azure(azurite: Azurite) -> None:
    """Azure has no uploads to abort: blocks that nothing was made of are not listed, and vanish after a week."""
    azurite.create_bucket("interrupted")

    def interrupt(done: int, total: int) -> None:
        if done > total * 0.7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upload_checkpoint(
            LARGE, "az://interrupted/x", shards=2, storage_options=azurite.storage_options, progress=interrupt
        )
    with pytest.raises(BlobNotFoundError):
        slipstream.inspect("az://interrupted/x", storage_options=azurite.storage_options)


def test_interrupted_replacement_keeps_the_old(seaweedfs: SeaweedFS) -> None:
    """A write with force that is interrupted while it uploads leaves the old checkpoint whole."""
    seaweedfs.create_bucket(BUCKET)
    uri = f"s3://{BUCKET}/kept"
    upload_checkpoint("llama-tiny", uri, shards=2, storage_options=seaweedfs.storage_options)
    before = load(uri, seaweedfs)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upload_checkpoint(
            "llama-tiny", uri, seed=9, force=True, storage_options=seaweedfs.storage_options, progress=interrupt
        )
    assert load(uri, seaweedfs) == before


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[SeaweedFS]:
    """One that may be stopped."""
    if reason := why_unavailable():
        pytest.skip(reason)
    with SeaweedFS(directory=tmp_path) as server:
        server.create_bucket(BUCKET)
        yield server


def test_server_that_stops_in_mid_upload(own_server: SeaweedFS) -> None:
    """It is an error that says what, where and why; after a restart no part of the checkpoint is listed."""

    def stop(done: int, total: int) -> None:
        if done > total * 0.7:
            own_server.stop()

    threads = set(threading.enumerate())
    with pytest.raises(SlipstreamError, match="connection was refused") as caught:
        upload_checkpoint(
            LARGE, f"s3://{BUCKET}/x", shards=2, storage_options=own_server.storage_options, progress=stop
        )
    assert (caught.value.uri or "").startswith(f"s3://{BUCKET}/x/model")
    assert caught.value.endpoint == own_server.endpoint
    assert "nothing of it is to be seen" in str(caught.value).lower()
    assert set(threading.enumerate()) <= threads
    own_server.start()
    with pytest.raises(BlobNotFoundError, match="empty"):
        slipstream.inspect(f"s3://{BUCKET}", storage_options=own_server.storage_options)


def test_azure_that_stops_in_mid_upload(tmp_path: Path) -> None:
    """There it is the same error."""
    if reason := azurite_module.why_unavailable():
        pytest.skip(reason)
    with Azurite(directory=tmp_path) as server:
        server.create_bucket(BUCKET)
        options = server.storage_options

        def stop(done: int, total: int) -> None:
            if done > total * 0.3:
                server.stop()

        with pytest.raises(SlipstreamError, match=r"connection was (refused|closed).*[Nn]othing of it is to be seen"):
            upload_checkpoint(LARGE, f"az://{BUCKET}/x", storage_options=options, progress=stop)


def test_completion_that_fails(own_server: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the server goes away between two completions, the error names what may still be there."""
    finish = uploading._Sending.finish

    def finish_and_stop(sending: uploading._Sending) -> None:
        finish(sending)
        own_server.stop()

    monkeypatch.setattr(uploading._Sending, "finish", finish_and_stop)
    with pytest.raises(SlipstreamError, match=r"still be there is x/model-00001-of-00002\.safetensors, x/model-00002"):
        upload_checkpoint("llama-tiny", f"s3://{BUCKET}/x", shards=2, storage_options=own_server.storage_options)


@pytest.mark.parametrize("nbytes", [0, 1, 5_000_000, 8 << 20, 100_000_001, 155_123_457, 16_060_556_376, 300 << 30])
def test_parts_fit_the_limits_of_stores(nbytes: int) -> None:
    """At most 10,000 parts, none but the last below 5 MiB, and a last one that is next to nothing."""
    size = uploading._chunk_bytes(nbytes)
    parts, rest = divmod(nbytes, size)
    assert parts + bool(rest) <= 10_000
    assert size >= 5 << 20 or parts <= 1
    assert rest < max(parts, 1)
