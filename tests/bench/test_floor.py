"""The raw limits of a place, by its path or URI: measured, and nothing of it left there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from slipstream.bench.floor import DISK_WAYS, STORE_WAYS, measure_floor
from slipstream.bench.models import Model
from slipstream.errors import BlobNotFoundError, UsageError
from slipstream.testing.nginx import Nginx
from slipstream.testing.process_watch import see_descriptors, wait_for
from slipstream.testing.seaweedfs import SeaweedFS
from slipstream.testing.uploading import upload_checkpoint
from tests.bench.volumes import model as model
from tests.bench.volumes import volume as volume
from tests.cli.process import command, environment, run

BUCKET = "bench-floor"


def test_a_checkpoint_is_read_whole(model: Model) -> None:
    """Of a directory with a checkpoint every way reads all bytes, cold, as often as was asked."""
    descriptors = see_descriptors()
    floor = measure_floor(str(model.files[0].parent), repeats=2)
    assert floor.nbytes == sum(file.stat().st_size for file in model.files)
    assert len(floor.rows) == len(DISK_WAYS)
    assert all(len(row.seconds) == len(row.cpu_s) == 2 for row in floor.rows), floor.rows
    assert floor.best is not None
    assert floor.best.median_s == min(row.median_s or 0 for row in floor.rows)
    assert floor.mount is not None
    assert floor.mount["filesystem"]
    assert floor.iops
    assert see_descriptors() <= descriptors


def test_a_directory_without_a_checkpoint_gets_a_file(volume: Path) -> None:
    """A file is made there, read and removed."""
    folder = volume / "empty"
    folder.mkdir(exist_ok=True)
    floor = measure_floor(str(folder), repeats=1, scratch_bytes=3_000_001)
    assert floor.nbytes == 3_000_001
    assert all(row.seconds for row in floor.rows)
    assert list(folder.iterdir()) == []


def test_any_file_can_be_read(tmp_path: Path) -> None:
    """A file need not be of safetensors."""
    (tmp_path / "file").write_bytes(os.urandom(100_000))
    assert all(row.seconds for row in measure_floor(str(tmp_path / "file"), repeats=1).rows)


def test_no_room_for_the_file(volume: Path) -> None:
    """Where the file does not fit, the error says what to give instead, and nothing is left."""
    folder = volume / "full"
    folder.mkdir(exist_ok=True)
    with pytest.raises(UsageError, match="smaller --size"):
        measure_floor(str(folder), repeats=1, scratch_bytes=1 << 40)
    assert list(folder.iterdir()) == []


def test_a_place_that_is_not_there() -> None:
    """A path that does not exist is named."""
    with pytest.raises(BlobNotFoundError, match="/no/such/place"):
        measure_floor("/no/such/place")


def test_a_store_is_read_by_plain_ranges(seaweedfs: SeaweedFS) -> None:
    """Of a prefix with a checkpoint every receiver gets all bytes, with signed URLs that appear nowhere."""
    seaweedfs.create_bucket(BUCKET)
    uri = f"s3://{BUCKET}/tiny/"
    upload_checkpoint("llama-tiny", uri, layers=1, shards=2, storage_options=seaweedfs.storage_options, force=True)
    floor = measure_floor(uri, repeats=1, storage_options=seaweedfs.storage_options)
    assert floor.place == uri
    assert floor.nbytes > 3_500_000
    assert len(floor.rows) == len(STORE_WAYS)
    assert all(row.seconds for row in floor.rows), floor.rows
    assert floor.iops is None
    assert "X-Amz" not in repr(floor)


def test_a_url_is_read_by_plain_ranges(nginx: Nginx, model: Model) -> None:
    """A plain URL of a safetensors file needs no signature."""
    nginx.create_bucket(BUCKET)
    nginx.upload(model.files[0], BUCKET, "model.safetensors")
    floor = measure_floor(nginx.url(f"{BUCKET}/model.safetensors"), repeats=1)
    assert all(row.seconds for row in floor.rows), floor.rows


def test_a_missing_program_is_the_reason(nginx: Nginx, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without curl there are no figures, and each row says why."""
    nginx.create_bucket(BUCKET)
    nginx.upload(model.files[0], BUCKET, "model.safetensors")
    monkeypatch.setenv("PATH", "/no/such/folder")
    floor = measure_floor(nginx.url(f"{BUCKET}/model.safetensors"), repeats=1)
    assert floor.best is None
    assert all("curl" in row.reason and not row.seconds for row in floor.rows)


def test_the_table(model: Model) -> None:
    """The command prints a line for each way, and which is the floor."""
    done = run("bench", "floor", model.files[0], "--repeats", "1", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("direct, 8 threads", "populate, 1 threads", "GB/s", "* the floor", "4 KiB reads"):
        assert words in done.stdout


def test_json(model: Model) -> None:
    """With --json there is one object on stdout, with every sample."""
    done = run("bench", "floor", model.files[0], "--repeats", "2", "--quiet", "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["nbytes"] == model.files[0].stat().st_size
    assert [len(row["seconds"]) for row in found["rows"]] == [2] * len(DISK_WAYS)


def test_nothing_readable_is_the_exit_code() -> None:
    """A place of which nothing could be read is exit code 1 or 2, with one paragraph."""
    done = run("bench", "floor", "http://127.0.0.1:1/model.safetensors", "--quiet")
    assert done.returncode == 1
    assert "could not be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupted_measurement_removes_its_file(tmp_path: Path) -> None:
    """Ctrl-C: the file that was made is gone."""
    with subprocess.Popen(
        command("bench", "floor", tmp_path, "--size", "20MB", "--repeats", "1000"),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        wait_for(lambda: bool(list(tmp_path.iterdir())), "no file was made")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []
