"""Records as a run would write them, made up: whole experiments, and every awkward case that a report must bear."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from slipstream.bench.records import Figures, ModelFacts, Record, Role, Setting, Status, StorageFacts, append_record

EIGHT_LAYERS = ModelFacts(name="llama-3-8b", layers=8, nbytes=5_590_483_968, tensors=75, files=1)
WHOLE = ModelFacts(name="llama-3-8b", layers=None, nbytes=16_060_522_496, tensors=291, files=4)
MACHINE: Mapping[str, str | int] = {
    "cpu": "Intel(R) Xeon(R) Processor @ 2.90GHz",
    "cores": 2,
    "memory_bytes": 25_262_837_760,
    "architecture": "x86_64",
    "kernel": "6.18.5",
    "system": "Debian GNU/Linux 12 (bookworm)",
    "virtualisation": "kvm",
    "python": "3.11.2",
    "gpu": "none",
}
MOUNT = {"point": "/mnt", "filesystem": "ext4", "device": "/dev/vda", "options": "rw,relatime", "disk": "vda"}
GP3 = StorageFacts(
    name="gp3",
    kind="throttled",
    emulated=True,
    uri="/mnt/bench/gp3",
    limits={"bytes_per_s": 1000 * 2**20, "iops": 16000, "read_ahead_kib": 128},
    held={"bytes_per_s": 1.003e9 * 1.045, "iops": 16012},
    mount=MOUNT,
)
IO2 = replace(
    GP3,
    name="io2",
    uri="/mnt/bench/io2",
    limits={"bytes_per_s": 4000 * 2**20, "iops": 100000, "read_ahead_kib": 128},
    held={"bytes_per_s": 2.6e9, "iops": 71000},
)
S3 = StorageFacts(
    name="s3",
    kind="range-server",
    emulated=True,
    uri="s3://bench/llama",
    limits={"connection_bytes_per_s": 90e6, "first_byte_s": 0.03},
    held={"connection_bytes_per_s": 89.1e6, "first_byte_s": 0.031},
)
VERSIONS = {
    "slipstream": {"slipstream": "0.1.0", "torch": "2.13.0"},
    "runai": {"runai-model-streamer": "0.17.0"},
    "safetensors": {"safetensors": "0.8.0"},
    "tensorizer": {"tensorizer": "2.12.1"},
    "fastsafetensors": {"fastsafetensors": "0.5"},
    "instanttensor": {},
    "floor": {},
}


def make_record(
    contender: str,
    label: str = "defaults",
    *,
    seconds: float = 1.0,
    experiment: str = "gp3",
    storage: StorageFacts = GP3,
    model: ModelFacts = EIGHT_LAYERS,
    settings: Mapping[str, Setting] | None = None,
    role: Role | None = None,
    round_: int = 0,
    run: str = "run-1",
    figures: Mapping[str, Any] | None = None,
    **others: Any,
) -> Record:
    """One sample that went well, unless it is told otherwise."""
    known: Role = "slipstream" if contender == "slipstream" else "floor" if contender == "floor" else "peer"
    measured: dict[str, Any] = {
        "seconds": seconds,
        "first_tensor_s": seconds * 0.05,
        "cpu_s": 0.1 * model.nbytes / 1e9,
        "peak_memory_bytes": model.nbytes + 30 * 2**20,
        "page_cache_growth_bytes": 0,
        "device_read_bytes": model.nbytes + 4096,
        "nbytes": model.nbytes,
        "tensors": model.tensors,
        **(figures or {}),
    }
    record = Record(
        run=run,
        taken_at=f"2026-11-25T{round_ % 24:02}:00:00.{abs(hash((contender, label))) % 1000000:06}Z",
        experiment=experiment,
        storage=storage,
        contender=contender,
        label=label,
        settings=settings or {},
        role=role or known,
        round=round_,
        destination="cpu",
        model=model,
        status="ok",
        figures=Figures(**measured),
        verified=known != "floor",
        checksum="5f2b" * 16,
        versions=VERSIONS.get(contender, {contender: "1.0"}),
        machine=MACHINE,
        commit="edeb30d0c0de",
    )
    return replace(record, **others)


def lost(record: Record, status: Status, reason: str) -> Record:
    """The same sample, had it failed."""
    return replace(record, status=status, reason=reason, figures=None, verified=False, checksum="")


def local_experiment(
    experiment: str,
    storage: StorageFacts,
    *,
    bytes_per_s: float,
    per_stream: float,
    levels: Iterable[int],
    readers: Iterable[int],
    rounds: int = 3,
    model: ModelFacts = EIGHT_LAYERS,
    run: str = "run-1",
    seed: int = 1,
    slower: float = 1.0,
) -> list[Record]:
    """A local storage's experiment: sweeps of slipstream, Run:ai and tensorizer, and the loaders without a sweep."""
    random = Random(f"{experiment} {seed}")
    planned: list[tuple[str, str, dict[str, Setting], float, float, float]] = []
    limit, stream = model.nbytes / bytes_per_s, model.nbytes / per_stream
    for contender, overhead, cpu in (("slipstream", 1.01 * slower, 0.08), ("runai", 1.03, 0.23)):
        planned.append((contender, "defaults", {}, limit * overhead, cpu, 20))
        for level in levels:
            ideal = max(limit, stream / level)
            planned.append((contender, f"concurrency {level}", {"concurrency": level}, ideal * overhead, cpu, 20))
    planned.append(("safetensors", "get_tensor", {}, stream * 1.05, 0.3, 5))
    planned.append(("safetensors", "pread", {"backend": "pread"}, stream * 0.97, 0.42, 8))
    for count in readers:
        planned.append(
            ("tensorizer", f"{count} readers", {"num_readers": count}, max(limit, stream / count) * 1.15, 0.9, 700)
        )
    planned.append(("fastsafetensors", "defaults", {}, limit * 2.1, 0.76, 1900))
    planned.append(("floor", "direct, 8 threads", {"method": "direct", "threads": 8}, limit, 0.2, 0))
    planned.append(("floor", "populate, 2 threads", {"method": "populate", "threads": 2}, limit * 1.08, 0.06, 0))
    records = []
    for round_ in range(rounds):
        for contender, label, settings, seconds, cpu, above_mib in planned:
            took = seconds * random.uniform(0.985, 1.05)
            figures = {"cpu_s": cpu * model.nbytes / 1e9, "peak_memory_bytes": model.nbytes + above_mib * 2**20}
            records.append(
                make_record(contender, label, seconds=took, experiment=experiment, storage=storage, model=model,
                            settings=settings, round_=round_, run=run, figures=figures)
            )  # fmt: skip
    none = make_record("instanttensor", experiment=experiment, storage=storage, model=model, run=run)
    return [*records, lost(none, "unavailable", "needs CUDA: there is no GPU here")]


def gp3(**others: Any) -> list[Record]:
    """Experiment 1."""
    return local_experiment("gp3", GP3, bytes_per_s=1.045e9, per_stream=0.31e9, levels=(1, 4, 8, 16),
                            readers=(1, 4, 8, 16, 32, 64, 100), **others)  # fmt: skip


def io2(**others: Any) -> list[Record]:
    """Experiment 2."""
    return local_experiment("io2", IO2, bytes_per_s=2.6e9, per_stream=0.34e9, levels=(1, 4, 8, 16, 20),
                            readers=(1, 4, 8, 16, 32), **others)  # fmt: skip


def s3(rounds: int = 3) -> list[Record]:
    """Experiment 3: no safetensors, no device; bytes that were received."""
    random = Random("s3")
    model = EIGHT_LAYERS
    records = []
    plans: list[tuple[str, str, int | None, float, float]] = [
        ("slipstream", "defaults", None, 3.9, 0.8),
        ("runai", "defaults", None, 13.6, 3.3),
    ]
    plans += [("slipstream", f"concurrency {n}", n, max(3.6, 60 / n), 0.8) for n in (4, 16, 32, 64)]
    plans += [("runai", f"concurrency {n}", n, max(13.0, 75 / n), 3.2) for n in (4, 16, 32, 64)]
    plans += [
        ("tensorizer", f"{n} readers", n, t, 2.1)
        for n, t in ((8, 33.0), (16, 15.1), (32, 17.2), (64, 15.3), (80, 15.5))
    ]
    plans += [("floor", "64 ranges to nowhere", None, 3.1, 0.5)]
    for round_ in range(rounds):
        for contender, label, level, seconds, cpu in plans:
            name = "num_readers" if contender == "tensorizer" else "concurrency"
            figures = {"device_read_bytes": None, "network_received_bytes": model.nbytes + 12345,
                       "cpu_s": cpu * model.nbytes / 1e9}  # fmt: skip
            records.append(
                make_record(contender, label, seconds=seconds * random.uniform(0.95, 1.12), experiment="s3", storage=S3,
                            settings={} if level is None else {name: level}, round_=round_, figures=figures)
            )  # fmt: skip
    return records


def vllm(rounds: int = 3) -> list[Record]:
    """Experiment 4, from two storages; tensorizer does not work there."""
    random = Random("vllm")
    records = []
    small = ModelFacts(name="llama-tiny", layers=None, nbytes=8_000_000, tensors=39, files=1)
    for storage, scale in ((GP3, 1.0), (S3, 0.9)):
        plans = [("slipstream", 14.2, 1.1), ("runai", 15.0, 2.0), ("safetensors", 18.3, 5.2)]
        for round_ in range(rounds):
            for contender, total, weights in plans[: 2 if storage is S3 else 3]:
                took = total * scale * random.uniform(0.97, 1.05)
                figures = {"health_s": took, "first_token_s": took + 0.8, "weights_s": weights, "cpu_s": None,
                           "device_read_bytes": None, "peak_memory_bytes": None, "first_tensor_s": None}  # fmt: skip
                records.append(
                    make_record(contender, "defaults", seconds=took, experiment="vllm", storage=storage, model=small,
                                round_=round_, figures=figures)
                )  # fmt: skip
        none = make_record("tensorizer", experiment="vllm", storage=storage, model=small)
        records.append(lost(none, "unavailable", "vLLM 0.32 cannot load it here"))
    return records


def awkward() -> list[Record]:
    """One round, no floor, failures, plugins with hostile and long names, several models and destinations."""
    hostile = "<script>alert('x')</script> | a*b_c `d` $e$ [f](http://g) & \x1b[31m"
    long = "a plugin whose author was fond of very long names " * 3
    disk = replace(GP3, name="nvme|0", kind="directory", emulated=False, limits={}, held={})
    other: dict[str, Any] = {"experiment": "my disk <b>", "storage": disk}
    tiny = ModelFacts(name="llama-tiny", layers=None, nbytes=8_000_000, tensors=39, files=1)
    return [
        make_record("slipstream", seconds=0.0123, model=tiny, **other),
        make_record("slipstream", seconds=1.5, **other),
        make_record("slipstream", seconds=1.2, destination="cuda:0", **other),
        make_record(hostile, hostile, seconds=2.5, **other),
        make_record(long, long, seconds=3.5, settings={"concurrency": 3}, **other),
        make_record("runai", seconds=2.0, verified=False, **other),
        lost(make_record("runai", round_=1, **other), "failed", "it handed out 74 tensors; there are 75"),
        lost(
            make_record("tensorizer", "8 readers", settings={"num_readers": 8}, **other),
            "failed",
            f"it said: {hostile}\n\n{long}",
        ),
        lost(make_record("instanttensor", destination="cuda:0", **other), "unavailable", "needs CUDA 13"),
    ]


def write(path: Path, records: Iterable[Record]) -> Path:
    """A file of results."""
    for record in records:
        append_record(path, record)
    return path
