"""Synthetic checkpoints: valid, finite, reproducible, and the same however they are sharded."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import deserialize

from slipstream.errors import UsageError
from slipstream.testing.layouts import LAYOUTS, TensorSpec, find_layout
from slipstream.testing.synthetic import tensor_bytes, write_checkpoint
from slipstream.types import Dtype


def read_all(directory: Path) -> dict[str, bytes]:
    """The bytes of all tensors, by the reference reader."""
    tensors: dict[str, bytes] = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors |= {name: bytes(found["data"]) for name, found in deserialize(path.read_bytes())}
    return tensors


@pytest.mark.parametrize(("layout", "layers"), [("llama-tiny", None), ("moe-small", 2)])
def test_reference_reader_finds_the_layout(layout: str, layers: int | None, tmp_path: Path) -> None:
    """The reference reader finds exactly the layout's names, dtypes and shapes, each with the promised contents."""
    written = write_checkpoint(layout, tmp_path, layers=layers)
    specs = find_layout(layout).specs(layers)
    assert written.tensors == len(specs)
    assert written.files == (tmp_path / "model.safetensors",)
    found = dict(deserialize(written.files[0].read_bytes()))
    assert {(name, entry["dtype"], tuple(entry["shape"])) for name, entry in found.items()} == {
        (spec.name, str(spec.dtype), spec.shape) for spec in specs
    }
    assert all(bytes(found[spec.name]["data"]) == tensor_bytes(spec) for spec in specs)


def test_file_is_laid_out_like_the_reference(tmp_path: Path) -> None:
    """The header is padded with spaces to a multiple of 8, says format pt, and the data has the model's order."""
    [path] = write_checkpoint("llama-tiny", tmp_path).files
    content = path.read_bytes()
    [length] = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert length % 8 == 0
    assert header.pop("__metadata__") == {"format": "pt"}
    assert list(header) == [spec.name for spec in find_layout("llama-tiny").specs()]
    ends = [0, *(entry["data_offsets"][1] for entry in header.values())]
    assert ends[:-1] == [entry["data_offsets"][0] for entry in header.values()]
    assert 8 + length + ends[-1] == len(content)


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    """The contents follow from the seed, and every tensor's differ from every other's."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_checkpoint("llama-tiny", tmp_path / name, layers=1, seed=seed)
    first, again, other = (read_all(tmp_path / name) for name in "abc")
    assert first == again
    assert all(first[name] != other[name] for name in first)
    assert len({data[:64] for data in first.values()}) == len(first)


def test_sharding_and_layers_do_not_change_contents(tmp_path: Path) -> None:
    """A tensor has the same bytes in one file, in several, and in a model of fewer layers."""
    write_checkpoint("llama-tiny", tmp_path / "one")
    write_checkpoint("llama-tiny", tmp_path / "five", shards=5)
    write_checkpoint("llama-tiny", tmp_path / "cut", layers=1)
    whole, cut = read_all(tmp_path / "one"), read_all(tmp_path / "cut")
    assert read_all(tmp_path / "five") == whole
    assert cut == {name: whole[name] for name in cut}


@pytest.mark.parametrize("shards", [2, 3, 7, 39])
def test_shards_and_their_index(shards: int, tmp_path: Path) -> None:
    """The index names each tensor's file and the total size; shards follow the model's order and none is empty."""
    written = write_checkpoint("llama-tiny", tmp_path, shards=shards)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == written.nbytes
    assert [path.name for path in written.files] == [
        f"model-{number:05d}-of-{shards:05d}.safetensors" for number in range(1, shards + 1)
    ]
    in_files = [(name, path.name) for path in written.files for name, _ in sorted_by_offset(path)]
    assert in_files == list(index["weight_map"].items())
    assert [name for name, _ in in_files] == [spec.name for spec in find_layout("llama-tiny").specs()]
    assert {file for _, file in in_files} == {path.name for path in written.files}


def sorted_by_offset(path: Path) -> list[tuple[str, list[int]]]:
    """The names and offsets in the header, by offset."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    entries = [(name, entry["data_offsets"]) for name, entry in header.items() if name != "__metadata__"]
    return sorted(entries, key=lambda entry: entry[1])


def test_shards_are_balanced(tmp_path: Path) -> None:
    """No shard is more than one tensor away from its share of the bytes."""
    written = write_checkpoint("llama-tiny", tmp_path, shards=4)
    largest = max(spec.nbytes for spec in find_layout("llama-tiny").specs())
    sizes = [path.stat().st_size for path in written.files]
    assert max(sizes) - min(sizes) <= largest + 8192


@pytest.mark.parametrize(
    ("dtype", "numpy_dtype"),
    [
        (Dtype.BF16, ml_dtypes.bfloat16),
        (Dtype.F16, np.float16),
        (Dtype.F32, np.float32),
        (Dtype.F64, np.float64),
        (Dtype.F8_E4M3, ml_dtypes.float8_e4m3fn),
        (Dtype.F8_E5M2, ml_dtypes.float8_e5m2),
    ],
)
def test_every_value_is_finite_and_small(dtype: Dtype, numpy_dtype: type, tmp_path: Path) -> None:
    """Floating-point contents hold neither infinity nor NaN, and no value of 2 or more, but values of both signs."""
    values = np.frombuffer(tensor_bytes(TensorSpec("w", dtype, (1 << 18,))), numpy_dtype).astype(np.float64)
    assert np.isfinite(values).all()
    assert (np.abs(values) < 2).all()
    assert np.abs(values).max() > 1
    assert values.min() < 0 < values.max()


def test_contents_cannot_be_compressed() -> None:
    """zlib saves less than the one bit in sixteen that is cleared."""
    data = tensor_bytes(TensorSpec("w", Dtype.BF16, (1 << 19,)))
    assert len(zlib.compress(data, 6)) > len(data) * 15 / 16


def test_contents_are_pinned() -> None:
    """The contents stay the same from release to release, across the pieces of 8 MiB that a large tensor is made of."""
    small = tensor_bytes(TensorSpec("w", Dtype.BF16, (3,)), seed=7)
    large = tensor_bytes(TensorSpec("w", Dtype.BF16, (9 << 19,)), seed=7)
    assert small.hex() == "b916db1359a3"
    assert large.startswith(small)
    assert zlib.crc32(large) == 2741602356


@pytest.mark.parametrize("layout", LAYOUTS)
def test_config_is_written_beside_it(layout: str) -> None:
    """The config of a layout agrees with its tensors in the sizes that a model is built by."""
    config = find_layout(layout).config(3)
    shapes = {spec.name: spec.shape for spec in find_layout(layout).specs(3)}
    assert config["num_hidden_layers"] == 3
    assert shapes["model.embed_tokens.weight"] == (config["vocab_size"], config["hidden_size"])
    heads, head_dim = config["num_attention_heads"], config["head_dim"]
    assert isinstance(heads, int)
    assert isinstance(head_dim, int)
    assert shapes["model.layers.0.self_attn.q_proj.weight"] == (heads * head_dim, config["hidden_size"])
    assert config["tie_word_embeddings"] is ("lm_head.weight" not in shapes)


def test_progress_reaches_the_total_in_the_callers_thread(tmp_path: Path) -> None:
    """Progress rises to the total, which is the size of the files."""
    seen: list[tuple[int, int]] = []
    written = write_checkpoint("llama-tiny", tmp_path, progress=lambda done, total: seen.append((done, total)))
    sizes = sum(path.stat().st_size for path in written.files)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (sizes, sizes)


def test_overwriting_wants_force(tmp_path: Path) -> None:
    """A checkpoint that is there is kept, unless force is given; then nothing of the old one stays."""
    write_checkpoint("llama-tiny", tmp_path, shards=3, seed=1)
    before = read_all(tmp_path)
    with pytest.raises(UsageError, match="force"):
        write_checkpoint("llama-tiny", tmp_path)
    assert read_all(tmp_path) == before
    write_checkpoint("llama-tiny", tmp_path, force=True)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]


def test_foreign_files_are_never_replaced(tmp_path: Path) -> None:
    """A directory with weights that this writer did not name is refused even with force."""
    (tmp_path / "consolidated.safetensors").write_bytes(b"precious")
    with pytest.raises(UsageError, match=r"consolidated\.safetensors"):
        write_checkpoint("llama-tiny", tmp_path, force=True)
    assert os.listdir(tmp_path) == ["consolidated.safetensors"]


@pytest.mark.parametrize("shards", [0, 40])
def test_impossible_shards(shards: int, tmp_path: Path) -> None:
    """A number of shards that would leave some empty is wrong usage, and no directory is made."""
    with pytest.raises(UsageError, match="1 to 39 shards"):
        write_checkpoint("llama-tiny", tmp_path / "out", shards=shards)
    assert not (tmp_path / "out").exists()
