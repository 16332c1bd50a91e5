"""The plain writer makes what the reference implementation reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors
from safetensors import deserialize

from slipstream.testing.checkpoints import tensor_nbytes, write_safetensors
from slipstream.types import Dtype


@pytest.mark.parametrize("dtype", Dtype)
def test_every_dtype_is_read_back(dtype: Dtype, tmp_path: Path) -> None:
    """A tensor of any dtype comes back from the reference reader with its name, shape and bytes."""
    data = bytes(range(tensor_nbytes(dtype, [4, 2])))
    write_safetensors(tmp_path / "a.safetensors", {"ä.x": (dtype, [4, 2], data)})
    [(name, found)] = deserialize((tmp_path / "a.safetensors").read_bytes())
    assert name == "ä.x"
    assert list(found["shape"]) == [4, 2]
    assert bytes(found["data"]) == data


def test_scalars_empty_tensors_and_metadata(tmp_path: Path) -> None:
    """Scalars, zero-sized tensors and metadata are written as the reference reader expects them."""
    path = tmp_path / "a.safetensors"
    size = write_safetensors(
        path,
        {"scalar": ("F32", [], b"\0\0\x80?"), "none": (Dtype.I64, [3, 0], b"")},
        metadata={"format": "pt", "note": "é"},
    )
    assert path.stat().st_size == size
    with safetensors.safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"format": "pt", "note": "é"}
        assert file.get_tensor("scalar") == 1.0
        assert file.get_tensor("none").shape == (3, 0)


def test_no_tensors(tmp_path: Path) -> None:
    """A checkpoint without tensors is a valid file."""
    write_safetensors(tmp_path / "a.safetensors", {})
    assert deserialize((tmp_path / "a.safetensors").read_bytes()) == []


@pytest.mark.parametrize(("shape", "data"), [([2], b"1234567"), ([2], b"123456789"), ([3], b"")])
def test_bytes_that_do_not_fit(shape: list[int], data: bytes, tmp_path: Path) -> None:
    """Bytes that do not agree with dtype and shape are refused before anything is written."""
    with pytest.raises(ValueError, match="takes"):
        write_safetensors(tmp_path / "a.safetensors", {"a": ("F32", shape, data)})
    assert not list(tmp_path.iterdir())


def test_packed_elements_fill_whole_bytes() -> None:
    """A number of packed elements that ends within a byte is refused, as the format does."""
    with pytest.raises(ValueError, match="whole bytes"):
        tensor_nbytes(Dtype.F4, [3])
