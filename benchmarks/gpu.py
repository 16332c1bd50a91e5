"""Everything there is to measure and to test on a machine with a GPU, by one command, in under ten minutes.

    make gpu-wheels                                   where there is a network: what it needs, as wheels
    python3 benchmarks/gpu.py --wheels .gpu-wheels    on the GPU's machine, which may have none

It takes the PyTorch that `python3` has, makes two environments beside it from the wheels, and then

    1. measures the copy from page-locked memory to the GPU: no loader is faster
    2. runs tests/gpu
    3. runs `slipstream bench run gpu`: disk cold, page cache warm, tmpfs, S3 on loopback; slipstream and its peers,
       every tensor compared byte for byte
    4. says what slipstream reaches of the smaller of the storage's limit and the copy's, and writes it all to --output
    5. has compute-sanitizer, where there is one, look at a load

Whatever cannot run says why, and the rest goes on. The exit code is 1 where a test failed or slipstream has no figure.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_CHUNK_BYTES = 8 << 20
_SECONDS_OF_COPIES = 1.5
_TESTS_TIMEOUT_S = 240.0
_MEMCHECK_TIMEOUT_S = 400.0
_BENCH_TIMEOUT_S = 480.0
_MEMORY_IS_THE_STORAGE = ("gpu-warm", "gpu-tmpfs")  # there the copy is the limit


def main() -> int:
    """Runs all of it."""
    asked = _parse()
    if asked.wheels is not None and not asked.inside:
        return _run_inside(asked)
    output: Path = asked.output
    output.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    if reason := why_not():
        _say(reason)
        return 2
    limit = measure_copy(asked.device)
    (output / "h2d.json").write_text(json.dumps(limit, indent=2))
    _say(f"host to device: {limit['gb_per_s']:.1f} GB/s ({limit['gpu']}, PyTorch {limit['torch']})")
    failed = not asked.skip_tests and _run_tests(output / "tests.log", "not memcheck", _TESTS_TIMEOUT_S)
    results = _run_bench(asked, output)
    figures = compare_with_limits(_read_records(results), limit["gb_per_s"])
    (output / "limits.json").write_text(json.dumps(figures, indent=2))
    for line in _describe(figures):
        _say(line)
    failed |= not asked.skip_tests and _run_tests(output / "memcheck.log", "memcheck", _MEMCHECK_TIMEOUT_S)
    _say(f"all of it in {output}, after {time.monotonic() - began:.0f} s")
    return 1 if failed or not figures else 0


def why_not() -> str:
    """Why there is nothing to measure here; "" where there is."""
    import torch

    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} finds no GPU: run this where there is one"
    return ""


def measure_copy(device: str) -> dict[str, Any]:
    """How fast page-locked memory is copied to the device, in pieces as large as a chunk."""
    import torch

    slots = [torch.empty(_CHUNK_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(8)]
    target = torch.empty(_CHUNK_BYTES * 32, dtype=torch.uint8, device=device)
    stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    rates = []
    with torch.cuda.stream(stream):
        for _ in range(5):
            start: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            start.record(stream)
            began, count = time.monotonic(), 0
            while time.monotonic() - began < _SECONDS_OF_COPIES / 5:
                for slot in slots:
                    at = count % 32 * _CHUNK_BYTES
                    target[at : at + _CHUNK_BYTES].copy_(slot, non_blocking=True)
                    count += 1
                if count % 256 == 0:
                    stream.synchronize()
            end.record(stream)
            end.synchronize()
            rates.append(count * _CHUNK_BYTES / start.elapsed_time(end) / 1e6)
    return {
        "gb_per_s": statistics.median(rates),
        "samples": rates,
        "chunk_bytes": _CHUNK_BYTES,
        "gpu": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cores": os.cpu_count(),
    }


def compare_with_limits(records: Iterable[Mapping[str, Any]], copy_gb_per_s: float) -> list[dict[str, Any]]:
    """For each experiment: the limit, slipstream's throughput and its share of the limit, and the best peer's.

    Args:
        records: of `slipstream bench run`, as its JSON has them.
        copy_gb_per_s: what the copy to the device reaches.
    """
    rates: dict[str, dict[tuple[str, str, str], list[float]]] = {}
    for record in records:
        figures = record.get("figures")
        if record.get("status") == "ok" and figures and figures["nbytes"] and figures["seconds"]:
            rows = rates.setdefault(record["experiment"], {})
            row = (record["role"], record["contender"], record["label"])
            rows.setdefault(row, []).append(figures["nbytes"] / figures["seconds"] / 1e9)
    found = []
    for experiment, rows in rates.items():
        medians = {row: statistics.median(values) for row, values in rows.items()}
        best = {
            role: max((rate, f"{name}, {label}") for (of, name, label), rate in medians.items() if of == role)
            for role in {role for role, _, _ in medians}
        }
        if "slipstream" not in best:
            continue
        defaults = medians.get(("slipstream", "slipstream", "defaults"), best["slipstream"][0])
        storage = None if experiment in _MEMORY_IS_THE_STORAGE or "floor" not in best else best["floor"][0]
        limit = copy_gb_per_s if storage is None else min(storage, copy_gb_per_s)
        peer = best.get("peer")
        found.append(
            {
                "experiment": experiment,
                "slipstream_gb_per_s": defaults,
                "slipstream_best": best["slipstream"][1],
                "slipstream_best_gb_per_s": best["slipstream"][0],
                "storage_gb_per_s": storage,
                "copy_gb_per_s": copy_gb_per_s,
                "share_of_limit": defaults / limit,
                "best_peer": None if peer is None else peer[1],
                "best_peer_gb_per_s": None if peer is None else peer[0],
            }
        )
    return found


def _describe(figures: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    for each in figures:
        peer = f"; the best peer {each['best_peer_gb_per_s']:.2f} ({each['best_peer']})" if each["best_peer"] else ""
        ours = f"{each['slipstream_gb_per_s']:.2f} GB/s, {each['share_of_limit']:.0%} of the limit"
        yield f"{each['experiment']}: {ours}{peer}"


def _run_tests(log: Path, which: str, timeout_s: float) -> bool:
    """Runs these of tests/gpu; whether any of them failed."""
    command = [sys.executable, "-P", "-m", "pytest", "-q", "--confcutdir=tests/gpu", "tests/gpu", "-k", which]
    return _run(command, log, timeout_s=timeout_s) != 0


def _run_bench(asked: argparse.Namespace, output: Path) -> Path:
    command = [sys.executable, "-P", "-m", "slipstream", "bench", "run", "gpu", "--destination", asked.device]
    command += ["--layers", str(asked.layers), "--repeats", str(asked.repeats), "--unthrottled"]
    command += ["--quick"] if asked.quick else []
    command += ["--cache", str(asked.cache), "--output", str(output)]
    if asked.next_python is not None:
        command += ["--python", f"safetensors-next={asked.next_python}"]
    _run(command, output / "bench.log", timeout_s=_BENCH_TIMEOUT_S)
    results = output / "results.jsonl"
    if results.exists():
        report = [sys.executable, "-P", "-m", "slipstream", "bench", "report", str(results), "--output", str(output)]
        _run(report, output / "report.log", timeout_s=60.0)
    return results


def _run(command: Sequence[str], log: Path, *, timeout_s: float) -> int:
    """Runs a command in the repository; what it says goes to the log, and its end to the screen."""
    _say(f"running {' '.join(command[3:])}")
    with log.open("w") as out:
        try:
            code = subprocess.run(
                command,
                cwd=ROOT,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                env=_environment(),
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
            out.write(f"\nended after {timeout_s:.0f} s\n")
    for line in log.read_text(errors="replace").splitlines()[-25:]:
        _say(f"    {line}")
    return code


def _run_inside(asked: argparse.Namespace) -> int:
    """Makes the environments out of the wheels, and runs this script in the first of them."""
    folder = asked.environments
    own = _make_environment(folder / "own", [*_wheels(asked.wheels), *_wheels(asked.wheels / "weed")])
    command = [str(own), str(Path(__file__).resolve()), *sys.argv[1:], "--inside"]
    following = _wheels(asked.wheels / "next")
    if following:
        command += ["--next-python", str(_make_environment(folder / "next", following))]
    return subprocess.run(command, check=False).returncode


def _make_environment(folder: Path, wheels: Sequence[Path]) -> Path:
    """A virtual environment over this interpreter's packages, with wheels in it; returns its interpreter."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", str(folder)], check=True)
        # The packages of this interpreter, also where it is in a virtual environment itself.
        purelib = subprocess.run(
            [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        here = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        Path(purelib, "slipstream-gpu.pth").write_text("".join(f"{path}\n" for path in here))
    install = [str(python), "-m", "pip", "install", "-q", "--no-index", "--no-deps", *map(str, wheels)]
    subprocess.run(install, check=True)
    return python


def _wheels(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.whl")) if folder.is_dir() else []


def _environment() -> dict[str, str]:
    """slipstream comes from this repository, and programs of the environment are found."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        "PYTHONUNBUFFERED": "1",
    }


def _read_records(results: Path) -> list[Mapping[str, Any]]:
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text().splitlines() if line.strip()]


def _say(line: str) -> None:
    print(line, flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, help="the folder that `make gpu-wheels` made")
    parser.add_argument("--output", type=Path, default=Path("gpu-results"), help="where results go")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/slipstream-gpu"), help="where models are kept")
    parser.add_argument("--environments", type=Path, default=Path("/tmp/slipstream-gpu-env"))
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--layers", type=int, default=8, help="of Llama-3-8B: 8 are 5.6 GB")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--quick", action=argparse.BooleanOptionalAction, default=True, help="few rows")
    parser.add_argument("--skip-tests", action="store_true")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--next-python", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
