"""The raw limits of a place: what plain reads get out of a file system, and plain ranges out of a server.

    floor = measure_floor("/mnt/nvme", ...)
    floor.rows        each way to read, with the times of its samples
    floor.iops        small reads a second, of a file system

What is read is the checkpoint that lies there, or the file, or, in a directory without one, a file that is made for it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import slipstream
from slipstream.bench.contenders import find_contender
from slipstream.bench.errors import SampleError
from slipstream.bench.machine import describe_mount
from slipstream.bench.models import Model
from slipstream.bench.page_cache import make_cold, settle_memory
from slipstream.bench.plan import turns
from slipstream.bench.records import ModelFacts, Setting
from slipstream.bench.sampling import SampleRequest, take_sample
from slipstream.bench.storages.base import PlacedModel
from slipstream.bench.storages.object_store import aws_variables
from slipstream.bench.storages.plain_reader import PlainReader
from slipstream.errors import BlobNotFoundError, UsageError
from slipstream.testing.presigning import presign

Report = Callable[[str, int, int], object]

DISK_WAYS: Sequence[Mapping[str, Setting]] = (
    {"method": "direct", "threads": 8},
    {"method": "direct", "threads": 16},
    {"method": "populate", "threads": 1},
    {"method": "populate", "threads": 2},
    {"method": "populate", "threads": 4},
)
STORE_WAYS: Sequence[Mapping[str, Setting]] = (
    {"method": "discard", "connections": 16},
    {"method": "discard", "connections": 32},
    {"method": "receive", "connections": 16},
    {"method": "receive", "connections": 32},
    {"method": "receive", "connections": 64},
)
_PIECE_BYTES = 8 << 20
_PROBE_S = 1.0
_MARGIN_BYTES = 64 << 20
_IN_MEMORY = ("tmpfs", "ramfs")  # where there is nothing to be cold
_SCRATCH = ".slipstream-bench-floor"


@dataclass(frozen=True)
class FloorRow:
    """One way to read.

    Attributes:
        label: in words.
        seconds: of its samples.
        cpu_s: likewise.
        reason: why a sample failed, the last one that did; "" where none did.
    """

    label: str
    seconds: tuple[float, ...] = ()
    cpu_s: tuple[float, ...] = ()
    reason: str = ""

    @property
    def median_s(self) -> float | None:
        """The median time."""
        return median(self.seconds) if self.seconds else None


@dataclass(frozen=True)
class Floor:
    """What was measured of a place.

    Attributes:
        place: a path, or a URI without secrets.
        nbytes: read by each sample.
        rows: the ways to read, in their order.
        iops: 4 KiB reads a second, 128 at once, past the page cache; None for what is no file, or refuses O_DIRECT.
        mount: device, file system and options, where it is a file system.
    """

    place: str
    nbytes: int
    rows: tuple[FloorRow, ...]
    iops: float | None = None
    mount: Mapping[str, str] | None = None

    @property
    def best(self) -> FloorRow | None:
        """The fastest."""
        return min(
            (row for row in self.rows if row.seconds), key=lambda row: row.median_s or float("inf"), default=None
        )


def measure_floor(
    place: str,
    *,
    repeats: int = 3,
    scratch_bytes: int = 2 << 30,
    storage_options: Mapping[str, str] | None = None,
    report: Report = lambda what, done, total: None,
) -> Floor:
    """Measures a file, a directory, a prefix of an object store, or a URL.

    Args:
        place: where.
        repeats: samples of each way to read; they take turns.
        scratch_bytes: of the file that is made in a directory without a checkpoint. It is removed again.
        storage_options: how an object store is reached.
        report: shown how it goes.

    Raises:
        BlobNotFoundError: there is no such place, or nothing in it that could be read.
        UsageError: a directory that cannot be written and has no checkpoint.
    """
    if "://" in place and not place.startswith("file://"):
        placed = _place_remotely(place, storage_options)
        rows = _take_turns(STORE_WAYS, placed, repeats, report)
        return Floor(place=placed.model.name, nbytes=sum(placed.sizes), rows=rows)
    path = Path(place.removeprefix("file://")).expanduser().absolute()
    with _files(path, scratch_bytes, report) as files:
        placed = PlacedModel(model=_stand_in(str(path), files), uris=tuple(map(str, files)), files=tuple(files))
        rows = _take_turns(DISK_WAYS, placed, repeats, report)
        report("counting small reads", 0, 0)
        return Floor(
            place=str(path),
            nbytes=sum(placed.sizes),
            rows=rows,
            iops=_count_small_reads(files),
            mount=dict(describe_mount(files[0])),
        )


def _take_turns(
    ways: Sequence[Mapping[str, Setting]], placed: PlacedModel, repeats: int, report: Report
) -> tuple[FloorRow, ...]:
    contender = find_contender("floor")
    rows = {number: FloorRow(contender.label(way)) for number, way in enumerate(ways)}
    for count, (_, number) in enumerate(turns([*rows], repeats)):
        row = rows[number]
        report(row.label, count, repeats * len(ways))
        try:
            figures = _take(ways[number], placed)
        except SampleError as error:
            rows[number] = replace(row, reason=str(error))
        else:
            cpu_s = (*row.cpu_s, figures[1]) if figures[1] is not None else row.cpu_s
            rows[number] = replace(row, seconds=(*row.seconds, figures[0]), cpu_s=cpu_s)
    return tuple(rows.values())


def _take(way: Mapping[str, Setting], placed: PlacedModel) -> tuple[float, float | None]:
    """Seconds and CPU seconds of one sample."""

    in_memory = bool(placed.files) and describe_mount(placed.files[0]).get("filesystem") in _IN_MEMORY

    def prepare(pid: int) -> None:
        if way["method"] != "discard":
            settle_memory(sum(placed.sizes), margin_bytes=_MARGIN_BYTES)
        if not in_memory:
            make_cold(placed.files)

    request = SampleRequest(contender=find_contender("floor"), placed=placed, settings=way, verify=False)
    figures = take_sample(request, prepare).figures
    return figures.seconds, figures.cpu_s


def _place_remotely(uri: str, storage_options: Mapping[str, str] | None) -> PlacedModel:
    checkpoint = slipstream.inspect(uri, storage_options=storage_options)
    uris = tuple(blob.uri for blob in checkpoint.blobs)
    is_web = uri.partition("://")[0].lower() in ("http", "https")
    return PlacedModel(
        model=_stand_in(uri.partition("?")[0], ()),
        uris=uris,
        urls=(uri,) if is_web and len(uris) == 1 else uris if is_web else presign(uris, storage_options),
        storage_options=dict(storage_options or {}),
        environment=aws_variables(storage_options or {}),
        known_sizes=tuple(blob.size for blob in checkpoint.blobs),
    )


def _stand_in(name: str, files: Sequence[Path]) -> Model:
    """A model of which nothing matters but its files."""
    facts = ModelFacts(name=name, layers=None, nbytes=0, tensors=0, files=len(files))
    return Model(name=name, layers=None, files=tuple(files), cache=Path(), facts=facts)


@contextmanager
def _files(path: Path, scratch_bytes: int, report: Report) -> Iterator[list[Path]]:
    """What is read of a path; a file that had to be made is gone at the end."""
    if path.is_file():
        yield [path]
        return
    try:
        yield [Path(blob.uri) for blob in slipstream.inspect(str(path)).blobs]
        return
    except BlobNotFoundError:
        if not path.is_dir():
            raise
    scratch = path / f"{_SCRATCH}-{os.getpid()}"
    try:
        _write(scratch, scratch_bytes, report)
        yield [scratch]
    finally:
        scratch.unlink(missing_ok=True)


def _write(file: Path, nbytes: int, report: Report) -> None:
    """A file of random bytes, which no storage compresses."""
    try:
        free = shutil.disk_usage(file.parent).free
        if free < nbytes:
            raise UsageError(f"{file.parent} has {free / 1e9:.1f} GB free; give a smaller --size, or a file to read")
        with file.open("xb") as target:
            piece = os.urandom(_PIECE_BYTES)
            for start in range(0, nbytes, _PIECE_BYTES):
                target.write(piece[: nbytes - start])
                report(f"writing {file}", start, nbytes)
            target.flush()
            os.fsync(target.fileno())
    except OSError as error:
        raise UsageError(
            f"{file.parent} has no checkpoint, and a file to read cannot be made there: {error.strerror}"
        ) from error


def _count_small_reads(files: Sequence[Path]) -> float | None:
    try:
        with PlainReader(max(files, key=lambda file: file.stat().st_size)) as reader:
            return reader.measure(_PROBE_S).get("iops")
    except OSError:  # a file system without O_DIRECT
        return None
