"""The environment variables of the original, in slipstream's words."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import slipstream
from slipstream import Options, UsageError
from tests.compat.runai.drop_in import child_environment

LARGEST = 777


def stream_options(*, remote: bool = False, memory_limit: int | None = None) -> Options:
    from runai_model_streamer.settings import read_stream_options

    return read_stream_options(remote=remote, memory_limit=memory_limit, find_largest=lambda: LARGEST)


@pytest.mark.parametrize(
    ("variables", "remote", "name", "value"),
    [
        ({}, False, "concurrency", "auto"),
        ({"CONCURRENCY": "4"}, False, "concurrency", 4),
        ({"CONCURRENCY": "4"}, True, "concurrency", 4),
        ({"CONCURRENCY": "4", "OBJ_CONCURRENCY": "9"}, True, "concurrency", 9),
        ({"CONCURRENCY": "4", "OBJ_CONCURRENCY": "9"}, False, "concurrency", 4),
        ({"CONCURRENCY": "5000"}, False, "concurrency", 1024),
        ({"FS_QUEUE_DEPTH": "512,nfs=64"}, False, "concurrency", "auto"),
        ({}, False, "chunk_bytes", 8 << 20),
        ({"CHUNK_BYTESIZE": str(16 << 20)}, False, "chunk_bytes", 16 << 20),
        ({"CHUNK_BYTESIZE": "4096"}, False, "chunk_bytes", 2 << 20),
        ({"CHUNK_BYTESIZE": "4096"}, True, "chunk_bytes", 5 << 20),
        ({"FS_CHUNK_BYTESIZE": str(32 << 20)}, False, "chunk_bytes", 32 << 20),
        ({"FS_CHUNK_BYTESIZE": str(32 << 20)}, True, "chunk_bytes", 8 << 20),
        ({}, False, "memory_limit", 40_000_000_000),
        ({"MEMORY_LIMIT": "-1"}, False, "memory_limit", None),
        ({"MEMORY_LIMIT": "0"}, False, "memory_limit", LARGEST),
        ({"MEMORY_LIMIT": " 5000 "}, False, "memory_limit", 5000),
        ({}, False, "count_held", False),
        ({"S3_MAX_RETRIES": "3"}, True, "attempts", 4),
        ({"S3_MAX_RETRIES": "0"}, True, "attempts", 6),
        ({"S3_MAX_RETRIES": "500"}, True, "attempts", 100),
    ],
)
def test_options(
    variables: dict[str, str], remote: bool, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each variable that has a counterpart reaches it; those of the other kind of storage do not."""
    for variable, text in variables.items():
        monkeypatch.setenv(f"RUNAI_STREAMER_{variable}", text)
    assert getattr(stream_options(remote=remote), name) == value


def test_an_argument_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """FileStreamer's memory_limit, before RUNAI_STREAMER_MEMORY_LIMIT, before SLIPSTREAM_MEMORY_LIMIT, before 40 GB."""
    monkeypatch.setenv("SLIPSTREAM_MEMORY_LIMIT", "3000")
    assert stream_options().memory_limit == 3000
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "2000")
    assert stream_options().memory_limit == 2000
    assert stream_options(memory_limit=1000).memory_limit == 1000
    assert stream_options(memory_limit=-1).memory_limit is None


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("CONCURRENCY", "many"),
        ("CONCURRENCY", "0"),
        ("OBJ_CONCURRENCY", ""),
        ("CHUNK_BYTESIZE", "8MiB"),
        ("MEMORY_LIMIT", "1e9"),
        ("MEMORY_LIMIT", "-2"),
    ],
)
def test_values_that_cannot_work(variable: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Are a ValueError that says which, before anything is read."""
    monkeypatch.setenv(f"RUNAI_STREAMER_{variable}", text)
    with pytest.raises(UsageError, match=r"(?i)CONCURRENCY|CHUNK_BYTE|MEMORY_LIMIT"):
        stream_options(remote=True)


@pytest.mark.parametrize(
    ("variables", "scheme", "name", "value"),
    [
        ({"RUNAI_STREAMER_S3_ENDPOINT": "http://here:9000"}, "s3", "endpoint", "http://here:9000"),
        ({"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0"}, "s3", "virtual_hosted_style", False),
        ({"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "1"}, "s3", "virtual_hosted_style", True),
        ({}, "s3", "virtual_hosted_style", None),
        ({"RUNAI_STREAMER_S3_UNSIGNED": "1"}, "s3", "anonymous", True),
        ({"RUNAI_STREAMER_S3_UNSIGNED": "0"}, "s3", "anonymous", None),
        ({"RUNAI_STREAMER_GCS_CREDENTIAL_FILE": "/g.json"}, "gs", "service_account", "/g.json"),
        (
            {"AZURE_STORAGE_ACCOUNT_NAME": "acc", "AZURE_STORAGE_ENDPOINT_SUFFIX": "blob.core.chinacloudapi.cn"},
            "az",
            "endpoint",
            "https://acc.blob.core.chinacloudapi.cn",
        ),
        ({"AZURE_STORAGE_ENDPOINT_SUFFIX": "blob.core.chinacloudapi.cn"}, "az", "endpoint", None),
    ],
)
def test_storage_options(
    variables: dict[str, str], scheme: str, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How stores are reached, each by its own variables."""
    from runai_model_streamer.settings import read_storage_options

    for variable, text in variables.items():
        monkeypatch.setenv(variable, text)
    assert read_storage_options()[scheme][name] == value


def test_slipstream_knows_every_storage_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """All of them together are accepted by each kind of store."""
    from runai_model_streamer.s3_utils.s3_utils import S3Credentials
    from runai_model_streamer.settings import read_storage_options

    given = read_storage_options(S3Credentials("key", "secret", "token", "eu-central-1", "http://127.0.0.1:1"))
    assert all(
        value is not None for name, value in given["s3"].items() if name not in ("virtual_hosted_style", "anonymous")
    )
    how = Options(attempts=1, connect_timeout_s=0.5)
    for scheme in ("s3", "gs", "az"):
        with pytest.raises(slipstream.SlipstreamError) as caught:
            slipstream.list_files(f"{scheme}://bucket/m/", options=how, storage_options=given)
        assert "storage_options has" not in str(caught.value)


def test_a_concurrency_of_one_is_obeyed(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the variable says is what the load does."""
    from runai_model_streamer.safetensors_streamer.loads import Load

    save_file({f"t{n}": torch.zeros(200_000) for n in range(20)}, tmp_path / "a.safetensors")
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "1")
    load = Load([str(tmp_path / "a.safetensors")], None, None)
    stream: Any = load.tensors
    assert len(list(stream)) == 20
    assert stream.stats().peak_concurrency == 1
    load.close()


@pytest.mark.parametrize(
    ("variables", "level", "handled"),
    [
        ({}, "INFO", False),
        ({"RUNAI_STREAMER_LOG_LEVEL": "debug"}, "DEBUG", False),
        ({"RUNAI_STREAMER_LOG_TO_STDERR": "1"}, "INFO", True),
    ],
)
def test_logging(variables: dict[str, str], level: str, handled: bool) -> None:
    """The logger has the level that is asked for, and writes to standard error by itself only where that is."""
    program = (
        "import logging, runai_model_streamer as r; logger = logging.getLogger('runai_model_streamer'); "
        "logger.error('to be seen'); print(logging.getLevelName(logger.level), len(logger.handlers))"
    )
    command = [sys.executable, "-P", "-c", program]
    ran = subprocess.run(command, env=child_environment(**variables), capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [level, str(int(handled))]
    assert ran.stderr.count("to be seen") == 1
    assert ("[ERROR]" in ran.stderr) is handled
    assert logging.getLogger("runai_model_streamer").propagate
