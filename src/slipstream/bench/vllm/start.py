"""One start of vLLM: its folder, arguments and environment, and what the keeper measured of it.

FOLDER/model/      configuration, tokenizer, links to the weights where these are local files
FOLDER/plugin/     inside/timer.py, as a distribution with an entry point
FOLDER/tmp/        sockets and other temporary files
FOLDER/assets/     what vLLM fetches from an object store, config.json for one
FOLDER/vllm.log
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.bench.errors import SampleError
from slipstream.bench.interpreters import child_environment
from slipstream.bench.page_cache import cached_bytes
from slipstream.bench.redaction import find_secrets, redact
from slipstream.bench.sample_process import SampleProcess
from slipstream.bench.vllm.engine import INSIDE, QUIET, Engine
from slipstream.bench.vllm.log import Weights, explain_failure, parse_weights
from slipstream.bench.vllm.side_files import write_side_files

if TYPE_CHECKING:
    from slipstream.bench.storages.base import Counters, PlacedModel
    from slipstream.bench.vllm.formats import LoadFormat

PROMPT = "The capital of France is"
TOKENS = 8
MODEL_NAME = "slipstream-bench"
_KEEPER = Path(__file__).resolve().with_name("keeper.py")
_PLUGIN = "slipstream_bench_timer"
_READY_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 60.0  # beside the grace: what is left is killed within 10 s
_SHORT = Path("/tmp")  # a Unix socket's path has 107 characters at most, and vLLM's names take 40 of them


@dataclass(frozen=True, kw_only=True)
class StartRequest:
    """What is started.

    Attributes:
        engine: which vLLM.
        load_format: with which load format.
        placed: the model, and where it is.
        arguments: vLLM's other arguments.
        cache: where compiled kernels and the like are kept from one start to the next, and logs of failures.
        health_timeout_s: from the start until /health answers.
        token_timeout_s: of a request.
        grace_s: how long it may take to end, before it is killed.
    """

    engine: Engine
    load_format: LoadFormat
    placed: PlacedModel
    arguments: tuple[str, ...]
    cache: Path
    health_timeout_s: float = 900.0
    token_timeout_s: float = 300.0
    grace_s: float = 20.0  # vLLM takes 1 to 3


@dataclass(frozen=True, kw_only=True)
class Started:
    """What a start measured.

    Attributes:
        health_s: from the start of its process until /health answered.
        first_token_s: from there until the first token came.
        answer: what it said to `PROMPT`, in `TOKENS` tokens.
        weights: how long they took of it.
        cached_bytes: of the local files that it read, before and after; None where it read none.
        counters: of the storage, before and after.
    """

    health_s: float
    first_token_s: float
    answer: str
    weights: Weights
    cached_bytes: tuple[int, int] | None
    counters: tuple[Counters, Counters] | None


def measure_start(
    request: StartRequest,
    prepare: Callable[[int], None] | None = None,
    counters: Callable[[], Counters] | None = None,
) -> Started:
    """Starts vLLM, waits until it answers, asks it, and ends it. Nothing of it is left afterwards.

    Args:
        request: what is started.
        prepare: called with the process that will start it, right before that; what it raises ends the sample.
        counters: read right before the start, and after the answers.

    Raises:
        SampleError: it did not start, or did not answer. The message is one paragraph without secrets.
        BenchError: the model cannot be served: it has no config.json.
    """
    request.engine.warm()
    secrets = find_secrets(request.placed.environment, request.placed.storage_options, os.environ)
    files = _files(request)
    with _start_folder() as folder:
        job = _make_job(request, folder)
        log = Path(folder, "vllm.log")
        name = f"vLLM with load format {request.load_format.name}"
        with _kept(name, secrets) as process:
            process.ask(job, "ready", timeout_s=_READY_TIMEOUT_S)
            if prepare is not None:
                prepare(process.pid)
            cached = cached_bytes(files)
            before = counters() if counters else None
            patience_s = request.health_timeout_s + 3 * request.token_timeout_s
            measured = process.ask("go", "measured", timeout_s=patience_s)
            after = counters() if counters else None
            cached_after = cached_bytes(files)
            ended = process.ask("end", "ended", timeout_s=request.grace_s + _END_TIMEOUT_S)
        said = log.read_text(errors="replace") if log.exists() else ""
        if measured["reason"]:
            kept = _keep_log(request, redact(said, secrets))
            why = explain_failure(said, secrets, measured["message"])
            raise SampleError(f"{name}: {redact(measured['reason'], secrets)}; {why} (its log: {kept})")
        if ended["left"]:
            raise SampleError(f"{name} was ended, and left behind: {', '.join(ended['left'])}")
    return Started(
        health_s=measured["health_s"],
        first_token_s=measured["first_token_s"],
        answer=measured["answer"],
        weights=parse_weights(said),
        cached_bytes=(cached, cached_after) if files else None,
        counters=(before, after) if before and after else None,
    )


@contextlib.contextmanager
def _kept(name: str, secrets: set[str]) -> Iterator[SampleProcess]:
    """The keeper. Whatever happens here, it has ended what it started before it ends itself."""
    command = [sys.executable, "-I", "-S", str(_KEEPER)]
    with SampleProcess(command, {"PATH": os.defpath}, name=name, secrets=secrets) as process:
        try:
            yield process
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)  # it has not been waited for, so the id is its own
            with contextlib.suppress(SampleError):  # it ends without a word
                process.ask("end", "ended", timeout_s=_END_TIMEOUT_S)
            raise


@contextlib.contextmanager
def _start_folder() -> Iterator[str]:
    short = len(tempfile.gettempdir()) <= len("/var/tmp") or not os.access(_SHORT, os.W_OK)
    with tempfile.TemporaryDirectory(
        prefix=f"slipstream-vllm-{os.getpid()}-", dir=None if short else _SHORT, ignore_cleanup_errors=True
    ) as folder:
        yield folder


def _make_job(request: StartRequest, folder: str) -> Mapping[str, object]:
    """The keeper's job; see `keeper.Job`."""
    root = Path(folder)
    for name in ("model", "plugin", "tmp", "assets"):
        (root / name).mkdir()
    write_side_files(request.placed.model, root / "model")
    if request.placed.is_local and not request.load_format.needs_tensorizer:
        for file in request.placed.files:
            (root / "model" / file.name).symlink_to(file)
    _write_plugin(root / "plugin")
    command = [
        *(str(request.engine.python), "-m", "vllm.entrypoints.openai.api_server"),
        *("--host", "127.0.0.1", "--port", "{port}", "--served-model-name", MODEL_NAME),
        *request.load_format.arguments(request.placed, root / "model"),
        *request.arguments,
    ]
    return {
        "command": command,
        "environment": make_environment(request, root),
        "root": folder,
        "folder": str(root / "tmp"),
        "log": str(root / "vllm.log"),
        "model": MODEL_NAME,
        "prompt": PROMPT,
        "tokens": TOKENS,
        "health_timeout_s": request.health_timeout_s,
        "token_timeout_s": request.token_timeout_s,
        "grace_s": request.grace_s,
        "parent": os.getpid(),
    }


def make_environment(request: StartRequest, folder: Path) -> dict[str, str]:
    """The server's environment: this process's, without another way to a store than the storage's."""
    inherited = child_environment(request.engine.python)
    given = request.placed.environment
    if any(name.startswith("AWS_") for name in given):
        inherited = {name: value for name, value in inherited.items() if not name.startswith("AWS_")}
    own = {
        "TMPDIR": str(folder / "tmp"),
        "VLLM_RPC_BASE_PATH": str(folder / "tmp"),
        "VLLM_ASSETS_CACHE": str(folder / "assets"),
        "PYTHONPATH": str(folder / "plugin"),
        "PYTHONUNBUFFERED": "1",
    }
    if "VLLM_PLUGINS" in inherited:  # a list of those that are allowed
        own["VLLM_PLUGINS"] = f"{inherited['VLLM_PLUGINS']},{_PLUGIN}"
    environment = {**inherited, **engine_variables(request.engine, request.cache), **QUIET, **own, **given}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installer may leave compiling to the first start
    return environment


def engine_variables(engine: Engine, cache: Path) -> dict[str, str]:
    """What is set unless the user has set it: where vLLM keeps what it compiles, and how much memory it takes."""
    wanted = {
        "VLLM_CACHE_ROOT": str(cache / "engine"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "compiled"),  # by default in TMPDIR, which is new every time
    }
    if engine.device == "cpu":
        wanted["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GiB; by default half of the memory
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


def _write_plugin(folder: Path) -> None:
    shutil.copyfile(INSIDE / "timer.py", folder / f"{_PLUGIN}.py")
    described = folder / f"{_PLUGIN}-1.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {_PLUGIN}\nVersion: 1\n")
    (described / "entry_points.txt").write_text(f"[vllm.general_plugins]\n{_PLUGIN} = {_PLUGIN}:register\n")


def _files(request: StartRequest) -> tuple[Path, ...]:
    """The local files that are read; none where they are a server's."""
    placed = request.placed
    if not placed.is_local:
        return ()
    if request.load_format.needs_tensorizer:
        return (placed.tensorizer_file,) if placed.tensorizer_file else ()
    return placed.files


def _keep_log(request: StartRequest, log: str) -> Path:
    """Keeps what a failed start wrote, the last of each load format."""
    target = request.cache / "logs" / f"{request.load_format.name}.log"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(log)
    return target
