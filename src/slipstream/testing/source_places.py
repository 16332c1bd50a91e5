"""What the contract of sources needs: a place to put blobs, contents to put there, and loads of them.

Needs the package safetensors, the reference reader.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

import slipstream
from slipstream.testing.checkpoints import encode_index, encode_safetensors, tensor_nbytes
from slipstream.types import Dtype

CHUNK_BYTES = 64 << 10
"""The largest single read of the contract's loads."""

Loaded: TypeAlias = "dict[str, tuple[tuple[int, ...], bytes]]"
"""Shape and bytes of each tensor."""


@runtime_checkable
class Place(Protocol):
    """A place where blobs are stored, as the contract sees it. Tests share it, each with keys of its own."""

    @property
    def storage_options(self) -> Mapping[str, object] | None:
        """What a load needs to reach the place; None for nothing."""
        ...

    @property
    def endpoint(self) -> str | None:
        """Scheme, host and port of its server, as errors name it; None where there is none."""
        ...

    def uri(self, key: str) -> str:
        """What a load is given for a key, or for a prefix, which ends with a slash."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Stores a blob, in place of what is there."""
        ...


@runtime_checkable
class ListedPlace(Place, Protocol):
    """A place that can tell what is under a prefix."""

    def missing_container_uri(self) -> str:
        """A prefix in a bucket, container or directory that does not exist."""
        ...


@runtime_checkable
class CountingPlace(Place, Protocol):
    """A place that knows how much was read from it."""

    def count_sent(self) -> int:
        """Bytes of blobs sent so far."""
        ...


class Loading:
    """Loads from one place, with small chunks."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.options = slipstream.Options(chunk_bytes=CHUNK_BYTES)

    def load(self, uri: str | list[str], names: str | None = None) -> Loaded:
        """All tensors, or those of these names."""
        with self.stream(uri, names=names) as tensors:
            return as_loaded(tensors)

    def stream(
        self, uri: str | list[str], *, names: str | None = None, options: slipstream.Options | None = None
    ) -> slipstream.TensorStream:
        """As numpy arrays: they are the source's bytes, whatever else is installed."""
        return slipstream.stream(
            uri,
            framework="numpy",
            names=names,
            options=options or self.options,
            storage_options=self.place.storage_options,
        )

    def inspect(self, uri: str | list[str]) -> slipstream.Checkpoint:
        """Reads headers only."""
        return slipstream.inspect(uri, storage_options=self.place.storage_options)


class Sample(NamedTuple):
    """A blob's bytes, and what the reference reader finds in them."""

    data: bytes
    tensors: Loaded


def make_sample(seed: int, *, wide_nbytes: int = 300_001) -> Sample:
    """A safetensors file of tensors that are easily got wrong.

    Empty ones and a scalar; neighbours at odd offsets, whose types want even ones; one that is larger than any chunk
    of the contract, and as many small ones as are read together.

    Args:
        seed: of the contents and a part of each name, so that several samples make one checkpoint.
        wide_nbytes: of the large one.
    """
    shapes: dict[str, tuple[Dtype, tuple[int, ...]]] = {
        "scalar": (Dtype.F32, ()),
        "empty": (Dtype.F32, (0, 7)),
        "odd": (Dtype.U8, (3,)),
        "misaligned": (Dtype.F64, (5, 5)),
        "wide": (Dtype.U8, (wide_nbytes,)),
        "brain": (Dtype.BF16, (64, 33)),
        "also empty": (Dtype.I64, (0,)),
        **{f"small.{number}": (Dtype.I16, (number + 1, 3)) for number in range(20)},
        "last": (Dtype.U8, (1,)),
    }
    contents = random.Random(seed)
    tensors = {
        f"{name}.{seed}": (dtype, shape, contents.randbytes(tensor_nbytes(dtype, shape)))
        for name, (dtype, shape) in shapes.items()
    }
    return make_blob(tensors)


def make_blob(tensors: Mapping[str, tuple[Dtype, tuple[int, ...], bytes]]) -> Sample:
    """A safetensors file of these tensors."""
    data = encode_safetensors(tensors, {"format": "pt"})
    return Sample(data, read_reference(data))


def read_reference(data: bytes) -> Loaded:
    """What the reference reader finds in a file."""
    from safetensors import deserialize

    return {name: (tuple(found["shape"]), bytes(found["data"])) for name, found in deserialize(data)}


def make_index(shards: Mapping[str, Sample]) -> bytes:
    """A shard index of these samples by their names."""
    weight_map = {tensor: name for name, sample in shards.items() for tensor in sample.tensors}
    return encode_index(weight_map, sum(len(data) for sample in shards.values() for _, data in sample.tensors.values()))


def as_loaded(tensors: Iterable[tuple[str, object]]) -> Loaded:
    """Shape and bytes of what a stream hands out, each dropped before the next is asked for."""
    return dict(_copies(tensors))


def _copies(tensors: Iterable[tuple[str, object]]) -> Iterator[tuple[str, tuple[tuple[int, ...], bytes]]]:
    for name, tensor in tensors:
        array = np.asarray(tensor)
        copy = (tuple(array.shape), array.tobytes())
        del tensor, array
        yield name, copy


def put_sample(place: Place, key: str, seed: int, *, wide_nbytes: int = 300_001) -> Sample:
    """Stores a sample; see `make_sample`."""
    sample = make_sample(seed, wide_nbytes=wide_nbytes)
    place.put(key, sample.data)
    return sample


def put_sharded(place: Place, folder: str, *names: str) -> tuple[str, list[Sample]]:
    """Stores a sample under each of these names, and an index of them; returns the index's URI."""
    samples = [put_sample(place, f"{folder}/{name}", number) for number, name in enumerate(names)]
    place.put(f"{folder}/model.safetensors.index.json", make_index(dict(zip(names, samples, strict=True))))
    return place.uri(f"{folder}/model.safetensors.index.json"), samples


def make_numbered(number: int) -> Sample:
    """A file of 40 tensors, every byte of them that number: files of different numbers are equally large."""
    return make_blob({f"t{name:02}": (Dtype.U8, (50_000,), bytes([number]) * 50_000) for name in range(40)})


def all_of(*samples: Sample) -> Loaded:
    """The tensors of all of them."""
    return {name: tensor for sample in samples for name, tensor in sample.tensors.items()}
