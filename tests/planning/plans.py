"""Frozen values for tests of the planner: it is pure, so these need no files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from slipstream import Blob, Checkpoint, Dtype, TensorInfo
from slipstream.types import StorageFacts

MIB = 1 << 20
HEADER_BYTES = 104  # where the data of every blob here begins


def make_facts(**changes: Any) -> StorageFacts:
    """A local disk with a small read-ahead, an old kernel, enough memory and nothing in the page cache."""
    facts: dict[str, Any] = {
        "filesystem": "ext4",
        "volume": "8:1",
        "remote": False,
        "in_memory": False,
        "cached_bytes": 0,
        "read_ahead_bytes": 128 << 10,
        "huge_read_ahead": False,
        "available_bytes": 1 << 40,
    }
    return StorageFacts(**{**facts, **changes})


def make_tensors(sizes: Sequence[int], blob: int = 0) -> list[TensorInfo]:
    """Tensors of these sizes that fill a blob, of the widest type that the size allows: odd sizes misalign the next."""
    tensors = []
    start = HEADER_BYTES
    for number, size in enumerate(sizes):
        dtype = next(dtype for dtype in (Dtype.F64, Dtype.F32, Dtype.I16, Dtype.U8) if size * 8 % dtype.bits == 0)
        shape = (size * 8 // dtype.bits,)
        tensors.append(TensorInfo(f"{blob}.{number}", dtype, shape, blob, start, start + size))
        start += size
    return tensors


def make_checkpoint(sizes_by_blob: Sequence[Sequence[int]]) -> Checkpoint:
    """A checkpoint whose n-th blob has tensors of these sizes."""
    tensors = [make_tensors(sizes, blob) for blob, sizes in enumerate(sizes_by_blob)]
    blobs = tuple(
        Blob(f"/blob-{number}", HEADER_BYTES + sum(sizes), "etag") for number, sizes in enumerate(sizes_by_blob)
    )
    return Checkpoint(blobs, tuple(tensor for group in tensors for tensor in group), tuple({} for _ in blobs))


def tensor_sizes() -> st.SearchStrategy[list[int]]:
    """Sizes of the tensors of one blob: empty, tiny and large ones mixed."""
    return st.lists(st.one_of(st.just(0), st.integers(1, 100), st.integers(1000, 100_000)), max_size=25)


def storage_facts() -> st.SearchStrategy[StorageFacts]:
    """Facts of a blob on one of three volumes, which may be remote."""
    return st.builds(make_facts, volume=st.sampled_from(["8:1", "8:2", "0:50"]), remote=st.booleans())
