"""vLLM as it is, unpatched, with `--load-format runai_streamer`, on the drop-in. A start takes 10 to 40 s."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from slipstream.bench.vllm.side_files import make_tokenizer
from slipstream.testing.seaweedfs import SeaweedFS
from tests.compat.runai.drop_in import DROP_IN, NAMES, ROOT, store_variables

PROGRAM = ROOT / "tests" / "integrations" / "vllm_program.py"
ENVIRONMENT = Path(os.environ.get("TEST_VLLM_ENV", ROOT / ".venv" / "vllm"))
PYTHON = ENVIRONMENT / "bin" / "python"
BUCKET = "drop-in-vllm"
UP_S = 300.0
LOGGED = "slipstream, as RunAI Streamer: streamed"

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not (ENVIRONMENT / ".installed").exists(), reason="there is no environment with vLLM: make vllm-env (3.5 GB)"
    ),
]


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder before vLLM's site-packages: the drop-in, slipstream, and what it requires if that lacks there."""
    folder = tmp_path_factory.mktemp("overlay")
    for name in NAMES:
        (folder / name).symlink_to(DROP_IN / name)
    (packages,) = (ENVIRONMENT / "lib").glob("python3.*/site-packages")
    for name in ("slipstream", "obstore", "ml_dtypes"):
        found = find_spec(name)
        assert found is not None
        assert found.origin is not None
        if name == "slipstream" or not (packages / name).exists():
            (folder / name).symlink_to(Path(found.origin).parent)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where vLLM keeps what it keeps."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Path:
    """A Llama, one with tied embeddings, and a mixture of experts, each in several shards."""
    folder = tmp_path_factory.mktemp("models")
    subprocess.run([str(PYTHON), str(PROGRAM), "make", str(folder)], env=variables(home), check=True)
    for model in folder.iterdir():
        for name, content in make_tokenizer(json.loads((model / "config.json").read_text())).items():
            (model / name).write_text(json.dumps(content))
        assert len([*model.glob("*.safetensors")]) > 1
    return folder


@pytest.fixture(scope="module")
def expected(models: Path, home: Path) -> dict[str, list[list[int]]]:
    """The tokens of each model under vLLM's own loader, which differ from model to model."""
    found = {
        model.name: load({"model": str(model), "load_format": "auto"}, variables(home))[0] for model in models.iterdir()
    }
    assert len({json.dumps(tokens) for tokens in found.values()}) == len(found) == 3
    return found


@pytest.fixture(scope="module")
def uri(seaweedfs: SeaweedFS, models: Path) -> str:
    """All models in a store."""
    seaweedfs.create_bucket(BUCKET)
    for path in models.glob("*/*"):
        seaweedfs.upload(path, BUCKET, f"{path.parent.name}/{path.name}")
    return f"s3://{BUCKET}"


def variables(home: Path, overlay: Path | None = None, store: SeaweedFS | None = None) -> dict[str, str]:
    """What vLLM is started with: no network but the store."""
    found = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    found |= {
        "HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "RUNAI_STREAMER_LOG_TO_STDERR": "1",
    }
    if overlay is not None:
        found["PYTHONPATH"] = str(overlay)
    return found if store is None else found | store_variables(store.storage_options)


def load(settings: Mapping[str, Any], environment: Mapping[str, str]) -> tuple[list[list[int]], str]:
    """Loads in a process of its own: the tokens, and the log."""
    ran = subprocess.run(
        [str(PYTHON), "-P", str(PROGRAM), "tokens", json.dumps(settings)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    log = ran.stdout + ran.stderr
    assert ran.returncode == 0, log[-4000:]
    (line,) = [line for line in ran.stdout.splitlines() if line.startswith("TOKENS ")]
    tokens: list[list[int]] = json.loads(line.removeprefix("TOKENS "))
    return tokens, log


@pytest.mark.parametrize("name", ["llama", "moe"])
def test_from_disk(name: str, models: Path, home: Path, overlay: Path, expected: dict[str, list[list[int]]]) -> None:
    """The tokens are those of the default loader, and it was slipstream that loaded."""
    tokens, log = load({"model": str(models / name), "load_format": "runai_streamer"}, variables(home, overlay))
    assert tokens == expected[name]
    assert LOGGED in log


def test_settings_of_vllm_reach_it(
    models: Path, home: Path, overlay: Path, expected: dict[str, list[list[int]]]
) -> None:
    """A limit for one tensor, one read at a time, and ranks that would share."""
    extra = {"concurrency": 1, "memory_limit": 0, "distributed": True}
    settings = {"model": str(models / "llama"), "load_format": "runai_streamer", "model_loader_extra_config": extra}
    tokens, log = load(settings, variables(home, overlay))
    assert tokens == expected["llama"]
    assert LOGGED in log


@pytest.mark.parametrize("name", ["llama", "tied"])
def test_from_s3(
    name: str, uri: str, seaweedfs: SeaweedFS, home: Path, overlay: Path, expected: dict[str, list[list[int]]]
) -> None:
    """Config, tokenizer and weights from the store, with no weights on this machine's disk."""
    settings = {"model": f"{uri}/{name}", "load_format": "runai_streamer"}
    tokens, log = load(settings, variables(home, overlay, seaweedfs))
    assert tokens == expected[name]
    assert LOGGED in log
    assert not [*home.rglob("*.safetensors")]
    assert seaweedfs.secret_access_key not in log


@pytest.fixture
def server(uri: str, seaweedfs: SeaweedFS, home: Path, overlay: Path) -> Iterator[tuple[str, Path]]:
    """`vllm serve s3://... --load-format runai_streamer`; its URL once it is up, and its log."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [str(PYTHON), "-P", "-m", "vllm.entrypoints.openai.api_server", "--model", f"{uri}/llama"]
    command += ["--load-format", "runai_streamer", "--port", str(port), "--host", "127.0.0.1", "--enforce-eager"]
    command += ["--dtype", "bfloat16", "--max-model-len", "64", "--max-num-seqs", "4", "--served-model-name", "tiny"]
    environment = variables(home, overlay, seaweedfs)
    del environment["VLLM_ENABLE_V1_MULTIPROCESSING"]  # the engine in a process of its own
    log = home / "server.log"
    with (
        log.open("wb") as written,
        subprocess.Popen(command, env=environment, stdout=written, stderr=written) as process,
    ):
        url = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + UP_S
            while not _is_healthy(url, process, log):
                assert time.monotonic() < deadline, log.read_text()[-4000:]
                time.sleep(0.2)
            yield url, log
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


def test_a_server(server: tuple[str, Path], expected: dict[str, list[list[int]]]) -> None:
    """Over HTTP, with the engine in another process than the one that read the arguments."""
    url, log = server
    wanted = {"model": "tiny", "prompt": [1, 2, 3, 4, 5], "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    wanted |= {"return_token_ids": True}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(wanted).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        (choice,) = json.load(answer)["choices"]
    assert choice["token_ids"] == expected["llama"][0]
    assert LOGGED in log.read_text()
