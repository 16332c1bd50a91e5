"""What is measured: pure data. An experiment says who loads, with which settings, from where, and in which state.

    EXPERIMENTS["gp3"].entries      slipstream: defaults, concurrency 1, 4, ...; ...; floor: direct, 8 threads, ...

Here are those of the published benchmark, with its sweeps; slipstream is swept exactly as the Run:ai streamer is, and
everyone is also measured as they come. Those of `own_experiments` are about this machine's disk and a server on
loopback, and have what is asked of slipstream there (`targets`). To add one, add a value there, or to `EXPERIMENTS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from slipstream.bench.experiment import Entry, Experiment, Kind
from slipstream.bench.own_experiments import DISK, GPU, NETWORK
from slipstream.bench.records import Setting
from slipstream.errors import UsageError

__all__ = ["EXPERIMENTS", "GROUPS", "Entry", "Experiment", "Kind", "find_experiments"]


def _sweep(contender: str, setting: str, values: Sequence[Setting], *, quick: Sequence[Setting] = ()) -> list[Entry]:
    """A contender at its defaults, and with each of these values."""
    swept = [Entry(contender=contender, settings={setting: value}, quick=value in quick) for value in values]
    return [Entry(contender=contender, quick=True), *swept]


def _streamers(values: Sequence[int], *, quick: Sequence[int]) -> list[Entry]:
    return [entry for name in ("slipstream", "runai") for entry in _sweep(name, "concurrency", values, quick=quick)]


def _floors(method: str, setting: str, values: Sequence[int], *, quick: Sequence[int] = ()) -> list[Entry]:
    return [
        Entry(contender="floor", settings={"method": method, setting: value}, quick=value in quick) for value in values
    ]


# Those that read files only; from an object store they say so in the table.
_OTHERS = [
    Entry(contender="safetensors", quick=True),
    Entry(contender="safetensors", settings={"backend": "pread"}),
    Entry(contender="safetensors", settings={"method": "prefetch"}),
    Entry(contender="fastsafetensors", quick=True),
    Entry(contender="fastsafetensors", settings={"bbuf_size_kb": 160 << 10}),
    Entry(contender="instanttensor", quick=True),
]
_DISK_FLOORS = [
    *_floors("direct", "threads", (8, 16), quick=(16,)),
    *_floors("populate", "threads", (1, 2, 4), quick=(2,)),
]
_STORE_FLOORS = [
    *_floors("discard", "connections", (16, 32), quick=(16,)),
    *_floors("receive", "connections", (16, 64), quick=(16,)),
]

GP3 = Experiment(
    name="gp3",
    title="GP3 SSD: 1,000 MiB/s, 16,000 IOPS",
    storages=("gp3",),
    entries=(
        *_streamers((1, 4, 8, 16), quick=(16,)),
        *_OTHERS,
        *_sweep("tensorizer", "num_readers", (1, 4, 8, 16, 32, 64, 100), quick=(16,)),
        *_DISK_FLOORS,
    ),
)
IO2 = Experiment(
    name="io2",
    title="IO2 SSD: 4,000 MiB/s, 100,000 IOPS",
    storages=("io2",),
    entries=(
        *_streamers((1, 4, 8, 16, 20), quick=(16,)),
        *_OTHERS,
        *_sweep("tensorizer", "num_readers", (1, 4, 8, 16, 32), quick=(8,)),
        *_DISK_FLOORS,
    ),
)
S3 = Experiment(
    name="s3",
    title="Amazon S3",
    storages=("s3",),
    entries=(
        *_streamers((4, 16, 32, 64), quick=(32,)),
        Entry(contender="safetensors", quick=True),
        Entry(contender="fastsafetensors", quick=True),
        Entry(contender="instanttensor", quick=True),
        *_sweep("tensorizer", "num_readers", (8, 16, 32, 64, 80), quick=(16,)),
        *_STORE_FLOORS,
    ),
)
VLLM = Experiment(
    name="vllm",
    title="vLLM until it is ready, by load format",
    kind="vllm",
    storages=("gp3", "io2", "s3"),
    entries=(
        Entry(contender="slipstream", quick=True),
        Entry(contender="safetensors", quick=True),
        Entry(contender="runai", quick=True),
        Entry(contender="tensorizer", quick=True),
    ),
)
EXPERIMENTS: Mapping[str, Experiment] = {
    experiment.name: experiment for experiment in (GP3, IO2, S3, VLLM, *DISK, *NETWORK, *GPU)
}
GROUPS: Mapping[str, tuple[str, ...]] = {
    "all": ("gp3", "io2", "s3", "vllm"),
    "disk": tuple(experiment.name for experiment in DISK),
    "network": tuple(experiment.name for experiment in NETWORK),
    "gpu": tuple(experiment.name for experiment in GPU),
}
"""Names that stand for several. `all` is the published benchmark's."""


def find_experiments(names: Sequence[str]) -> list[Experiment]:
    """The experiments of these names, each once.

    Raises:
        UsageError: there is none of such a name.
    """
    wanted = dict.fromkeys(each for name in names for each in GROUPS.get(name, (name,)))
    unknown = [name for name in wanted if name not in EXPERIMENTS]
    if unknown:
        raise UsageError(
            f'there is no experiment "{unknown[0]}"; there are {", ".join(EXPERIMENTS)}, and the groups '
            f"{', '.join(GROUPS)}"
        )
    return [EXPERIMENTS[name] for name in wanted]
