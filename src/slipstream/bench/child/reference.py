"""Whether what was handed out is the model, byte for byte: digests of every tensor, beside those of its files.

A reference is made once for a model, from its files as the format says (`headers`). It has a SHA-256 of every
tensor, and an XXH3 where the package xxhash is installed: on two cores without other work 18 GB/s, where SHA-256 takes
1.5 and BLAKE2b 0.7. A sample compares by the fastest that both have. Both hashes release the interpreter lock.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple

from . import headers, tensors

SCHEMA = 1
SHA256, XXH3 = "sha256", "xxh3_128"
_READ_BYTES = 8 << 20
_THREADS = min(4, os.cpu_count() or 1)
_MOST_DIFFERENCES = 5


class Handed(NamedTuple):
    """One tensor that was handed out; `data` makes its bytes, as an array of uint8."""

    name: str
    dtype: str
    shape: list[int]
    data: Callable[[], Any]


class Verdict(NamedTuple):
    """What became of a comparison.

    Attributes:
        checksum: of names, dtypes, shapes and digests of all tensors that were compared; "" if any differs.
        differences: what differs, in words; the first few.
        compared: how many tensors were compared by their bytes.
        by: the hash.
    """

    checksum: str
    differences: list[str]
    compared: int
    by: str


def make_reference(
    paths: Sequence[str], target: str, report: Callable[[int, int], object] | None = None
) -> dict[str, Any]:
    """Reads safetensors files from first byte to last and writes the digests of their tensors to `target`.

    `report` is called in this thread with the bytes read so far, and all.

    Raises:
        ValueError: one of them is no such file, or two have a tensor in common.
    """
    entries = {path: headers.read_entries(path) for path in paths}
    names = [entry.name for found in entries.values() for entry in found]
    if len(set(names)) < len(names):
        raise ValueError("several files have a tensor of the same name, so they are no checkpoint")
    total = sum(entry.end - entry.start for found in entries.values() for entry in found)
    done = 0
    facts: dict[str, Any] = {}
    for path, found in entries.items():
        with open(path, "rb") as file, ThreadPoolExecutor(_THREADS) as pool:
            digests = pool.map(partial(_digest_range, file.fileno()), found)
            for entry, digest in zip(found, digests, strict=True):
                facts[entry.name] = {"dtype": entry.dtype, "shape": entry.shape, **digest}
                done += entry.end - entry.start
                if report is not None:
                    report(done, total)
    reference = {"schema": SCHEMA, "checksum": _checksum(facts, facts), "tensors": facts}
    unfinished = f"{target}.{os.getpid()}.unfinished"
    try:
        with open(unfinished, "w") as out:
            json.dump(reference, out)
        os.replace(unfinished, target)
    except BaseException:
        if os.path.exists(unfinished):
            os.unlink(unfinished)
        raise
    return reference


def compare(
    handed: Iterable[Handed], reference: dict[str, Any], *, names: str | None, by_bytes: bool = True
) -> Verdict:
    """Compares what was handed out with a reference.

    Args:
        handed: all of it.
        reference: as `make_reference` makes it.
        names: the glob by which tensors were selected.
        by_bytes: whether there are bytes to compare, or names, dtypes and shapes only.
    """
    known = reference["tensors"]
    expected = {name for name in known if names is None or fnmatchcase(name, names)}
    by = _fastest(known)
    differences: list[str] = []
    seen: dict[str, Handed] = {}
    for tensor in handed:
        if tensor.name in seen:
            differences.append(f"{tensor.name} was handed out twice")
        elif tensor.name not in expected:
            differences.append(f"{tensor.name} is not part of the model")
        else:
            seen[tensor.name] = tensor
            differences += _unlike(tensor, known[tensor.name])
    differences += [f"{name} is missing" for name in sorted(expected - seen.keys())]
    if by_bytes:
        hash_of = _hashes()[by]
        with ThreadPoolExecutor(_THREADS) as pool:
            digests = pool.map(lambda tensor: _hexdigest(hash_of, [tensor.data()]), seen.values())
            for name, digest in zip(seen, digests, strict=True):
                if digest != known[name][by]:
                    differences.append(f"{name} has other bytes")
    checksum = "" if differences or not by_bytes else _checksum(known, expected)
    return Verdict(checksum, differences[:_MOST_DIFFERENCES], len(seen) if by_bytes else 0, by)


def handed_out(kept: Iterable[tuple[str, Any]], *, whole_files: bool) -> Iterator[Handed]:
    """What an adapter handed out, tensor by tensor; whole files are taken apart."""
    for name, tensor in kept:
        if whole_files:
            for entry in headers.entries_of(tensor):
                yield Handed(entry.name, entry.dtype, entry.shape, _slicer(tensor, entry.start, entry.end))
        else:
            yield Handed(name, tensors.dtype_name(tensor), tensors.shape_of(tensor), _viewer(tensor))


def _unlike(tensor: Handed, known: dict[str, Any]) -> Iterator[str]:
    if tensor.dtype != known["dtype"]:
        yield f"{tensor.name} is {tensor.dtype}, not {known['dtype']}"
    if list(tensor.shape) != known["shape"]:
        yield f"{tensor.name} has the shape {list(tensor.shape)}, not {known['shape']}"


def _viewer(tensor: Any) -> Callable[[], Any]:
    return lambda: tensors.as_bytes(tensor)


def _slicer(file: Any, start: int, end: int) -> Callable[[], Any]:
    return lambda: file[start:end]


def _digest_range(descriptor: int, entry: headers.Entry) -> dict[str, str]:
    hashes = {name: make() for name, make in _hashes().items()}
    buffer = bytearray(min(_READ_BYTES, max(1, entry.end - entry.start)))
    at = entry.start
    while at < entry.end:
        got = os.preadv(descriptor, [memoryview(buffer)[: entry.end - at]], at)
        if not got:
            raise ValueError("the file became shorter while it was read")
        for each in hashes.values():
            each.update(memoryview(buffer)[:got])
        at += got
    return {name: str(each.hexdigest()) for name, each in hashes.items()}


def _hexdigest(make: Callable[[], Any], pieces: Iterable[Any]) -> str:
    made = make()
    for piece in pieces:
        made.update(piece)
    return str(made.hexdigest())


def _hashes() -> dict[str, Callable[[], Any]]:
    """The hashes there are, fastest first."""
    try:
        import xxhash
    except ImportError:
        return {SHA256: hashlib.sha256}
    return {XXH3: xxhash.xxh3_128, SHA256: hashlib.sha256}


def _fastest(known: dict[str, Any]) -> str:
    """The fastest hash that is installed here and that every tensor of a reference has."""
    return next(name for name in _hashes() if all(name in facts for facts in known.values()))


def _checksum(known: dict[str, Any], names: Iterable[str]) -> str:
    lines = (
        f"{name}\t{known[name]['dtype']}\t{known[name]['shape']}\t{known[name][SHA256]}\n" for name in sorted(names)
    )
    return f"{SHA256}:{_hexdigest(hashlib.sha256, (line.encode() for line in lines))}"
