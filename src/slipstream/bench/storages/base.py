"""Where a model lies while it is measured, and how one sample after the other finds it.

with open_storage(...) as storage:          throttle set, servers started: all undone at the end, whatever happens
    storage.place(model, ...)               untimed, once: copied or uploaded, unless it is there
    storage.facts()                         what the records say of it: limits, and whether they held

    for each sample:
        placed = storage.begin(round)       where its files are, for every kind of client
        take_sample(..., placed, prepare=storage.prepare)
            prepare(pid)                    between the child's "ready" and "go": into the cgroup, cold, verified
            counters()                      before "go", and once the last tensor is there
        storage.end()                       what the servers saw, as notes
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

from slipstream.bench.errors import BenchError

if TYPE_CHECKING:
    from slipstream.bench.models import Model
    from slipstream.bench.records import StorageFacts, StorageKind

PageCache = Literal["cold", "warm"]
Report = Callable[[str, int, int], object]
"""Shown how placing goes: what is done, bytes so far, bytes in all."""


class StorageUnavailableError(BenchError):
    """A storage that cannot be had here. The message says why, and what can be done instead."""


@dataclass(frozen=True)
class PlacedModel:
    """Where a model's files are, for every kind of client. Good for one sample.

    Attributes:
        model: which.
        uris: its safetensors files, in order: absolute local paths, or URIs of an object store or server.
        urls: the same as plain URLs, signed where need be, for receivers that know only HTTP; none for local paths.
        tensorizer_uri: its copy in tensorizer's format, or None where none was placed.
        storage_options: what slipstream is given beside the URIs.
        environment: the same for clients that read it from there: AWS_ variables and the like.
        files: the local files behind `uris`, whose place in the page cache decides whether a sample is cold.
        tensorizer_file: the local file behind `tensorizer_uri`.
        known_sizes: of the files behind `uris`, where the model has no files on this machine.
    """

    model: Model
    uris: tuple[str, ...]
    urls: tuple[str, ...] = ()
    tensorizer_uri: str | None = None
    storage_options: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    tensorizer_file: Path | None = None
    known_sizes: tuple[int, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of the files behind `uris`."""
        return self.known_sizes or tuple(file.stat().st_size for file in self.model.files)

    @property
    def is_local(self) -> bool:
        """Whether loaders are given paths."""
        return not any("://" in uri for uri in self.uris)


@dataclass(frozen=True)
class Counters:
    """Bytes so far; only the difference of two of them means anything. None where it cannot be counted.

    Attributes:
        device_read_bytes: read from the storage's device: by the sample alone where it has a cgroup, else by everyone.
        network_received_bytes: sent by the servers, or received by the network's interfaces.
    """

    device_read_bytes: int | None = None
    network_received_bytes: int | None = None


class Storage(Protocol):
    """One storage, from `__enter__` to `__exit__`. For one thread.

    Attributes:
        name: as in records: "gp3".
        kind: likewise.
        pause_s: how long to wait before each sample, so that the store forgets the last one.
    """

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> StorageKind: ...

    @property
    def pause_s(self) -> float: ...

    def place(self, model: Model, report: Report, *, tensorizer_file: Path | None = None) -> None:
        """Puts the model's files there, unless they are there, and measures whether the limits hold.

        Args:
            model: which.
            report: shown how it goes, in this thread.
            tensorizer_file: its copy in tensorizer's format, where that is wanted too.
        """
        ...

    def facts(self) -> StorageFacts:
        """What records say of this storage."""
        ...

    def begin(self, round_: int) -> PlacedModel:
        """Makes ready for one sample."""
        ...

    def prepare(self, pid: int, *, page_cache: PageCache = "cold", tensorizer: bool = False) -> None:
        """Puts the sample's process where the limits hold, and the files out of the page cache, or all into it.

        Args:
            pid: of the sample's process, which is ready and has read nothing yet.
            page_cache: how the files shall be. What a server on this machine serves is its own affair.
            tensorizer: whether the sample loads the copy in tensorizer's format.

        Raises:
            SampleError: part of them stays in the page cache, or out of it.
        """
        ...

    def counters(self) -> Counters:
        """What has been read or received so far."""
        ...

    def end(self) -> Mapping[str, object]:
        """What was seen of the sample since `begin`."""
        ...

    def __enter__(self) -> Self:
        """Changes nothing and starts nothing yet: a run enters and leaves all its storages before it begins.

        Raises:
            StorageUnavailableError: it cannot be had here.
        """
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
