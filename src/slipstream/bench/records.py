"""Results: one sample is one record, and one record is one line of JSON.

    append_record(path, record)      after each sample: whole and on disk, or not there
    read_records(path)               any number of runs; `.gz` too
    record.key                       what a run that goes on need not measure again

The fields of the classes below are the keys of the JSON, so this file is the description of the format. Keys that it
does not know are ignored on reading: newer files can be read by older programs.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import os
from collections.abc import Hashable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeAlias, Union, get_args, get_origin, get_type_hints

from slipstream.bench.errors import ResultsError

SCHEMA = 1
_TAIL_BYTES = 1 << 16

Role: TypeAlias = Literal["slipstream", "peer", "floor"]
Status: TypeAlias = Literal["ok", "failed", "unavailable"]
StorageKind: TypeAlias = Literal["directory", "throttled", "object-store", "embedded-s3", "range-server"]
Setting: TypeAlias = str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageFacts:
    """Where the model lay.

    Attributes:
        name: as the tables call it: "gp3".
        kind: how it was made.
        emulated: whether it is another storage that was slowed down.
        uri: a path or URI, without credentials.
        limits: what was set: bytes_per_s, iops, read_ahead_kib, connection_bytes_per_s, first_byte_s.
        held: what a plain reader measured under these limits: bytes_per_s, iops.
        mount: device, file system and options, where it is a file system.
    """

    name: str
    kind: StorageKind
    emulated: bool
    uri: str
    limits: Mapping[str, float] = field(default_factory=dict)
    held: Mapping[str, float] = field(default_factory=dict)
    mount: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What was loaded.

    Attributes:
        name: of its layout, or of its directory.
        layers: how many of the layout's layers; None is all of them, or no layout.
        nbytes: of all tensors, without headers.
        tensors: how many.
        files: how many safetensors files.
    """

    name: str
    layers: int | None
    nbytes: int
    tensors: int
    files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one sample measured. None is what does not apply, or could not be measured.

    Attributes:
        seconds: from the call that opens the files until the last tensor is there, every page of it touched, and the
            contender is closed. With vLLM, until its /health answers.
        first_tensor_s: until the first tensor was there.
        cpu_s: user and system time in that region, of all threads and of programs that were run.
        peak_memory_bytes: most resident memory above that before the region; mapped files count.
        page_cache_growth_bytes: how much more of the model's files is in the page cache after it.
        device_read_bytes: read from the block device under the files in that time, by whomever.
        network_received_bytes: as servers counted what they sent, or as the network interface counted.
        nbytes: of all tensors that were handed out; of a floor, what was read.
        tensors: how many.
        health_s, first_token_s, weights_s: of a vLLM server: until /health answers, until the first token came, and
            what loading the weights took of it.
    """

    seconds: float
    first_tensor_s: float | None = None
    cpu_s: float | None = None
    peak_memory_bytes: int | None = None
    page_cache_growth_bytes: int | None = None
    device_read_bytes: int | None = None
    network_received_bytes: int | None = None
    nbytes: int | None = None
    tensors: int | None = None
    health_s: float | None = None
    first_token_s: float | None = None
    weights_s: float | None = None


class RecordKey(NamedTuple):
    """What tells one planned sample from all others of a file of results."""

    experiment: str
    storage: str
    contender: str
    label: str
    destination: str
    model: str
    layers: int | None
    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One sample.

    Attributes:
        schema: of this format.
        run: the id of the run that took it.
        taken_at: when, in ISO 8601 and UTC.
        experiment: "gp3", "io2", "s3", "vllm" or another one.
        storage: where the model lay.
        contender: who loaded it: "slipstream", "runai", ...; "floor" for a plain reader.
        label: which settings, in words: "defaults", "concurrency 16".
        settings: the same as values.
        role: what it is compared as.
        round: the number of the repeat, from 0.
        destination: "cpu", "cuda:0".
        model: what was loaded.
        status: "unavailable" is a contender that cannot run here, "failed" a sample without a figure.
        reason: why there is no figure, in one line; "" where there is.
        figures: None unless status is "ok".
        verified: whether every tensor was compared with the model, byte for byte.
        checksum: of all names, dtypes, shapes and bytes that were handed out; "" where none was made.
        notes: what the contender, the storage and the sampling say of it. JSON values.
        versions: of the contender's distribution, under its name, and of what it stands on.
        machine: as `machine.describe_machine` has it.
        commit: of slipstream's sources; "" where they are no checkout.
    """

    schema: int = SCHEMA
    run: str
    taken_at: str
    experiment: str
    storage: StorageFacts
    contender: str
    label: str
    settings: Mapping[str, Setting]
    role: Role
    round: int
    destination: str
    model: ModelFacts
    status: Status
    reason: str = ""
    figures: Figures | None = None
    verified: bool = False
    checksum: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str | int] = field(default_factory=dict)
    commit: str = ""

    @property
    def key(self) -> RecordKey:
        """Which planned sample this is."""
        return RecordKey(
            self.experiment,
            self.storage.name,
            self.contender,
            self.label,
            self.destination,
            self.model.name,
            self.model.layers,
            self.round,
        )


def format_record(record: Record) -> str:
    """The record as one line of JSON, without its end.

    Raises:
        ValueError: a figure is no number, or a note is nothing that JSON has.
    """
    return json.dumps(asdict(record), allow_nan=False, separators=(",", ":"))


def parse_record(line: str) -> Record:
    """The record of one line.

    Raises:
        ResultsError: it is not one, or of a later format.
    """
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ResultsError("it is no JSON") from error
    if not isinstance(data, dict):
        raise ResultsError("it is no JSON object")
    if not isinstance(data.get("schema"), int) or not 1 <= data["schema"] <= SCHEMA:
        raise ResultsError(f"its schema is {data.get('schema')!r}; this slipstream reads up to {SCHEMA}")
    record = _convert(data, Record, "the record")
    assert isinstance(record, Record)
    return record


def append_record(path: Path, record: Record) -> None:
    """Adds a record to a file of results, made if need be, and waits until it is on disk.

    A line is there whole or not at all: what a killed or full disk's writer left of one is cut off first. Several
    processes may append to one file.

    Raises:
        OSError: the file cannot be written. Nothing of the record is left in it.
    """
    line = (format_record(record) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = _whole_lines_bytes(file.fileno())
        file.truncate(end)
        try:
            written = 0
            while written < len(line):
                written += file.write(line[written:])
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(end)
            raise


def read_records(path: Path) -> list[Record]:
    """All records of a file of results, in its order; a name that ends in `.gz` is decompressed.

    A last line without an end is what a killed writer left, and is ignored.

    Raises:
        ResultsError: a line is no record; the message has its number.
        OSError: the file cannot be read.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            *lines, _unfinished = file.read().decode().split("\n")
    except (EOFError, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise ResultsError(f"{path} is no file of results: {error}", uri=str(path)) from error
    return [_parse_line(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _parse_line(path: Path, number: int, line: str) -> Record:
    try:
        return parse_record(line)
    except ResultsError as error:
        raise ResultsError(f"{path}, line {number}, is no record: {error}", uri=str(path)) from error


def _whole_lines_bytes(descriptor: int) -> int:
    """The size of a file up to its last end of line."""
    end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - _TAIL_BYTES)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _convert(value: object, kind: Any, where: str) -> object:
    """A JSON value as what a field's annotation asks for.

    Raises:
        ResultsError: it is something else.
    """
    if is_dataclass(kind) and isinstance(kind, type):
        return _build(value, kind, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Literal and value in arguments:
        return value
    if origin in (Union, UnionType):
        return _convert_union(value, arguments, where)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, dict):
        return {name: _convert(item, arguments[1], f"{where}.{name}") for name, item in value.items()}
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise ResultsError(f"{where} is {value!r:.80}")


def _convert_union(value: object, kinds: tuple[Any, ...], where: str) -> object:
    if type(value) in kinds:
        return value
    others = [kind for kind in kinds if kind is not NoneType]
    if len(others) > 1:
        raise ResultsError(f"{where} is {value!r:.80}")
    return _convert(value, others[0], where)


def _build(value: object, kind: Any, where: str) -> object:
    if not isinstance(value, dict):
        raise ResultsError(f"{where} is no JSON object")
    known = _hints(kind)
    found = {name: _convert(value[name], hint, name) for name, hint in known.items() if name in value}
    for each in fields(kind):
        if each.name not in found and each.default is MISSING and each.default_factory is MISSING:
            raise ResultsError(f"{where} has no {each.name}")
    return kind(**found)


@cache
def _hints(kind: Hashable) -> dict[str, Any]:
    return get_type_hints(kind)
