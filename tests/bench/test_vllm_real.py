"""Experiment 4 with the real vLLM, in the environment that `make vllm-env` makes. A start takes 10 to 40 s."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slipstream.bench.contenders import schemes_of
from slipstream.bench.errors import BenchError
from slipstream.bench.models import Model, find_model
from slipstream.bench.sampling import SampleResult
from slipstream.bench.storages.base import Storage
from slipstream.bench.storages.directory import DirectoryStorage
from slipstream.bench.storages.embedded_s3 import EmbeddedS3
from slipstream.bench.vllm.plan import VllmPlan
from slipstream.bench.vllm.sample import VllmSampleRequest, take_vllm_sample
from slipstream.bench.vllm.side_files import make_tokenizer
from slipstream.testing import seaweedfs
from slipstream.testing.process_watch import wait_for

ENVIRONMENT = Path(os.environ.get("TEST_VLLM_ENV", Path(__file__).parents[2] / ".venv" / "vllm"))
PYTHON = ENVIRONMENT / "bin" / "python"
ENGINE_UP_S = 180.0

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not (ENVIRONMENT / ".installed").exists(), reason="there is no environment with vLLM: make vllm-env (3.5 GB)"
    ),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return find_model("llama-tiny", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def plan(model: Model) -> VllmPlan:
    return VllmPlan(model, PYTHON)


def sample(plan: VllmPlan, model: Model, storage: Storage, contender: str) -> SampleResult:
    """One sample, from a storage that is made and undone for it."""
    with storage:
        storage.place(model, lambda *told: None)
        placed = storage.begin(0)
        assert plan.why_not(contender, schemes=schemes_of(placed.uris), destination="cpu") == ""
        request = VllmSampleRequest(plan=plan, contender=contender, placed=placed)
        return take_vllm_sample(request, storage.prepare, storage.counters)


def test_the_tokenizer_that_is_made_says_what_it_was_told() -> None:
    """As the tokenizers library of vLLM's environment reads it."""
    tokenizer = json.dumps(make_tokenizer({"vocab_size": 512, "bos_token_id": 0})["tokenizer.json"])
    program = (
        "import sys; from tokenizers import Tokenizer; made = Tokenizer.from_str(sys.stdin.readline()); "
        "text = 'The capital of France is: \\u00e9'; sys.exit(made.decode(made.encode(text).ids) != text)"
    )
    subprocess.run([str(PYTHON), "-c", program], input=tokenizer, text=True, check=True)


def test_the_default_loader_from_cold_files(plan: VllmPlan, model: Model) -> None:
    result = sample(plan, model, DirectoryStorage("disk"), "safetensors")
    figures, reported = result.figures, result.notes["vllm reported"]
    assert result.verified
    assert result.notes["cached_before_bytes"] == 0
    assert figures.health_s is not None
    assert figures.first_token_s is not None
    assert figures.weights_s is not None
    assert figures.weights_s < figures.health_s < figures.first_token_s
    # vLLM's own clock starts a little later than ours, and is rounded.
    assert reported["loading_weights_s"] <= figures.weights_s + 0.01


def test_the_streamer_from_cold_files(plan: VllmPlan, model: Model) -> None:
    result = sample(plan, model, DirectoryStorage("disk"), "runai")
    assert result.verified
    assert result.notes["cached_before_bytes"] == 0
    assert result.figures.weights_s is not None


def test_the_streamer_from_s3(plan: VllmPlan, model: Model) -> None:
    if (reason := seaweedfs.why_unavailable()) is not None:
        pytest.skip(reason)
    result = sample(plan, model, EmbeddedS3("s3", model.cache), "runai")
    assert result.verified
    assert (result.figures.network_received_bytes or 0) >= model.nbytes
    assert result.figures.page_cache_growth_bytes is None


def test_tensorizer_serves_no_copy_on_a_cpu_and_the_reason_is_what_was_tried(plan: VllmPlan) -> None:
    with pytest.raises(BenchError) as raised:
        plan.tensorizer_copy()
    assert "so most weights are not in it" in str(raised.value)
    assert "AttributeError: 'QKVParallelLinear' object has no attribute 'cpu_linear'" in str(raised.value)
    assert plan.why_not("tensorizer", schemes=frozenset({"file"}), destination="cpu") == str(raised.value)


def test_slipstream_is_measured_where_its_load_format_is_and_else_says_that_it_is_not(
    plan: VllmPlan, model: Model
) -> None:
    if "slipstream" in plan.served.engine.formats:
        assert sample(plan, model, DirectoryStorage("disk"), "slipstream").verified
    else:
        reason = plan.why_not("slipstream", schemes=frozenset({"file"}), destination="cpu")
        assert "no entry point of the group vllm.general_plugins registers it" in reason


def _processes() -> dict[int, tuple[int, str]]:
    """Parent and command of all processes that have not ended."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            if fields[0] not in "ZX":
                found[int(entry.name)] = (int(fields[1]), command)
    return found


def _below(root: int) -> dict[int, str]:
    """The processes that one and its descendants started."""
    processes = _processes()
    found, waiting = dict[int, str](), [root]
    while waiting:
        above = waiting.pop()
        new = {pid: command for pid, (parent, command) in processes.items() if parent == above}
        found |= new
        waiting += new
    return found


def _shared_memory() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if name.startswith("psm_")}


def test_a_benchmark_that_is_killed_leaves_no_engine_and_no_shared_memory(model: Model, tmp_path: Path) -> None:
    before = _shared_memory()
    arguments = [str(PYTHON), str(model.files[0].parent), str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "tests.bench.fake_engine", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    ) as owner:
        deadline = time.monotonic() + ENGINE_UP_S
        while not any("VLLM::Worker" in command for command in _below(owner.pid).values()):
            assert owner.poll() is None, "the benchmark ended by itself"
            assert time.monotonic() < deadline, "no engine came up"
            time.sleep(0.05)
        started = _below(owner.pid)
        owner.send_signal(signal.SIGKILL)
    assert len(started) >= 4  # the keeper, the API server, its engine, its worker
    wait_for(lambda: not started.keys() & _processes().keys(), f"of {started} some outlive the benchmark")
    assert _shared_memory() <= before
