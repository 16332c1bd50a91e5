"""Who is measured: slipstream, the loaders it is compared with, and the raw readers that are the floor.

A contender is a function from a Job to an iterator of (name, tensor). It runs in a process of its own, after its
modules were imported and before anything else was done: opening files and parsing headers is part of what is timed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from raw_readers import read_direct, read_populated

Role = Literal["slipstream", "peer", "floor"]
Framework = Literal["torch", "numpy"]
Tensors = Iterator[tuple[str, Any]]  # torch tensors or numpy arrays: what the contender hands out

TENSORIZER_READERS = 8
# The note of a reader that hands nothing out: how many bytes it has received and thrown away.
THROWN_AWAY = "thrown_away_bytes"


@dataclass(frozen=True)
class Job:
    """What to load.

    Attributes:
        model: a directory of safetensors files, or one such file.
        names: a glob that selects tensors, or None for all.
        uris: where a server has the model's files, if they are to be loaded from there.
        storage_options: how slipstream reaches that server. Others have it in their environment.
        notes: filled by the contender: what it says about how it loaded.
    """

    model: Path
    names: str | None = None
    uris: tuple[str, ...] = ()
    storage_options: Mapping[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Path, ...]:
        """The model's safetensors files, by name."""
        return tuple(sorted(self.model.glob("*.safetensors"))) if self.model.is_dir() else (self.model,)

    @property
    def sources(self) -> list[str]:
        """What loaders are given: the URIs, else the files."""
        return [*self.uris] or [str(path) for path in self.files]


@dataclass(frozen=True)
class Contender:
    """One row of the tables.

    Attributes:
        name: as the tables show it.
        role: what it is compared as.
        load: hands out every tensor.
        modules: imported before the clock starts.
        distribution: whose version is recorded; None for our own raw readers.
        environment: variables set for its process alone.
        converts: loads a converted copy of the model (see `tensorizer_path`).
        discards: throws away what it reads, so it needs no settled memory.
    """

    name: str
    role: Role
    load: Callable[[Job], Tensors]
    modules: tuple[str, ...]
    distribution: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    converts: bool = False
    discards: bool = False

    @property
    def installed(self) -> bool:
        """Whether its modules can be imported here."""
        return all(importlib.util.find_spec(module) for module in self.modules)

    @property
    def version(self) -> str | None:
        """The version of its distribution, or None where it has none or is run from its sources."""
        try:
            return importlib.metadata.version(self.distribution) if self.distribution else None
        except importlib.metadata.PackageNotFoundError:
            return None

    def reads(self, job: Job) -> tuple[Path, ...]:
        """The files whose place in the page cache decides whether a sample is cold or warm."""
        return (tensorizer_path(job.model),) if self.converts else job.files


def load_slipstream(job: Job, framework: Framework = "torch", **settings: Any) -> Tensors:
    """Streams with slipstream; `settings` are those of slipstream.Options that are not default."""
    import slipstream

    options = slipstream.Options(**{"populate": True, **settings})  # as slipstream.load, which keeps everything
    uri = [*job.uris] or str(job.model)
    stream = slipstream.stream(
        uri, framework=framework, names=job.names, options=options, storage_options=job.storage_options
    )
    with stream as tensors:
        yield from tensors
        stats = tensors.stats()
    job.notes["strategies"] = sorted({f"{file.strategy}: {file.reason}" for file in stats.files})
    job.notes["fallbacks"] = list(stats.fallbacks)
    job.notes["reads"] = stats.reads
    job.notes["peak_buffer_bytes"] = stats.peak_buffer_bytes
    if job.uris:
        for name in ("requests", "retries", "hedged", "connections", "peak_concurrency", "discarded_bytes"):
            job.notes[name] = getattr(stats, name)


def load_runai(job: Job) -> Tensors:
    """Streams with the Run:ai Model Streamer; the tensors it hands out own their memory, its default."""
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_files(job.sources)
        yield from streamer.get_tensors()


def load_safetensors(job: Job) -> Tensors:
    """Maps with safetensors, and takes every tensor in the order in which the file has them."""
    from safetensors import safe_open

    for path in job.files:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in file.offset_keys():
                yield name, file.get_tensor(name)


def load_tensorizer(job: Job) -> Tensors:
    """Loads the converted copy with tensorizer: not lazily, all tensors are in memory when its constructor returns."""
    from tensorizer import TensorDeserializer

    path = str(tensorizer_path(job.model))
    with TensorDeserializer(path, device="cpu", lazy_load=False, num_readers=TENSORIZER_READERS) as deserializer:
        yield from deserializer.items()


def tensorizer_path(model: Path) -> Path:
    """Where the copy of a model in tensorizer's own format lies: beside it."""
    return model.with_name(model.name + ".tensors")


def convert_for_tensorizer(model: Path) -> None:
    """Writes the copy that `load_tensorizer` loads. Takes as much memory as the model, so run it in its own process."""
    from tensorizer import TensorSerializer

    target = tensorizer_path(model)
    unfinished = target.with_name(target.name + ".unfinished")
    serializer = TensorSerializer(str(unfinished))
    serializer.write_state_dict(dict(load_safetensors(Job(model))))
    serializer.close()
    unfinished.rename(target)


def slipstream_contender(name: str, framework: Framework = "torch", **settings: Any) -> Contender:
    modules = ("slipstream", "torch") if framework == "torch" else ("slipstream",)
    load = partial(load_slipstream, framework=framework, **settings)
    return Contender(name, "slipstream", load, modules, "slipstream")


def runai_contender(name: str, **environment: str) -> Contender:
    modules = ("torch", "runai_model_streamer")
    return Contender(name, "peer", load_runai, modules, "runai-model-streamer", environment)


def _floor(name: str, read: Callable[[Sequence[Path], int], Tensors], threads: int) -> Contender:
    def load(job: Job) -> Tensors:
        return read(job.files, threads)

    return Contender(name, "floor", load, ("numpy",))


SLIPSTREAM = slipstream_contender("slipstream")
SLIPSTREAM_DIRECT = slipstream_contender("slipstream direct", strategy="direct")
SLIPSTREAM_NUMPY = slipstream_contender("slipstream, numpy", framework="numpy")
SLIPSTREAM_LIMITED = slipstream_contender("slipstream, 256 MiB limit", memory_limit=256 << 20)
RUNAI = runai_contender("Run:ai")
RUNAI_16 = runai_contender("Run:ai, concurrency 16", RUNAI_STREAMER_CONCURRENCY="16")
SAFETENSORS = Contender("safetensors", "peer", load_safetensors, ("torch", "safetensors"), "safetensors")
TENSORIZER = Contender(
    f"tensorizer, {TENSORIZER_READERS} readers",
    "peer",
    load_tensorizer,
    ("torch", "tensorizer"),
    "tensorizer",
    converts=True,
)
PEERS = (RUNAI, RUNAI_16, SAFETENSORS, TENSORIZER)
FLOORS = (
    _floor("raw O_DIRECT, 8 threads", read_direct, 8),
    _floor("raw O_DIRECT, 16 threads", read_direct, 16),
    _floor("raw populate, 1 thread", read_populated, 1),
    _floor("raw populate, 2 threads", read_populated, 2),
    _floor("raw populate, 4 threads", read_populated, 4),
)
EVERYONE = {c.name: c for c in (SLIPSTREAM, SLIPSTREAM_DIRECT, SLIPSTREAM_NUMPY, SLIPSTREAM_LIMITED, *PEERS, *FLOORS)}
