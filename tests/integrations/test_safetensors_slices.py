"""Slices: the same values, shapes and errors as the reference's, and no more bytes than they take."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, cast

import numpy
import pytest
import safetensors
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipstream import Dtype
from slipstream.safetensors import SafetensorError, safe_open
from slipstream.safetensors.slicing import Selection, cut_strips, join_strips
from slipstream.testing.checkpoints import write_safetensors
from tests.integrations.checkpoints import numbered, same
from tests.streaming.random_checkpoints import make_content

SHAPES: list[tuple[int, ...]] = [(), (1,), (7,), (0,), (4, 5), (3, 0), (2, 3, 4), (1, 6, 1), (2, 2, 2, 3)]
DTYPES = [Dtype.F32, Dtype.BF16, Dtype.I64, Dtype.U8, Dtype.BOOL, Dtype.F8_E4M3, Dtype.C64]
NUMPY_DTYPES = [dtype for dtype in DTYPES if not dtype.startswith("F8")]  # the reference has no such arrays
NUMPY_SHAPES = [shape for shape in SHAPES if 0 not in shape]  # see test_dimensions_of_nothing_can_be_sliced_for_numpy
RELAXED = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a tensor of every shape and type; a byte before them all leaves them misaligned."""
    made = tmp_path_factory.mktemp("slices") / "model.safetensors"
    tensors = {
        f"{dtype} {shape}": (dtype, shape, make_content(dtype, shape, seed=number))
        for number, (dtype, shape) in enumerate(itertools.product(DTYPES, SHAPES))
    }
    write_safetensors(made, {"odd": (Dtype.U8, (1,), b"\1"), **tensors})
    return made


def _bounds() -> st.SearchStrategy[int | None]:
    return st.none() | st.integers(-8, 8)


def torch_indices() -> st.SearchStrategy[Any]:
    """All that PyTorch's grammar has, right and wrong."""
    entry = st.one_of(
        st.integers(-8, 8),
        st.builds(slice, _bounds(), _bounds(), st.sampled_from([None, 1, 2, 3, -1, 0])),
        st.sampled_from([None, Ellipsis, True, False, 1.5, "text"]),
        st.lists(st.integers(-3, 3), max_size=3),
        st.lists(st.booleans(), max_size=4),
        st.integers(0, 3).map(torch.tensor),
        st.integers(-2, 2).map(numpy.int64),
        st.lists(st.integers(0, 2), min_size=1, max_size=3).map(torch.tensor),
    )
    return st.one_of(entry, st.lists(entry, max_size=5).map(tuple))


def numpy_indices() -> st.SearchStrategy[Any]:
    """All that the reference's own grammar has, right and wrong."""
    entry = st.one_of(
        st.integers(-8, 8),
        st.builds(slice, _bounds(), _bounds(), st.sampled_from([None, 1, 2, 3, -1, 0, 1.5])),
        st.sampled_from([None, Ellipsis, True, False, 1.5, "text"]),
        st.integers(-2, 2).map(numpy.int64),
    )
    lists = st.lists(st.integers(0, 2), max_size=2)
    return st.one_of(entry, lists, st.lists(entry, max_size=4).map(tuple))


def outcome(opened: Any, name: str, index: Any) -> Any:
    """What an index gives: a tensor, or the error."""
    try:
        return opened.get_slice(name)[index]
    except Exception as error:
        return error


def agree(found: Any, expected: Any, index: Any = None) -> bool:
    """Whether two outcomes are the same tensor, or errors that the same handler catches.

    Of an index for NumPy with several entries, several may be wrong: which of them is told of is no matter.
    """
    if not isinstance(expected, Exception):
        return same(found, expected)
    if isinstance(index, tuple) and len(index) > 1:
        return isinstance(found, SafetensorError | OverflowError | TypeError)
    return isinstance(found, type(expected))


@pytest.mark.parametrize("backend", ["mmap", "pread"])
@given(dtype=st.sampled_from(DTYPES), shape=st.sampled_from(SHAPES), index=torch_indices())
@RELAXED
def test_slices_for_pytorch_are_those_of_the_reference(
    path: Path, backend: str, dtype: Dtype, shape: tuple[int, ...], index: Any
) -> None:
    """Any index takes what the reference takes from its mapping, and is refused as it refuses it."""
    name = f"{dtype} {shape}"
    with safetensors.safe_open(path, "pt") as reference, safe_open(path, "pt", backend=backend) as opened:
        expected, found = outcome(reference, name, index), outcome(opened, name, index)
        assert agree(found, expected), (found, expected)


@pytest.mark.parametrize("backend", ["mmap", "pread"])
@given(dtype=st.sampled_from(NUMPY_DTYPES), shape=st.sampled_from(NUMPY_SHAPES), index=numpy_indices())
@RELAXED
def test_slices_for_numpy_are_those_of_the_reference(
    path: Path, backend: str, dtype: Dtype, shape: tuple[int, ...], index: Any
) -> None:
    """Any index takes what the reference takes, and is refused as it refuses it."""
    name = f"{dtype} {shape}"
    with safetensors.safe_open(path, "np") as reference, safe_open(path, "np", backend=backend) as opened:
        expected, found = outcome(reference, name, index), outcome(opened, name, index)
        if isinstance(expected, SystemError):  # it trips over bounds in the wrong order
            assert isinstance(found, SafetensorError)
        else:
            assert agree(found, expected, index), (found, expected)


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_dimensions_of_nothing_can_be_sliced_for_numpy(path: Path, backend: str) -> None:
    """What is taken of a dimension of size 0 is empty; the reference refuses any index to it, even all of it."""
    with safetensors.safe_open(path, "np") as reference, pytest.raises(SafetensorError, match="out of bounds"):
        reference.get_slice("F32 (3, 0)")[...]
    with safe_open(path, "np", backend=backend) as opened:
        part = opened.get_slice("F32 (3, 0)")
        assert part[...].shape == (3, 0)
        assert part[1:, :].shape == (2, 0)
        assert part[0].shape == (0,)
        with pytest.raises(SafetensorError):
            part[:, 0]


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_packed_types_are_sliced_in_the_units_that_are_stored(tmp_path: Path, backend: str) -> None:
    """F4 has two elements in one of PyTorch's, and an index counts these; get_shape tells the logical shape."""
    path = tmp_path / "packed.safetensors"
    write_safetensors(path, {"a": (Dtype.F4, (4, 6), make_content(Dtype.F4, (4, 6), seed=3))})
    with safe_open(path, "pt", backend=backend) as opened:
        whole, part = opened.get_tensor("a"), opened.get_slice("a")
        assert part.get_shape() == [4, 6]
        assert part.get_dtype() == "F4"
        assert isinstance(whole, torch.Tensor)
        assert same(part[1:3, :2], whole[1:3, :2])


@st.composite
def selections(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[slice, ...]]:
    """A shape, and slices within it."""
    shape = tuple(draw(st.lists(st.integers(1, 6), max_size=4)))
    index: list[slice] = []
    for size in shape:
        start = draw(st.integers(0, size - 1))
        index.append(slice(start, draw(st.integers(start + 1, size)), draw(st.integers(1, 3))))
    return shape, tuple(index)


@given(selections(), st.sampled_from([1, 2, 4, 8]), st.integers(0, 64), st.integers(1, 40))
@settings(max_examples=500, deadline=None)
def test_strips_hold_the_selection_and_leave_out_large_gaps(
    selection: tuple[tuple[int, ...], tuple[slice, ...]], itemsize: int, most_gap_bytes: int, most_strips: int
) -> None:
    """Joined strips give the very elements; they are not too many, and no gap between them is a small one."""
    shape, index = selection
    dtype = numpy.dtype(f"u{itemsize}")
    whole = numpy.arange(numpy.prod(shape, dtype=int)).astype(dtype).reshape(shape)
    view: Any = whole[cast(Any, (*index, ...))]
    offset = (view.__array_interface__["data"][0] - whole.__array_interface__["data"][0]) // itemsize
    chosen = Selection(view.shape, tuple(stride // itemsize for stride in view.strides), offset)
    strips = cut_strips(chosen, itemsize, most_gap_bytes=most_gap_bytes, most_strips=most_strips)
    data = numpy.frombuffer(whole.tobytes(), numpy.uint8)
    pieces = [(number, data[start : start + strips.nbytes]) for number, start in enumerate(strips.starts)]
    assert all(piece.nbytes == strips.nbytes for _, piece in pieces)
    found = join_strips(iter(reversed(pieces)), chosen, strips, dtype)
    assert found.shape == view.shape
    assert found.tobytes() == view.tobytes()
    assert len(strips.starts) <= most_strips
    gaps = [later - earlier - strips.nbytes for earlier, later in itertools.pairwise(strips.starts)]
    assert all(gap > most_gap_bytes for gap in gaps)


def test_rows_are_one_strip_and_columns_one_for_each_row() -> None:
    """The two usual cuts of a matrix, one without anything around it."""
    rows = cut_strips(Selection((2, 100), (100, 1), 300), 4, most_gap_bytes=0)
    assert rows == ((1200,), 800, (400, 4))
    columns = cut_strips(Selection((3, 50), (100, 1), 50), 4, most_gap_bytes=0)
    assert columns == ((200, 600, 1000), 200, (200, 4))
    read_along = cut_strips(Selection((3, 50), (100, 1), 50), 4, most_gap_bytes=200)
    assert read_along == ((200,), 1000, (400, 4))


def test_a_slice_that_wastes_memory_is_a_copy(tmp_path: Path) -> None:
    """Columns that were read with what lies between them hold no more memory than their own."""
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": numbered((100, 50))})
    with safe_open(path, "pt", backend="pread") as opened:
        columns, rows = opened.get_slice("a")[:, 3:5], opened.get_slice("a")[10:20]
    assert isinstance(columns, torch.Tensor)
    assert isinstance(rows, torch.Tensor)
    assert columns.untyped_storage().nbytes() == 100 * 2 * 4
    assert rows.untyped_storage().nbytes() == 10 * 50 * 4
