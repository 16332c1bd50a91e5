"""The experiments beside the published ones, as data: this machine's disk as it is, and servers on loopback.

The group `disk` asks how far slipstream is from the disk and from memory; `network`, how far it is from the processors,
which a server on loopback shares with its clients. Each has what is asked of slipstream there, as targets.
"""

from __future__ import annotations

from collections.abc import Sequence

from slipstream.bench.experiment import Entry, Experiment, Target

_MIB = 1 << 20

OURS = Entry(contender="slipstream", quick=True)
_DIRECT = Entry(contender="slipstream", settings={"strategy": "direct"}, quick=True)
_NUMPY = Entry(contender="slipstream", settings={"framework": "numpy"}, quick=True)
_LIMITED = Entry(contender="slipstream", settings={"memory_limit": 256 * _MIB}, quick=True)
_RUNAI = Entry(contender="runai", quick=True)
_SAFETENSORS = Entry(contender="safetensors", quick=True)
_TENSORIZER = Entry(contender="tensorizer", settings={"num_readers": 8}, quick=True)


def _fixed(contender: str, values: Sequence[int]) -> tuple[Entry, ...]:
    return tuple(Entry(contender=contender, settings={"concurrency": value}) for value in values)


def _floor(method: str, *, quick: bool = False, **settings: int) -> Entry:
    return Entry(contender="floor", settings={"method": method, **settings}, quick=quick)


# Disk.

_PEERS = (_RUNAI, *_fixed("runai", (16,)), _SAFETENSORS, _TENSORIZER)
_DISK_FLOORS = (
    _floor("direct", threads=8, quick=True),
    _floor("direct", threads=16),
    _floor("populate", threads=1),
    _floor("populate", threads=2, quick=True),
    _floor("populate", threads=4),
)
_RACERS = (OURS, _DIRECT, *_PEERS, *_DISK_FLOORS)
_LIMIT_PAIR = (_LIMITED, OURS)
_LIMIT_TARGETS = (
    Target(text="peak MiB with a limit of 256 MiB", measure="peak_mib", of=(_LIMITED,), most=320),
    Target(text="throughput / that without a limit", measure="gb_per_s", of=(_LIMITED,), against=(OURS,), least=0.8),
)

COLD = Experiment(
    name="cold",
    title="This machine's disk, cold: nothing in the page cache",
    storages=("disk",),
    entries=_RACERS,
    targets=(
        Target(text="time / the best peer's", measure="seconds", of=(OURS,), against=_PEERS, most=1.0),
        Target(text="throughput / the raw floor's", measure="gb_per_s", of=(OURS,), against=_DISK_FLOORS, least=0.95),
        Target(text="CPU seconds per GB", measure="cpu_s_per_gb", of=(OURS,), most=0.10),
        Target(
            text="direct: throughput / the raw floor's",
            measure="gb_per_s",
            of=(_DIRECT,),
            against=_DISK_FLOORS,
            least=0.95,
        ),
    ),
)
WARM = Experiment(
    name="warm",
    title="This machine's disk, warm: all of it in the page cache",
    storages=("disk",),
    entries=_RACERS,
    page_cache="warm",
    targets=(
        Target(text="time / Run:ai's", measure="seconds", of=(OURS,), against=(_RUNAI,), most=0.15),
        Target(text="time / safetensors'", measure="seconds", of=(OURS,), against=(_SAFETENSORS,), most=1.0),
    ),
)
SMALL = Experiment(
    name="small",
    title="Tens of thousands of small tensors, warm, touched after the timed region",
    storages=("disk",),
    entries=(OURS, _NUMPY, _RUNAI, _SAFETENSORS),
    page_cache="warm",
    touch="after",
    layout="moe-small",
    targets=(Target(text="tensors per second", measure="tensors_per_s", of=(OURS,), least=100_000),),
)
LIMIT = Experiment(
    name="limit",
    title="A memory limit of 256 MiB and a caller that drops each tensor, cold",
    storages=("disk",),
    entries=_LIMIT_PAIR,
    names="model.layers.*",
    keep=False,
    targets=_LIMIT_TARGETS,
)
LIMIT_WARM = Experiment(
    name="limit-warm",
    title="A memory limit of 256 MiB and a caller that drops each tensor, warm",
    storages=("disk",),
    entries=_LIMIT_PAIR,
    page_cache="warm",
    names="model.layers.*",
    keep=False,
    targets=_LIMIT_TARGETS,
)
_BY_IMPORTTIME = Entry(contender="slipstream", settings={"by": "importtime"}, quick=True)
IMPORT = Experiment(
    name="import",
    title="import slipstream, in a fresh interpreter",
    kind="import",
    storages=("environment",),
    entries=(
        _BY_IMPORTTIME,
        Entry(contender="slipstream", settings={"by": "process"}, quick=True),
        Entry(contender="floor", quick=True),
    ),
    layout=None,
    targets=(Target(text="milliseconds by -X importtime", measure="milliseconds", of=(_BY_IMPORTTIME,), most=50),),
)
DISK = (COLD, WARM, SMALL, LIMIT, LIMIT_WARM, IMPORT)

# A GPU: --destination cuda:0. What the copy to it can reach, benchmarks/gpu.py measures beside.

_TO_GPU = (
    OURS,
    Entry(contender="slipstream", settings={"chunk_bytes": 16 * _MIB}, quick=True),
    Entry(contender="slipstream", settings={"chunk_bytes": 4 * _MIB}),
    Entry(contender="slipstream", settings={"concurrency": 32}),
    Entry(contender="slipstream", settings={"ring_bytes": 1024 * _MIB}),
    _RUNAI,
    _SAFETENSORS,
    Entry(contender="safetensors", settings={"backend": "pread"}),
    Entry(contender="safetensors-next", settings={"method": "prefetch"}, quick=True),
    Entry(contender="fastsafetensors", quick=True),
    Entry(contender="instanttensor", quick=True),
    _TENSORIZER,
)
_GPU_PEERS = tuple(entry for entry in _TO_GPU if entry.contender != "slipstream")
_AHEAD = Target(text="throughput / the best peer's", measure="gb_per_s", of=(OURS,), against=_GPU_PEERS, least=1.0)
_TO_GPU_FLOORS = (_floor("direct", threads=16, quick=True),)
GPU_COLD = Experiment(
    name="gpu-cold",
    title="To a GPU from this machine's disk, cold",
    storages=("disk",),
    entries=(*_TO_GPU, *_TO_GPU_FLOORS),
    targets=(
        _AHEAD,
        Target(text="throughput / the raw floor's", measure="gb_per_s", of=(OURS,), against=_TO_GPU_FLOORS, least=0.9),
    ),
)
GPU_WARM = Experiment(
    name="gpu-warm",
    title="To a GPU from the page cache",
    storages=("disk",),
    entries=_TO_GPU,
    page_cache="warm",
    targets=(_AHEAD,),
)
GPU_TMPFS = Experiment(
    name="gpu-tmpfs",
    title="To a GPU from tmpfs",
    storages=("tmpfs",),
    entries=_TO_GPU,
    page_cache="warm",
    targets=(_AHEAD,),
)
GPU_S3 = Experiment(
    name="gpu-s3",
    title="To a GPU from SeaweedFS, a real S3 server, on this machine",
    storages=("seaweedfs",),
    entries=(OURS, _RUNAI, _TENSORIZER, _floor("receive", connections=16, quick=True)),
    targets=(
        Target(
            text="throughput / the best peer's",
            measure="gb_per_s",
            of=(OURS,),
            against=(_RUNAI, _TENSORIZER),
            least=1.0,
        ),
    ),
)
GPU = (GPU_COLD, GPU_WARM, GPU_TMPFS, GPU_S3)

# Network.

_OURS_FIXED = _fixed("slipstream", (4, 8, 16, 32, 64))
_RUNAI_FIXED = _fixed("runai", (8, 16, 32))
_TO_NOWHERE = (
    _floor("discard", connections=8),
    _floor("discard", connections=16, quick=True),
    _floor("discard", connections=8, processes=2),
)
_TO_MEMORY = (_floor("receive", connections=8), _floor("receive", connections=16, quick=True))
_RACE = (OURS, *_OURS_FIXED, _RUNAI, *_RUNAI_FIXED, *_TO_NOWHERE, *_TO_MEMORY)


def _speed_targets(*, times: float, cpu: float | None = None) -> tuple[Target, ...]:
    found = []
    for whose, rows in (("its defaults", (_RUNAI,)), ("the best of 8, 16, 32", _RUNAI_FIXED)):
        found.append(
            Target(text=f"throughput / Run:ai's, {whose}", measure="gb_per_s", of=(OURS,), against=rows, least=times)
        )
        if cpu is not None:
            text = f"CPU seconds per GB / Run:ai's, {whose}"
            found.append(Target(text=text, measure="cpu_s_per_gb", of=(OURS,), against=rows, most=cpu))
    return tuple(found)


_MEMORY_TARGETS = tuple(
    Target(text=f"peak MiB above the model's size, {words}", measure="mib_above_model", of=(entry,), most=128)
    for words, entry in (("defaults", OURS), ("64 at once", _OURS_FIXED[-1]))
)

HTTP = Experiment(
    name="http",
    title="Plain HTTP: s3:// from nginx on loopback",
    storages=("http",),
    entries=_RACE,
    targets=(*_speed_targets(times=2.5, cpu=0.5), *_MEMORY_TARGETS),
)
HTTPS = Experiment(
    name="https",
    title="TLS: s3:// from nginx on loopback",
    storages=("https",),
    entries=_RACE,
    targets=(*_speed_targets(times=2.0, cpu=0.6), *_MEMORY_TARGETS),
)
HTTP_LIMITED = Experiment(
    name="http-limited",
    title="90 MB/s for each connection: s3:// from nginx on loopback",
    storages=("http-limited",),
    entries=(
        OURS,
        *_OURS_FIXED,
        _RUNAI,
        *_fixed("runai", (32,)),
        _floor("discard", connections=32, quick=True),
        _floor("discard", connections=64),
    ),
    targets=(
        Target(
            text="throughput / the best fixed concurrency's",
            measure="gb_per_s",
            of=(OURS,),
            against=_OURS_FIXED,
            least=0.9,
        ),
        Target(
            text="throughput / Run:ai's, its defaults", measure="gb_per_s", of=(OURS,), against=(_RUNAI,), least=2.0
        ),
    ),
)
SEAWEEDFS = Experiment(
    name="seaweedfs",
    title="SeaweedFS: s3:// from a real S3 server on this machine",
    storages=("seaweedfs",),
    entries=(OURS, _RUNAI, *_RUNAI_FIXED, *_TO_NOWHERE[:2], *_TO_MEMORY),
    targets=_speed_targets(times=1.4),
)
FAULTS = Experiment(
    name="faults",
    title="2 % of requests fail (503, reset, short body), 0.5 % stall; and none",
    storages=("http-faultless", "http-faulty"),
    together=True,
    entries=(OURS,),
    targets=(
        Target(
            text="time / that without faults",
            measure="seconds",
            of=(OURS,),
            storage="http-faulty",
            against=(OURS,),
            against_storage="http-faultless",
            most=1.5,
        ),
    ),
)
_INSPECT = Entry(contender="slipstream", label="slipstream.inspect", quick=True)
HEADERS = Experiment(
    name="headers",
    title="The headers of 64 shards, found through their index; the server takes 30 ms for a first byte",
    kind="headers",
    storages=("http-slow",),
    entries=(_INSPECT,),
    layout="llama-tiny",
    layers=64,
    files=64,
    targets=(Target(text="milliseconds for all headers", measure="milliseconds", of=(_INSPECT,), most=200),),
)
LOCK = Experiment(
    name="lock",
    title="How long the interpreter's lock is held: at full speed, and at 40 MB/s for each connection",
    kind="lock",
    storages=("http", "http-paced", "https", "https-paced"),
    together=True,
    touch="after",
    entries=(OURS,),
)
NETWORK = (HTTP, HTTPS, HTTP_LIMITED, SEAWEEDFS, FAULTS, HEADERS, LOCK)
