"""Starts of vLLM: what is measured, how failures are told, and that nothing of it is left, however it ends.

A stand-in takes vLLM's place: a real server in an interpreter of its own, which fails on command (`fake_vllm`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from slipstream.bench.errors import SampleError
from slipstream.bench.models import Model, find_model
from slipstream.bench.sample_process import SampleProcess
from slipstream.bench.storages.base import Counters
from slipstream.bench.vllm import keeper
from slipstream.bench.vllm.served import Served
from slipstream.bench.vllm.start import StartRequest, make_environment, measure_start
from slipstream.testing.process_watch import wait_for
from slipstream.testing.synthetic import write_checkpoint
from tests.bench.fake_engine import make_engine, serve

SECRET = "a-secret-access-key"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the stand-in."""
    return make_engine(tmp_path_factory.mktemp("engine") / "venv")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A checkpoint without a tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    write_checkpoint("llama-tiny", folder, layers=1, shards=2)
    return find_model(str(folder), tmp_path_factory.mktemp("cache"))


@pytest.fixture
def served(model: Model, python: Path) -> Served:
    return serve(model, python)


@pytest.fixture
def request_(served: Served) -> StartRequest:
    """A start by the default loader, from where the model lies."""
    return served.start_request("safetensors", served.where_it_lies())


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No test leaves a process, a descriptor or a folder."""

    def seen() -> tuple[set[str], ...]:
        return _children(), set(os.listdir("/proc/self/fd")), _folders(os.getpid())

    before = seen()
    yield
    assert all(after <= earlier for after, earlier in zip(seen(), before, strict=True))


def _folders(pid: int) -> set[str]:
    """The folders of starts of that process."""
    return {
        str(entry) for top in {tempfile.gettempdir(), "/tmp"} for entry in Path(top).glob(f"slipstream-vllm-{pid}-*")
    }


def _children() -> set[str]:
    return {
        child
        for thread in os.listdir("/proc/self/task")
        for child in Path(f"/proc/self/task/{thread}/children").read_text().split()
    }


@pytest.fixture
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file where the server says which its processes are, once they run."""
    path = tmp_path / "pids.json"
    monkeypatch.setenv("FAKE_PIDS", str(path))
    return path


def _read_pids(path: Path) -> list[int]:
    wait_for(path.exists, "the server did not come up")
    found: list[int] = json.loads(path.read_text())
    return found


def _gone(pid: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return True
    return fields[0] in "ZX"  # what is left of it in a machine whose process 1 does not wait for orphans


def test_health_comes_before_the_first_token_and_the_weights_within_health(request_: StartRequest) -> None:
    started = measure_start(request_)
    assert started.weights.seconds is not None
    assert 0 < started.weights.seconds < started.health_s < started.first_token_s


def test_the_weights_are_timed_by_a_plugin_of_our_own_in_the_servers_process(request_: StartRequest) -> None:
    weights = measure_start(request_).weights
    assert weights.source == "timed around the loader's load_weights"
    assert weights.reported["timed_load_model_s"] >= weights.reported["timed_load_weights_s"]


def test_a_list_of_allowed_plugins_lets_ours_pass(request_: StartRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "another")
    placed = replace(request_.placed, environment={"FAKE_MODE": ""})
    allowed = make_environment(replace(request_, placed=placed), Path("/nowhere"))["VLLM_PLUGINS"]
    assert allowed.split(",") == ["another", "slipstream_bench_timer"]


def test_the_server_finds_every_weight_of_the_model(request_: StartRequest, model: Model) -> None:
    digest = sha256(b"".join(file.read_bytes() for file in model.files)).hexdigest()[:16]
    assert measure_start(request_).answer == f"{digest} 8"


def test_prepare_is_called_with_the_process_that_starts_the_server_before_it_does(
    request_: StartRequest, pids: Path
) -> None:
    seen: list[tuple[int, bool]] = []
    measure_start(request_, lambda pid: seen.append((os.getpgid(pid), pids.exists())))
    ((group, was_up),) = seen
    assert not was_up
    assert pids.exists()
    assert group != os.getpgid(0)  # Ctrl-C in the terminal is for the benchmark


def test_counters_are_read_before_the_start_and_after_the_answers(request_: StartRequest) -> None:
    counted = iter([Counters(device_read_bytes=5), Counters(device_read_bytes=12)])
    assert measure_start(request_, counters=lambda: next(counted)).counters == (
        Counters(device_read_bytes=5),
        Counters(device_read_bytes=12),
    )


def test_what_prepare_raises_ends_the_sample(request_: StartRequest, pids: Path) -> None:
    def refuse(pid: int) -> None:
        raise SampleError("the file is still cached")

    with pytest.raises(SampleError, match="still cached"):
        measure_start(request_, refuse)
    assert not pids.exists()


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("crash", "ended with exit code 1 before /health answered; ValueError: it was told to crash"),
        ("refuse", "a request for a token got 500; .*refused, as told"),
        ("dead", "no token came; the engine is dead"),
        ("dies", "ended with exit code 3 while it answered the first request"),
    ],
)
def test_a_failure_says_what_happened_and_where_the_log_is(
    request_: StartRequest, monkeypatch: pytest.MonkeyPatch, mode: str, reason: str
) -> None:
    monkeypatch.setenv("FAKE_MODE", mode)
    with pytest.raises(SampleError, match=f"vLLM with load format auto: .*{reason}") as raised:
        measure_start(request_)
    kept = request_.cache / "logs" / "auto.log"
    assert str(kept) in str(raised.value)
    assert "non-default args" in kept.read_text()


def test_neither_the_reason_nor_the_kept_log_has_a_secret(
    request_: StartRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_MODE", "crash")
    placed = replace(request_.placed, environment={"AWS_SECRET_ACCESS_KEY": SECRET})
    with pytest.raises(SampleError) as raised:
        measure_start(replace(request_, placed=placed))
    log = (request_.cache / "logs" / "auto.log").read_text()
    assert "the secret is (redacted)" in log
    assert SECRET not in str(raised.value)


def test_a_store_of_the_storages_own_hides_the_users(request_: StartRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "mine")
    own = replace(request_.placed, environment={"AWS_ENDPOINT_URL": "http://127.0.0.1:1"})
    assert make_environment(request_, Path("/nowhere"))["AWS_PROFILE"] == "mine"
    assert "AWS_PROFILE" not in make_environment(replace(request_, placed=own), Path("/nowhere"))


def test_an_interpreter_that_is_gone_is_a_failure_of_the_sample(request_: StartRequest) -> None:
    nowhere = replace(request_.engine, python=Path("/nowhere/python"))
    with pytest.raises(SampleError, match="/nowhere/python cannot be started: No such file"):
        measure_start(replace(request_, engine=nowhere))


@pytest.mark.parametrize(("mode", "timeout"), [("hang", "health_timeout_s"), ("silent", "token_timeout_s")])
def test_a_server_that_takes_too_long_is_ended_with_all_that_it_started(
    request_: StartRequest, monkeypatch: pytest.MonkeyPatch, pids: Path, mode: str, timeout: str
) -> None:
    monkeypatch.setenv("FAKE_MODE", mode)
    hasty = replace(request_, health_timeout_s=5.0, token_timeout_s=0.2)
    with pytest.raises(SampleError, match="did not answer within 5 s" if mode == "hang" else "TimeoutError"):
        measure_start(hasty)
    assert all(map(_gone, _read_pids(pids)))


def test_after_a_good_sample_no_process_is_left_not_even_an_orphan_in_a_session_of_its_own(
    request_: StartRequest, pids: Path
) -> None:
    measure_start(request_)
    found = _read_pids(pids)
    assert len(found) == 3
    assert all(map(_gone, found))


def test_a_server_that_is_deaf_to_sigterm_is_killed(
    request_: StartRequest, monkeypatch: pytest.MonkeyPatch, pids: Path
) -> None:
    monkeypatch.setenv("FAKE_MODE", "deaf")
    measure_start(replace(request_, grace_s=0.1))
    assert all(map(_gone, _read_pids(pids)))


def _start_owner(served: Served) -> subprocess.Popen[bytes]:
    """A process that is in the middle of a sample: its server takes a request and does not answer."""
    arguments = [str(served.engine.python), str(served.model.files[0].parent), str(served.model.cache)]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "tests.bench.fake_engine", *arguments],
        env={**os.environ, "FAKE_MODE": "silent", "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_benchmark_that_is_ended_leaves_no_server(served: Served, pids: Path, number: signal.Signals) -> None:
    with _start_owner(served) as owner:
        found = _read_pids(pids)
        assert _folders(owner.pid)
        owner.send_signal(number)
        _, said = owner.communicate()
    assert (b"KeyboardInterrupt" in said) == (number == signal.SIGINT)
    for pid in found:
        wait_for(lambda pid=pid: _gone(pid), f"process {pid} outlives the benchmark")  # type: ignore[misc]
    wait_for(lambda: not _folders(owner.pid), "the start's folder is left")


def _keep(request_: StartRequest, folder: Path) -> tuple[SampleProcess, dict[str, Any]]:
    """A keeper that has its job, as `measure_start` makes it, and has not been told to go."""
    command = [sys.executable, "-I", "-S", keeper.__file__]
    process = SampleProcess(command, {"PATH": os.defpath}, name="the keeper")
    job: dict[str, Any] = {
        "command": [str(request_.engine.python), "-m", "vllm.entrypoints.openai.api_server"],
        "environment": dict(os.environ),
        "root": str(folder),
        "folder": str(folder),
        "log": str(folder / "log"),
        "model": "any",
        "prompt": "any",
        "tokens": 8,
        "health_timeout_s": 60.0,
        "token_timeout_s": 60.0,
        "grace_s": 20.0,
        "parent": os.getpid(),
    }
    job["command"] += ["--model", str(folder), "--port", "{port}", "--host", "127.0.0.1", "--load-format", "auto"]
    return process, job


def test_the_keeper_says_that_nothing_is_left_and_that_the_port_is_closed(
    request_: StartRequest, tmp_path: Path
) -> None:
    process, job = _keep(request_, tmp_path)
    with process:
        process.ask(job, "ready", timeout_s=60)
        assert process.ask("go", "measured", timeout_s=60)["reason"] == ""
        ended = process.ask("end", "ended", timeout_s=60)
    assert ended["left"] == []
    port = int((tmp_path / "log").read_text().partition("'port': ")[2].partition(",")[0].rstrip("}\n"))
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_the_keeper_does_not_start_for_a_parent_that_has_gone(request_: StartRequest, tmp_path: Path) -> None:
    process, job = _keep(request_, tmp_path)
    with process, pytest.raises(SampleError, match="ended with exit code 0"):
        process.ask({**job, "parent": 1}, "ready", timeout_s=60)
    assert not tmp_path.exists()  # nor does it leave that one's folder


def test_a_server_does_not_outlive_a_keeper_that_was_killed_alone(
    request_: StartRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = tmp_path / "pids.json"
    process, job = _keep(request_, tmp_path)
    job["environment"] |= {"FAKE_PIDS": str(pids), "FAKE_MODE": "silent"}
    with process:
        process.ask(job, "ready", timeout_s=60)
        os.write(process._input.fileno(), b"go\n")
        server, child, orphan = _read_pids(pids)
        os.kill(process.pid, signal.SIGKILL)
        wait_for(lambda: _gone(server), "the server outlives its keeper")
        for pid in (child, orphan):  # as vLLM's engine does by itself, when its API server has gone
            os.kill(pid, signal.SIGKILL)
