"""Random checkpoints for property tests, in every form a caller may have one, and readers to compare with.

Nothing here uses slipstream's own reader: files come from the plain writer, and what is expected of them
from the reference implementation.
"""

from __future__ import annotations

import ctypes
import fnmatch
import json
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy
import torch
from hypothesis import strategies as st
from safetensors import deserialize

from slipstream import Dtype, Options
from slipstream.testing.checkpoints import tensor_nbytes, write_safetensors

Content: TypeAlias = dict[str, tuple[Dtype, tuple[int, ...], bytes]]
Form: TypeAlias = Literal[
    "directory",
    "list",
    "glob",
    "file uri",
    "index",
    "index file",
    "hub snapshot",
    "hub repository",
    "link to directory",
]
Names: TypeAlias = str | Iterable[str] | Callable[[str], bool] | None
Array: TypeAlias = numpy.ndarray[Any, numpy.dtype[Any]]

_PACKED_ELEMENTS = 4  # four elements of 4 or 6 bits fill whole bytes
_REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Reference:
    """One tensor as the reference implementation reads it."""

    dtype: str
    shape: tuple[int, ...]
    content: bytes


def make_content(dtype: Dtype, shape: Sequence[int], seed: int) -> bytes:
    """The bytes of a tensor: any for most types, zero and one for truth values."""
    content = random.Random(seed).randbytes(tensor_nbytes(dtype, shape))
    return bytes(byte & 1 for byte in content) if dtype is Dtype.BOOL else content


def make_bytes(length: int, seed: int) -> bytes:
    """Reproducible noise."""
    return random.Random(seed).randbytes(length)


def write_flat(path: Path, sizes: Mapping[str, int], seed: int = 0) -> dict[str, bytes]:
    """Writes a file of U8 vectors of these sizes, and returns their bytes."""
    contents = {name: make_bytes(size, seed + number) for number, (name, size) in enumerate(sizes.items())}
    write_safetensors(path, {name: (Dtype.U8, (len(content),), content) for name, content in contents.items()})
    return contents


def _names() -> st.SearchStrategy[str]:
    plain = st.from_regex(r"[a-c]{1,2}\.[0-2]\.(weight|bias)", fullmatch=True)
    strange = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    globs = st.text("ab*?[]!-", min_size=1, max_size=5)
    return st.one_of(plain, strange, globs).filter(lambda name: name != "__metadata__")


def _shapes() -> st.SearchStrategy[tuple[int, ...]]:
    small = st.lists(st.integers(0, 5), max_size=4).map(tuple)
    odd = st.integers(0, 40).map(lambda length: (length,))
    large = st.integers(500, 20_000).map(lambda length: (length,))
    return st.one_of(small, odd, large)


@st.composite
def contents(draw: st.DrawFn, most_tensors: int = 14) -> Content:
    """Tensors of any type and size, in an order that leaves many at odd alignments."""
    drawn: Content = {}
    for name in draw(st.lists(_names(), max_size=most_tensors, unique=True)):
        dtype = draw(st.sampled_from(Dtype))
        shape = draw(_shapes())
        if math.prod(shape) * dtype.bits % 8:
            shape = (*shape, _PACKED_ELEMENTS)
        drawn[name] = (dtype, shape, make_content(dtype, shape, draw(st.integers(0, 2**32))))
    return drawn


@st.composite
def sharded(draw: st.DrawFn) -> list[Content]:
    """The same, cut into one to four files, of which some may hold no tensor."""
    whole = draw(contents())
    shards: list[Content] = [{} for _ in range(draw(st.integers(1, 4)))]
    for name, tensor in whole.items():
        draw(st.sampled_from(shards))[name] = tensor
    return shards


def forms() -> st.SearchStrategy[Form]:
    """How the checkpoint lies on the disk, and how the caller names it."""
    return st.sampled_from(get_args(Form))


def write_checkpoint(directory: Path, shards: Sequence[Content], form: Form) -> str | list[str | Path]:
    """Writes the shards, and returns the URI by which a caller would name them."""
    if form.startswith("hub"):
        return _write_hub_cache(directory, shards, whole_repository=form == "hub repository")
    paths = _write_shards(directory, shards, "model")
    match form:
        case "list":
            return [path if number % 2 else str(path) for number, path in enumerate(reversed(paths))]
        case "glob":
            return str(directory / "model-*.safetensors")
        case "file uri":
            return directory.as_uri()
        case "link to directory":
            link = directory / "link"
            link.symlink_to(directory, target_is_directory=True)
            return str(link)
        case "index" | "index file" if any(shards):
            index = write_index(directory, shards)
            write_safetensors(directory / "stray.safetensors", {"stray": (Dtype.U8, (1,), b"\1")})
            return str(index if form == "index file" else directory)
    return str(directory)


def write_index(directory: Path, shards: Sequence[Content]) -> Path:
    """Writes the index of shards that are called as `write_checkpoint` calls them."""
    weight_map = {name: _shard_name("model", number) for number, shard in enumerate(shards) for name in shard}
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
    return index


def _shard_name(stem: str, number: int) -> str:
    return f"{stem}-{number:05}.safetensors"


def _write_shards(directory: Path, shards: Sequence[Content], stem: str) -> list[Path]:
    paths = [directory / _shard_name(stem, number) for number in range(len(shards))]
    for path, shard in zip(paths, shards, strict=True):
        write_safetensors(path, shard, {"shard": path.stem})
    return paths


def _write_hub_cache(directory: Path, shards: Sequence[Content], *, whole_repository: bool) -> str:
    """As huggingface_hub lays it out: snapshots/REVISION/NAME are relative links into blobs/HASH."""
    repository = directory / "models--someone--something"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / _REVISION
    for made in (blobs, snapshot, repository / "refs"):
        made.mkdir(parents=True)
    (repository / "refs" / "main").write_text(_REVISION)
    for number, shard in enumerate(shards):
        blob = blobs / f"{number:064x}"
        write_safetensors(blob, shard)
        (snapshot / _shard_name("model", number)).symlink_to(f"../../blobs/{blob.name}")
    if any(shards):
        index = write_index(blobs, shards)
        index.rename(blobs / "f00d")
        (snapshot / index.name).symlink_to("../../blobs/f00d")
    return str(repository if whole_repository else snapshot)


def read_by_reference(directory: Path, wanted: Iterable[str]) -> dict[str, Reference]:
    """What safetensors itself finds in the directory's files, of the names that are wanted."""
    found: dict[str, Reference] = {}
    paths = [path for path in directory.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in paths:
        if path.suffix in (".safetensors", "") and path.name not in ("main", "f00d"):
            for name, fields in deserialize(path.read_bytes()):
                found[name] = Reference(fields["dtype"], tuple(fields["shape"]), bytes(fields["data"]))
    return {name: found[name] for name in wanted}


@st.composite
def selections(draw: st.DrawFn, names: Sequence[str]) -> tuple[Names, set[str]]:
    """A `names=` argument, and the names it stands for."""
    everything: set[str] = set(names)
    if not names:
        return draw(st.sampled_from([None, []])), everything
    some = draw(st.lists(st.sampled_from(list(names)), unique=True))
    kind = draw(st.sampled_from(["all", "list", "generator", "callable", "name", "glob"]))
    match kind:
        case "list":
            return some, set(some)
        case "generator":
            return (name for name in some), set(some)
        case "callable":
            return set(some).__contains__, set(some)
        case "name":
            return names[0], {names[0]}
        case "glob":
            pattern = names[0][:2].translate({ord(special): f"[{special}]" for special in "*?["}) + "*"
            exact = {pattern} & everything
            return pattern, exact or {name for name in names if fnmatch.fnmatchcase(name, pattern)}
    return None, everything


def options(memory_limits: st.SearchStrategy[int | None] | None = None) -> st.SearchStrategy[Options]:
    """Any way of reading."""
    return st.builds(
        Options,
        concurrency=st.integers(1, 8),
        chunk_bytes=st.sampled_from([4096, 5000, 8192, 65_536, 300_001]),
        memory_limit=st.none() if memory_limits is None else memory_limits,
        memory_wait_s=st.just(1.0),
        strategy=st.sampled_from(["auto", "mapped", "direct", "buffered"]),
    )


def tensor_bytes(tensor: object) -> bytes:
    """The bytes that a tensor of either framework has in memory, whatever its type."""
    if isinstance(tensor, torch.Tensor):
        assert tensor.is_contiguous()
        return ctypes.string_at(tensor.data_ptr(), tensor.numel() * tensor.element_size()) if tensor.numel() else b""
    assert isinstance(tensor, numpy.ndarray)
    assert tensor.flags.c_contiguous
    return tensor.tobytes()
