"""The load format "slipstream" in the real vLLM, in the environment of `make vllm-env`. A start takes 10 to 30 s."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from slipstream.bench.vllm.side_files import make_tokenizer
from slipstream.testing.seaweedfs import SeaweedFS

PROGRAM = Path(__file__).with_name("vllm_program.py")
PYTHON = Path(os.environ.get("TEST_VLLM_ENV", Path(__file__).parents[2] / ".venv" / "vllm")) / "bin" / "python"
BUCKET = "vllm"
UP_S = 300.0
MODELS = ("llama", "tied", "moe")

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not (PYTHON.parents[1] / ".slipstream").exists(),
        reason="there is no environment with vLLM and slipstream: make vllm-env (3.5 GB)",
    ),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where vLLM keeps what it keeps."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Path:
    directory = tmp_path_factory.mktemp("models")
    subprocess.run([str(PYTHON), str(PROGRAM), "make", str(directory)], env=environment(home), check=True)
    for name in MODELS:
        for file, content in make_tokenizer(json.loads((directory / name / "config.json").read_text())).items():
            (directory / name / file).write_text(json.dumps(content))
        assert len([*(directory / name).glob("*.safetensors")]) > 1
    return directory


@pytest.fixture(scope="module")
def by_default(models: Path, home: Path) -> dict[str, list[list[int]]]:
    """The tokens of each model under vLLM's own loader, which differ from model to model."""
    found = {name: tokens({"model": str(models / name), "load_format": "auto"}, home)[0] for name in MODELS}
    assert len({json.dumps(each) for each in found.values()}) == len(MODELS)
    return found


@pytest.fixture(scope="module")
def store(seaweedfs: SeaweedFS, models: Path) -> SeaweedFS:
    seaweedfs.create_bucket(BUCKET)
    for file in models.glob("*/*"):
        seaweedfs.upload(file, BUCKET, f"{file.parent.name}/{file.name}")
    return seaweedfs


def environment(home: Path, store: SeaweedFS | None = None, without: Sequence[str] = ()) -> dict[str, str]:
    """What vLLM is started with: no network but the store, and no word of where slipstream's sources are.

    `without`: packages that are there as if they were not.
    """
    variables = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    variables |= {
        "HOME": str(home),
        "TMPDIR": "/tmp",
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # two ranks would want two NUMA nodes
    }
    if without:
        hiding = home / "hiding"
        hiding.mkdir(exist_ok=True)
        hidden = f"import sys\nsys.modules.update(dict.fromkeys({[*without]!r}))\n"
        (hiding / "sitecustomize.py").write_text(hidden)
        variables["PYTHONPATH"] = str(hiding)
    if store is not None:
        variables |= {
            "AWS_ENDPOINT_URL": store.endpoint,
            "AWS_ACCESS_KEY_ID": store.access_key_id,
            "AWS_SECRET_ACCESS_KEY": store.secret_access_key,
            "AWS_REGION": store.storage_options["region"],
        }
    return variables


def run(
    settings: Mapping[str, Any], home: Path, store: SeaweedFS | None = None, without: Sequence[str] = ()
) -> tuple[int, str, str]:
    """Loads a model in a process of its own: exit status, what it printed, its log."""
    ran = subprocess.run(
        [str(PYTHON), "-P", str(PROGRAM), "tokens", json.dumps(settings)],
        env=environment(home, store, without),
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stdout, ran.stdout + ran.stderr


def tokens(
    settings: Mapping[str, Any], home: Path, store: SeaweedFS | None = None, without: Sequence[str] = ()
) -> tuple[list[list[int]], str]:
    """The tokens, and the log."""
    status, printed, log = run(settings, home, store, without)
    assert status == 0, log[-4000:]
    (line,) = [line for line in printed.splitlines() if line.startswith("TOKENS ")]
    return json.loads(line.removeprefix("TOKENS ")), log


@pytest.mark.parametrize("name", MODELS)
def test_the_tokens_are_those_of_the_default_loader(
    name: str, models: Path, home: Path, by_default: dict[str, list[list[int]]]
) -> None:
    """From a local directory, and the log says what was loaded, how, and how fast."""
    found, log = tokens({"model": str(models / name), "load_format": "slipstream"}, home)
    assert found == by_default[name]
    assert re.search(r"slipstream: loaded 0\.\d+ GB in [\d.]+ s \([\d.]+ GB/s\), \d+ tensors of \d+ files, mapped", log)


@pytest.mark.parametrize("name", MODELS)
def test_the_tokens_are_those_of_the_default_loader_from_s3(
    name: str, store: SeaweedFS, home: Path, by_default: dict[str, list[list[int]]]
) -> None:
    """With config and weights from the store, and no directory of weights on this machine."""
    found, log = tokens({"model": f"s3://{BUCKET}/{name}", "load_format": "slipstream"}, home, store)
    assert found == by_default[name]
    assert "files, ranged" in log
    assert store.secret_access_key not in log
    assert not [*home.rglob("*.safetensors")]


def test_from_s3_without_another_package(
    store: SeaweedFS, tmp_path: Path, by_default: dict[str, list[list[int]]]
) -> None:
    """Where Run:ai's packages are not installed, config and tokenizer come by slipstream.pull."""
    missing = ("runai_model_streamer", "runai_model_streamer_s3")
    settings = {"model": f"s3://{BUCKET}/llama", "load_format": "slipstream"}
    found, log = tokens(settings, tmp_path, store, missing)
    assert found == by_default["llama"]
    assert [*tmp_path.rglob(".slipstream")]
    assert not [*tmp_path.rglob("*.safetensors")]
    assert store.secret_access_key not in log


def test_settings_reach_slipstream(
    models: Path, store: SeaweedFS, home: Path, by_default: dict[str, list[list[int]]]
) -> None:
    """Weights from elsewhere than the config, by storage options of their own, with a limit and a fixed concurrency."""
    extra = {
        "weights": f"s3://{BUCKET}/llama/",
        "storage_options": store.storage_options,
        "concurrency": 3,
        "memory_limit": 1 << 20,
    }
    only_config = home / "only-config"
    only_config.mkdir()
    for file in (models / "llama").glob("*.json"):
        if "index" not in file.name:
            (only_config / file.name).write_bytes(file.read_bytes())
    settings = {"model": str(only_config), "load_format": "slipstream", "model_loader_extra_config": extra}
    found, log = tokens(settings, home)
    assert found == by_default["llama"]
    assert "files, ranged" in log


@pytest.mark.parametrize("name", ["llama", "moe"])
def test_ranks_share(name: str, models: Path, store: SeaweedFS, home: Path) -> None:
    """Two ranks of tensor parallelism give the tokens of the default loader's two, and have each read a part."""
    ranks = {"tensor_parallel_size": 2}
    expected, _ = tokens({"model": str(models / name), "load_format": "auto", **ranks}, home)
    shared = {"load_format": "slipstream", "model_loader_extra_config": {"distributed": True}, **ranks}
    for model in (str(models / name), f"s3://{BUCKET}/{name}"):
        found, log = tokens({"model": model, **shared}, home, store)
        assert found == expected
        assert len(re.findall(r"of which this one of 2 ranks read 0\.\d+ GB", log)) == 2


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"concurency": 4}, "did you mean concurrency?"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"distributed": "yes"}, "distributed is 'yes'; it is true or false"),
        ({"storage_options": "endpoint=x"}, "storage_options is a JSON object"),
        ({"weights": ""}, "weights is ''"),
    ],
)
def test_settings_that_cannot_work_are_told(extra: dict[str, Any], said: str, models: Path, home: Path) -> None:
    """The engine does not start, and the reason is in its log."""
    settings = {"model": str(models / "llama"), "load_format": "slipstream", "model_loader_extra_config": extra}
    status, _, log = run(settings, home)
    assert status != 0
    assert said in log


def test_a_missing_shard_is_told(models: Path, home: Path, tmp_path: Path) -> None:
    """A directory whose index names a file that is not there does not serve a model with random weights."""
    for file in (models / "llama").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    missing = sorted(tmp_path.glob("*.safetensors"))[1]
    missing.unlink()
    status, _, log = run({"model": str(tmp_path), "load_format": "slipstream"}, home)
    assert status != 0
    assert "not initialized from checkpoint" in log or missing.name in log


def test_vllm_without_the_load_format_is_as_ever(
    store: SeaweedFS, home: Path, by_default: dict[str, list[list[int]]]
) -> None:
    """`runai_streamer` from S3 works beside slipstream, by Run:ai's own packages."""
    found, log = tokens({"model": f"s3://{BUCKET}/llama", "load_format": "runai_streamer"}, home, store)
    assert found == by_default["llama"]
    assert "slipstream: loaded" not in log


@pytest.fixture
def server(store: SeaweedFS, home: Path) -> Iterator[str]:
    """`vllm serve s3://... --load-format slipstream`, as users start it; its URL once it is up."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [str(PYTHON), "-P", "-m", "vllm.entrypoints.openai.api_server", "--model", f"s3://{BUCKET}/llama"]
    command += ["--load-format", "slipstream", "--port", str(port), "--host", "127.0.0.1", "--enforce-eager"]
    command += ["--dtype", "bfloat16", "--max-model-len", "64", "--max-num-seqs", "4", "--served-model-name", "tiny"]
    variables = environment(home, store)
    del variables["VLLM_ENABLE_V1_MULTIPROCESSING"]  # the engine in a process of its own
    log = home / "server.log"
    with log.open("wb") as written, subprocess.Popen(command, env=variables, stdout=written, stderr=written) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + UP_S
            while not _is_healthy(url, process, log):
                assert time.monotonic() < deadline, log.read_text()[-4000:]
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            process.wait(60)


def _is_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()[-4000:]
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_a_server_says_the_same(server: str, by_default: dict[str, list[list[int]]]) -> None:
    """Over HTTP, with the engine in another process than the one that read the arguments."""
    wanted = {"model": "tiny", "prompt": [1, 2, 3, 4, 5], "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    wanted |= {"return_token_ids": True}
    request = urllib.request.Request(
        f"{server}/v1/completions", json.dumps(wanted).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        (choice,) = json.load(answer)["choices"]
    assert choice["token_ids"] == by_default["llama"][0]
