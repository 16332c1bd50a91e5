"""Writes a checkpoint with the layout of a known model and random contents: incompressible, reproducible, quick.

**Contents.** A tensor's bytes depend on the seed and its name only, so they are the same however the checkpoint
is sharded, ordered or cut down to fewer layers. Tensors are made in pieces of 8 MiB; each piece is the raw output
of an SFC64 generator whose state is BLAKE2b of (seed, name, number of the piece). One generator object per thread
is given one state after another: that costs 4 microseconds, where a new object would cost 20, and there are
layouts of 90,000 tensors.

**Every value is finite.** In the elements of a floating-point tensor the top bit of the exponent is cleared, and
nothing else: the exponent is then at most the bias, so infinities and NaNs cannot occur and every |x| < 2, while
15 of 16 bits stay random. One bitwise AND does it, which conversion or drawing from a distribution would not.

**Files.** They go to a `Destination`, which makes them visible only once all are stored, so a checkpoint is there
whole or not at all: to a directory by `write_checkpoint`, to an object store by `uploading.upload_checkpoint`.

Measured on two cores and a disk that takes 1.6 GB/s: 1.0 to 1.2 GB/s, fsync included, for a file of 1 GB; 1.9 to
2.7 s for 89,613 tensors of 4 KiB.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slipstream.errors import AccessDeniedError, SlipstreamError, UsageError
from slipstream.testing.checkpoints import encode_header, encode_index
from slipstream.testing.destination import Destination, NewFile, Part, file_with
from slipstream.testing.layouts import Layout, TensorSpec, find_layout
from slipstream.testing.staging import Staging, refuse_to_overwrite
from slipstream.types import Dtype

_PIECE_BYTES = 8 << 20
# The top bit of the exponent stands right behind the sign. All bits of a word but those:
_FINITE_MASKS: Mapping[Dtype, np.uint64] = {
    **dict.fromkeys((Dtype.F8_E4M3, Dtype.F8_E5M2), np.uint64(0xBFBF_BFBF_BFBF_BFBF)),
    **dict.fromkeys((Dtype.F16, Dtype.BF16), np.uint64(0xBFFF_BFFF_BFFF_BFFF)),
    Dtype.F32: np.uint64(0xBFFF_FFFF_BFFF_FFFF),
    Dtype.F64: np.uint64(0xBFFF_FFFF_FFFF_FFFF),
}


@dataclass(frozen=True, slots=True)
class SyntheticCheckpoint:
    """What `write_checkpoint` wrote.

    Attributes:
        directory: the checkpoint's directory.
        files: its safetensors files, in model order.
        tensors: how many tensors.
        nbytes: bytes of all tensors, without headers.
    """

    directory: Path
    files: tuple[Path, ...]
    tensors: int
    nbytes: int


def write_checkpoint(
    layout: str | Layout,
    directory: str | os.PathLike[str],
    *,
    layers: int | None = None,
    shards: int = 1,
    seed: int = 0,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> SyntheticCheckpoint:
    """Writes a synthetic checkpoint, with its config.json, and with an index where there are several shards.

    Args:
        layout: one of `slipstream.testing.layouts.LAYOUTS`, by name or itself.
        directory: where; made if need be.
        layers: the first so many of the model's layers; None is all of them.
        shards: into how many files, of about equal size.
        seed: another seed, other contents.
        force: replace the checkpoint that is there.
        progress: called with (bytes written, bytes in all), in the caller's thread.

    Raises:
        UsageError: no such layout, layers or shards, or a checkpoint is there already.
        SlipstreamError: the disk is full or failed. As after any failure, Ctrl-C included, nothing is left behind.
    """
    contents = compose_checkpoint(layout, layers=layers, shards=shards, seed=seed)
    directory = Path(directory)
    try:
        refuse_to_overwrite(directory, force=force)
        with Staging(directory) as staging:
            staging.require_space(contents.shard_nbytes)
            contents.write_to(staging, progress)
            staging.commit()
    except PermissionError as error:
        raise AccessDeniedError(f"cannot write into {directory}: {error.strerror}", uri=str(directory)) from error
    except OSError as error:
        raise SlipstreamError(
            f"the checkpoint could not be written into {directory}: {error.strerror}; nothing of it was left there",
            uri=str(directory),
        ) from error
    return SyntheticCheckpoint(
        directory=directory,
        files=tuple(directory / file.name for file in contents.shards),
        tensors=contents.tensors,
        nbytes=contents.nbytes,
    )


@dataclass(frozen=True, slots=True)
class Contents:
    """The files of a synthetic checkpoint, none of them made yet.

    Attributes:
        shards: the safetensors files, in model order.
        others: the index, where there are several shards, and config.json.
        tensors: how many tensors.
        nbytes: bytes of all tensors, without headers.
    """

    shards: tuple[NewFile, ...]
    others: tuple[NewFile, ...]
    tensors: int
    nbytes: int

    @property
    def shard_nbytes(self) -> int:
        """Bytes of the safetensors files."""
        return sum(file.nbytes for file in self.shards)

    def write_to(self, destination: Destination, progress: Callable[[int, int], None] | None) -> None:
        """Makes and writes all files, shards first; progress counts these."""
        written, total = 0, self.shard_nbytes

        def report(nbytes: int) -> None:
            nonlocal written
            written += nbytes
            if progress is not None:
                progress(written, total)

        destination.write(self.shards, report)
        destination.write(self.others, lambda nbytes: None)


def compose_checkpoint(layout: str | Layout, *, layers: int | None = None, shards: int = 1, seed: int = 0) -> Contents:
    """Lays a synthetic checkpoint out. Arguments as in `write_checkpoint`.

    Raises:
        UsageError: no such layout, layers or shards.
    """
    layout = find_layout(layout) if isinstance(layout, str) else layout
    layers = layout.checked_layers(layers)
    files = _split(layout.specs(layers), shards)
    randomness = _Randomness(seed)
    others: list[NewFile] = []
    if shards > 1:
        weight_map = {spec.name: file.name for file in files for spec in file.specs}
        index = encode_index(weight_map, sum(file.data_nbytes for file in files))
        others.append(file_with("model.safetensors.index.json", index))
    others.append(file_with("config.json", (json.dumps(layout.config(layers), indent=2) + "\n").encode()))
    return Contents(
        shards=tuple(NewFile(file.name, tuple(_parts(file, randomness))) for file in files),
        others=tuple(others),
        tensors=sum(len(file.specs) for file in files),
        nbytes=sum(file.data_nbytes for file in files),
    )


def tensor_bytes(spec: TensorSpec, *, seed: int = 0) -> bytes:
    """The contents that `write_checkpoint` gives this tensor."""
    return _Randomness(seed).fill(_pieces(spec)).tobytes()


class _Piece(NamedTuple):
    """Up to 8 MiB of one tensor: the unit of random contents."""

    name: str
    dtype: Dtype
    number: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class _ShardFile:
    """One file to be written."""

    name: str
    specs: tuple[TensorSpec, ...]
    header: bytes
    data_nbytes: int


def _split(specs: tuple[TensorSpec, ...], shards: int) -> list[_ShardFile]:
    """Cuts the model into files of about equal size, in model order, none of them empty."""
    if not 1 <= shards <= len(specs):
        raise UsageError(f"{len(specs)} tensors go into 1 to {len(specs)} shards, not {shards}")
    files: list[_ShardFile] = []
    sizes = [spec.nbytes for spec in specs]
    start, rest = 0, sum(sizes)
    for shard in range(shards):
        left = shards - shard
        end, size = start + 1, sizes[start]
        while len(specs) - end >= left and (left == 1 or size + sizes[end] / 2 <= rest / left):
            size += sizes[end]
            end += 1
        name = "model.safetensors" if shards == 1 else f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        files.append(_ShardFile(name, specs[start:end], encode_header(specs[start:end], {"format": "pt"}), size))
        start, rest = end, rest - size
    return files


def _pieces(spec: TensorSpec) -> Iterator[_Piece]:
    nbytes = spec.nbytes
    for number, start in enumerate(range(0, nbytes, _PIECE_BYTES)):
        yield _Piece(spec.name, spec.dtype, number, min(_PIECE_BYTES, nbytes - start))


def _parts(file: _ShardFile, randomness: _Randomness) -> Iterator[Part]:
    """The file's header, then its pieces, small neighbours together."""
    yield Part(0, len(file.header), lambda: file.header)
    offset, nbytes, pending = len(file.header), 0, list[_Piece]()
    for spec in file.specs:
        for piece in _pieces(spec):
            if pending and nbytes + piece.nbytes > _PIECE_BYTES:
                yield Part(offset, nbytes, partial(_make, randomness, tuple(pending)))
                offset, nbytes, pending = offset + nbytes, 0, []
            pending.append(piece)
            nbytes += piece.nbytes
    if pending:
        yield Part(offset, nbytes, partial(_make, randomness, tuple(pending)))


def _make(randomness: _Randomness, pieces: Sequence[_Piece]) -> memoryview:
    return randomness.fill(pieces).data


class _Randomness(threading.local):
    """A generator for each thread that uses it."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._bits = np.random.SFC64(0)

    def fill(self, pieces: Sequence[_Piece] | Iterator[_Piece]) -> NDArray[np.uint8]:
        """The contents of these pieces, one behind the other."""
        parts = [self._make(piece) for piece in pieces]
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.uint8), *parts])

    def _make(self, piece: _Piece) -> NDArray[np.uint8]:
        label = f"{self._seed} {piece.number} {piece.name}".encode()
        state = np.frombuffer(hashlib.blake2b(label, digest_size=32).digest(), np.dtype("<u8")).astype(np.uint64)
        self._bits.state = {"bit_generator": "SFC64", "state": {"state": state}, "has_uint32": 0, "uinteger": 0}
        words: NDArray[np.uint64] = self._bits.random_raw(-(-piece.nbytes // 8))
        mask = _FINITE_MASKS.get(piece.dtype)
        if mask is not None:
            words &= mask
        return words.astype("<u8", copy=False).view(np.uint8)[: piece.nbytes]
