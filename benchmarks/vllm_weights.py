"""How long vLLM's `load_weights` takes alone, by load format, from a disk and from stores on loopback.

    python benchmarks/vllm_weights.py --vllm .venv/vllm/bin/python --drop-in .venv/runai [--layers 8] [--rounds 3]

Each sample is a process of its own, of the interpreter that has vLLM. It makes the model as vLLM does, then times the
loader's `load_weights`: listing, headers, reading, and vLLM's own copy into the parameters. The sums of all parameters
must be the same in every sample. vLLM's default loader, `auto`, reads files only: it is measured from the disk, cold.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

FORMATS = {
    "auto": ("safetensors", False),
    "runai_streamer": ("runai", False),
    "runai_streamer, the drop-in": ("runai", True),
    "slipstream": ("slipstream", False),
}
PLACES = ("disk", "seaweedfs", "range-server")
WHERE = {
    "disk": "this machine's disk, cold",
    "seaweedfs": "SeaweedFS on loopback",
    "range-server": "a server on loopback: 90 MB/s for a connection, 30 ms for a first byte",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", type=Path, required=True, help="the interpreter that has vLLM")
    parser.add_argument("--drop-in", type=Path, required=True, help="the folder that has slipstream-runai alone")
    parser.add_argument("--model", default="llama-3-8b")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--places", nargs="+", choices=PLACES, default=PLACES)
    parser.add_argument("--cache", type=Path, default=Path(".bench/cache"))
    given = parser.parse_args()
    measure(given)


def measure(given: argparse.Namespace) -> None:
    """Takes the samples, interleaved, and prints a table."""
    from slipstream.bench.models import find_model
    from slipstream.bench.page_cache import settle_memory
    from slipstream.bench.storages.choice import Ground, make_storage
    from slipstream.bench.vllm.side_files import write_side_files

    cache = given.cache.absolute()
    model = find_model(given.model, cache, layers=given.layers)
    print(f"{model.name}: {model.nbytes / 1e9:.2f} GB in {len(model.files)} files, medians of {given.rounds} rounds")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vllm-weights-")))
        ground = Ground(cache=cache, model_folder=model.files[0].parent)
        for place in given.places:
            with make_storage(place, place, ground) as storage:
                storage.place(model, lambda *_: None)
                found: dict[str, list[dict[str, float]]] = {}
                for round_ in range(given.rounds):
                    for name, (contender, is_drop_in) in FORMATS.items():
                        if name == "auto" and place != "disk":
                            continue
                        placed = storage.begin(round_)
                        with tempfile.TemporaryDirectory(dir=folder) as beside:
                            write_side_files(model, Path(beside))
                            if placed.is_local:
                                for file in model.files:
                                    Path(beside, file.name).symlink_to(file)
                            settle_memory(2 * model.nbytes)
                            sample = take(given, contender, placed, Path(beside), storage, is_drop_in)
                        storage.end()
                        found.setdefault(name, []).append(sample)
                        print(f"  {place:12s} {name:28s} {sample['seconds']:6.2f} s", file=sys.stderr)
            show(place, found, model.nbytes)


def take(
    given: argparse.Namespace, contender: str, placed: Any, beside: Path, storage: Any, is_drop_in: bool
) -> dict[str, float]:
    """One sample: seconds, and CPU seconds of all threads meanwhile."""
    from slipstream.bench.interpreters import child_environment
    from slipstream.bench.vllm.engine import QUIET
    from slipstream.bench.vllm.formats import find_format

    environment = child_environment(given.vllm) | QUIET | dict(placed.environment)
    environment |= {"HOME": str(beside), "VLLM_LOGGING_LEVEL": "ERROR", "RUNAI_STREAMER_LOG_TO_STDERR": "1"}
    if is_drop_in:
        environment["PYTHONPATH"] = str(given.drop_in.absolute())
    arguments = find_format(contender).arguments(placed, beside)
    command = [os.path.abspath(given.vllm), "-P", os.path.abspath(__file__), "--child", json.dumps(arguments)]
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=beside
        )
        assert child.stdout is not None
        assert child.stdin is not None
        said = child.stdout.readline()
        if said != "ready\n":
            log.seek(0)
            sys.exit(f"{contender} did not come so far: {log.read().decode()[-4000:]}")
        storage.prepare(child.pid)
        said, _ = child.communicate("go\n")
        log.seek(0)
        text = log.read().decode(errors="replace")
    if child.returncode:
        sys.exit(f"{contender} failed: {text[-4000:]}")
    if is_drop_in and "slipstream, as RunAI Streamer: streamed" not in text:
        sys.exit(f"it was not the drop-in that loaded: {text[-2000:]}")
    sample: dict[str, Any] = json.loads(said.splitlines()[-1])
    sums = sample.pop("sums")
    if SUMS.setdefault("first", sums) != sums:
        sys.exit(f"{contender} loaded other weights")
    return sample


SUMS: dict[str, list[int]] = {}


def show(place: str, found: dict[str, list[dict[str, float]]], nbytes: int) -> None:
    print(f"\n{WHERE[place]}\n| load format | seconds: median (least to most) | GB/s | CPU s/GB |\n|---|---|---|---|")
    for name, samples in found.items():
        times = [sample["seconds"] for sample in samples]
        median, cpu = statistics.median(times), statistics.median(sample["cpu"] for sample in samples)
        rates = f"{nbytes / median / 1e9:.2f} | {cpu / nbytes * 1e9:.2f}"
        print(f"| {name} | {median:.2f} ({min(times):.2f} to {max(times):.2f}) | {rates} |", flush=True)


def load(arguments: list[str]) -> None:
    """In vLLM's interpreter: makes the model, says so, waits, and loads its weights."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints

    import torch
    from vllm.config import set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader import get_model_loader
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.utils.torch_utils import set_default_torch_dtype

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    every = [*arguments, "--enforce-eager", "--max-model-len", "512", "--dtype", "bfloat16"]
    config = EngineArgs.from_cli_args(parser.parse_args(every)).create_engine_config()
    with set_current_vllm_config(config), tempfile.TemporaryDirectory() as folder:
        init_distributed_environment(1, 0, f"file://{folder}/meeting", 0, "gloo")
        initialize_model_parallel(1, 1)
        loader = get_model_loader(config.load_config)
        with set_default_torch_dtype(config.model_config.dtype):
            model = loader.create_model(vllm_config=config, model_config=config.model_config)
            print("ready", file=said, flush=True)
            sys.stdin.readline()
            before, start = cpu_seconds(), time.perf_counter()
            loader.load_weights(model, config.model_config)
            seconds, cpu = time.perf_counter() - start, cpu_seconds() - before
        sums = [int(value.view(torch.int16).sum(dtype=torch.int64)) for _, value in sorted(model.named_parameters())]
    print(json.dumps({"seconds": seconds, "cpu": cpu, "sums": sums}), file=said, flush=True)


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        load(json.loads(sys.argv[2]))
    else:
        main()
