"""list_safetensors, pull_files and ObjectStorageModel on stores, among many processes, and against hostile names."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import slipstream
from slipstream.testing.azurite import Azurite
from slipstream.testing.fake_gcs import FakeGcs
from tests.compat.runai.conftest import BUCKET
from tests.compat.runai.drop_in import child_environment
from tests.object_stores.scripted_server import Said, ScriptedServer

# Says "waiting" before it may have to, and in the end whether it pulled, or what went wrong.
MODEL_PROGRAM = """
import json, sys
from runai_model_streamer import ObjectStorageModel
print("waiting", flush=True)
with ObjectStorageModel(model_path=sys.argv[1], dst=sys.argv[2]) as model:
    print("holding", flush=True)
    if len(sys.argv) > 3:
        sys.stdin.readline()
    model.pull_files(allow_pattern=["*.safetensors"])
    model.pull_files(ignore_pattern=["*.safetensors"])
print(json.dumps({"skipped": model._skip}), flush=True)
"""


@contextmanager
def other_process(uri: str, to: Path, *extra: str) -> Iterator[subprocess.Popen[str]]:
    """A process that wants the model too; gone in the end."""
    command = [sys.executable, "-P", "-c", MODEL_PROGRAM, uri, str(to), *extra]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=child_environment(), stdin=pipe, stdout=pipe, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def hear(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file, except what slipstream keeps for itself."""
    found = (path for path in folder.rglob("*") if path.is_file() and ".slipstream" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def is_free(lock: Path) -> bool:
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_azure(azurite: Azurite, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing, pulling and streaming of az://, by the environment's account and key."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", azurite.account_name)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", azurite.account_key)
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", azurite.endpoint)
    check_store(azurite, "az", model, tmp_path)


def test_google(fake_gcs: FakeGcs, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of gs://, by the credentials file that RUNAI_STREAMER_GCS_CREDENTIAL_FILE names."""
    monkeypatch.setenv("RUNAI_STREAMER_GCS_CREDENTIAL_FILE", str(fake_gcs.service_account))
    check_store(fake_gcs, "gs", model, tmp_path)


def check_store(server: Azurite | FakeGcs, scheme: str, model: Path, tmp_path: Path) -> None:
    from runai_model_streamer import SafetensorsStreamer, list_safetensors, pull_files

    server.create_bucket(BUCKET)
    for path in model.rglob("*"):
        if path.is_file():
            server.upload(path, BUCKET, f"m/{path.relative_to(model)}")
    uri = f"{scheme}://{BUCKET}/m"
    listed = list_safetensors(uri)
    assert listed == [f"{uri}/model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    pull_files(uri, str(tmp_path / "to"), ignore_pattern=["*.safetensors"])
    assert files_in(tmp_path / "to") == {
        name: data for name, data in files_in(model).items() if not name.endswith(".safetensors")
    }
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(listed)
        assert len(dict(streamer.get_tensors())) == 9


def test_credentials_that_are_given(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3Credentials come before the environment, in listings, pulls and streams, and no text shows them."""
    from runai_model_streamer import SafetensorsStreamer, list_safetensors, pull_files
    from runai_model_streamer_s3.credentials.credentials import S3Credentials

    given = S3Credentials(
        access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
        secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        region_name=os.environ["AWS_REGION"],
        endpoint=os.environ["AWS_ENDPOINT_URL"],
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    listed = list_safetensors(store, given)
    pull_files(store, str(tmp_path / "to"), ["*.json"], None, given)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(listed, given)
        assert len(dict(streamer.get_tensors())) == 9
    assert files_in(tmp_path / "to").keys() == {"config.json", "sub/tokenizer.json"}
    given.secret_access_key = "wrong-secret-of-somebody"
    with pytest.raises(slipstream.AccessDeniedError) as caught:
        list_safetensors(store, given)
    assert "wrong-secret" not in str(caught.value)


def test_a_public_bucket(store: str, seaweedfs: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """RUNAI_STREAMER_S3_UNSIGNED asks without credentials, which otherwise lack."""
    from runai_model_streamer import SafetensorsStreamer, list_safetensors
    from slipstream.testing.seaweedfs import SeaweedFS

    assert isinstance(seaweedfs, SeaweedFS)
    seaweedfs.create_bucket("public-drop-in")
    seaweedfs.make_public("public-drop-in")
    seaweedfs.upload((b"\x02\0\0\0\0\0\0\0{}"), "public-drop-in", "m/a.safetensors")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(slipstream.AccessDeniedError):
        list_safetensors("s3://public-drop-in/m")
    monkeypatch.setenv("RUNAI_STREAMER_S3_UNSIGNED", "1")
    listed = list_safetensors("s3://public-drop-in/m")
    assert listed == ["s3://public-drop-in/m/a.safetensors"]
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(listed)
        assert list(streamer.get_tensors()) == []


@pytest.mark.parametrize("key", ["m/../up.json", "m/deep/../../up.json", "m//up.json", "m/..\\up.json"])
def test_hostile_keys(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that leads out of the directory is a ValueError, and nothing is written anywhere."""
    from runai_model_streamer import pull_files

    entry = f"<Contents><Key>{key}</Key><Size>2</Size><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
    listing = f"<ListBucketResult><IsTruncated>false</IsTruncated>{entry}</ListBucketResult>".encode()
    (tmp_path / "a" / "b").mkdir(parents=True)

    def answer(method: str, path: str) -> Said:
        if "list-type" in path:
            return Said(200, listing)
        return Said(206, b"{}", {"ETag": '"e"', "Content-Range": "bytes 0-1/2"})

    with ScriptedServer(answer) as server:
        monkeypatch.setenv("RUNAI_STREAMER_S3_ENDPOINT", server.url)
        monkeypatch.setenv("RUNAI_STREAMER_S3_UNSIGNED", "1")
        with pytest.raises(slipstream.SlipstreamError):
            pull_files("s3://bucket/m/", str(tmp_path / "a" / "b" / "to"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_nothing_under_a_prefix_is_logged(store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is no error to the original, so the log says which prefix is empty, and what is beside it."""
    from runai_model_streamer import list_safetensors, pull_files

    with caplog.at_level("WARNING", logger="runai_model_streamer"):
        assert list_safetensors(f"{store.rstrip('/')}x") == []
        pull_files(f"{store.rstrip('/')}x", str(tmp_path / "to"))
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert all("models/llamax" in record.getMessage() for record in caplog.records)


def test_files_module_that_a_test_replaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs replace `s3_utils.get_s3_files_module` in their tests, and listings go through it."""
    from runai_model_streamer import list_safetensors
    from runai_model_streamer.s3_utils import s3_utils

    class Files:
        def glob(self, path: str, allow_pattern: object, credentials: object) -> list[str]:
            return [f"{path}replaced"]

    monkeypatch.setattr(s3_utils, "get_s3_files_module", Files)
    assert list_safetensors("s3://bucket/m/") == ["s3://bucket/m/replaced"]
    monkeypatch.setattr(s3_utils, "get_s3_files_module", lambda: None)
    with pytest.raises(ImportError, match="S3 files module"):
        list_safetensors("s3://bucket/m/")


def test_as_sglang_calls_it(store: str, model: Path, tmp_path: Path) -> None:
    """Made without a `with`, patterns by position, left by __exit__; then listed and streamed, and not cloned."""
    from runai_model_streamer import ObjectStorageModel, SafetensorsStreamer, list_safetensors

    for _ in range(2):
        made = ObjectStorageModel(model_path=store.rstrip("/"), dst=str(tmp_path / "cache"))
        made.pull_files(None, ["*.pt", "*.safetensors", "*.bin", "*.tensors", "*.pth"])
        made.__exit__(None, None, None)
        assert files_in(tmp_path / "cache").keys() == {"config.json", "sub/tokenizer.json", ".runai_complete"}
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(list_safetensors(store.rstrip("/")), device="cpu", is_distributed=False)
        total = sum(len(tensors) for tensors in streamer.files_to_tensors_metadata.values())
        kept = dict(streamer.get_tensors())
    assert len(kept) == total == 9
    expected = {name: tensor for path in model.glob("*.safetensors") for name, tensor in load_file(path).items()}
    assert all(torch.equal(kept[name], tensor) for name, tensor in expected.items())


def test_one_process_pulls_and_the_others_wait(store: str, model: Path, tmp_path: Path) -> None:
    """Four at once: one pulls, three find all there; the lock is free in the end."""
    to = tmp_path / "cache" / "m"
    to.parent.mkdir()
    with (
        other_process(store, to, "wait") as first,
        other_process(store, to) as second,
        other_process(store, to) as third,
        other_process(store, to) as fourth,
    ):
        children = [first, second, third, fourth]
        assert [hear(child) for child in children] == ["waiting"] * 4
        assert first.stdin is not None
        first.stdin.write("\n")  # whether it was the first to come or not
        first.stdin.close()
        said = [(hear(child), hear(child)) for child in children]
        assert [child.wait(60) for child in children] == [0] * 4
    assert [words[0] for words in said] == ["holding"] * 4
    assert sorted(json.loads(words[1])["skipped"] for words in said) == [False, True, True, True]
    assert files_in(to) == files_in(model) | {".runai_complete": b""}
    assert is_free(to.parent / "m.lock")


def test_a_process_that_is_killed_blocks_nobody(store: str, model: Path, tmp_path: Path) -> None:
    """The next one empties the directory and pulls anew."""
    to = tmp_path / "m"
    with other_process(store, to, "wait") as killed:
        assert [hear(killed), hear(killed)] == ["waiting", "holding"]
        (to / "half.bin").write_bytes(b"half")
        with other_process(store, to) as next_one:
            assert hear(next_one) == "waiting"
            assert not is_free(tmp_path / "m.lock")
            killed.send_signal(signal.SIGKILL)
            assert hear(next_one) == "holding"
            assert json.loads(hear(next_one)) == {"skipped": False}
    assert files_in(to) == files_in(model) | {".runai_complete": b""}


def test_a_failure_leaves_no_mark_and_no_lock(store: str, model: Path, tmp_path: Path) -> None:
    """Whatever fails inside the block; the next try pulls anew."""
    from runai_model_streamer import ObjectStorageModel

    to = tmp_path / "m"
    with pytest.raises(KeyError), ObjectStorageModel(store, str(to)) as made:  # noqa: PT012, the block is what fails
        made.pull_files(["*.json"])
        raise KeyError
    assert files_in(to).keys() == {"config.json", "sub/tokenizer.json"}
    assert is_free(tmp_path / "m.lock")
    (to / "stale.bin").write_bytes(b"stale")
    with ObjectStorageModel(store, str(to)) as made:
        made.pull_files()
        assert not (to / ".runai_complete").exists()
    assert files_in(to) == files_in(model) | {".runai_complete": b""}


def test_nothing_pulled_is_an_error(store: str, tmp_path: Path) -> None:
    """No mark, no lock, and the text says what to check."""
    from runai_model_streamer import ObjectStorageModel

    with (
        pytest.raises(RuntimeError, match="check the model's path"),
        ObjectStorageModel(f"{store}missing", str(tmp_path / "m")) as made,
    ):
        made.pull_files()
    assert files_in(tmp_path / "m") == {}
    assert is_free(tmp_path / "m.lock")


def test_a_model_that_is_forgotten_lets_go(store: str, tmp_path: Path) -> None:
    """Without a `with` block too."""
    from runai_model_streamer import ObjectStorageModel

    made = ObjectStorageModel(store, str(tmp_path / "m"))
    assert not is_free(tmp_path / "m.lock")
    del made
    assert is_free(tmp_path / "m.lock")


def test_a_local_path_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """As in the original, by ValueError."""
    from runai_model_streamer import ObjectStorageModel

    with pytest.raises(ValueError, match="s3://, gs:// or az://"):
        ObjectStorageModel(str(tmp_path), str(tmp_path / "m"))
    assert list(tmp_path.iterdir()) == []
