"""safe_open, load_file and load_model on an object store: objects, prefixes and indexes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
import safetensors.torch
import torch

from slipstream.safetensors import load_file, load_model, safe_open
from slipstream.safetensors.numpy import load_file as load_numpy
from slipstream.testing.checkpoints import encode_index
from slipstream.testing.seaweedfs import SeaweedFS
from tests.integrations.checkpoints import same, write_layers

BUCKET = "safetensors"


@pytest.fixture(scope="module")
def bucket(seaweedfs: SeaweedFS, tmp_path_factory: pytest.TempPathFactory) -> SeaweedFS:
    """A store with a model of two shards and an index, and the same in one object."""
    folder = tmp_path_factory.mktemp("bucket")
    names = write_layers(folder / "whole.safetensors", layers=12)
    tensors = safetensors.numpy.load_file(folder / "whole.safetensors")
    seaweedfs.create_bucket(BUCKET)
    seaweedfs.upload(folder / "whole.safetensors", BUCKET, "whole.safetensors")
    weight_map: dict[str, str] = {}
    for number in range(2):
        shard = {name: tensors[name] for name in names[number::2]}
        safetensors.numpy.save_file(shard, folder / f"{number}.safetensors", metadata={"format": "pt"})
        seaweedfs.upload(folder / f"{number}.safetensors", BUCKET, f"sharded/{number}.safetensors")
        weight_map |= dict.fromkeys(shard, f"{number}.safetensors")
    seaweedfs.upload(encode_index(weight_map, 0), BUCKET, "sharded/model.safetensors.index.json")
    return seaweedfs


@pytest.mark.parametrize("framework", ["pt", "np"])
@pytest.mark.parametrize("key", ["whole.safetensors", "sharded", "sharded/model.safetensors.index.json"])
def test_a_checkpoint_in_an_object_store(bucket: SeaweedFS, tmp_path: Path, framework: str, key: str) -> None:
    """An object, a prefix and an index are read tensor by tensor, slice by slice, and as a whole."""
    write_layers(tmp_path / "whole.safetensors", layers=12)
    storage: dict[str, Any] = {"storage_options": bucket.storage_options}
    load: Any = load_file if framework == "pt" else load_numpy
    with (
        safetensors.safe_open(tmp_path / "whole.safetensors", framework) as reference,
        safe_open(f"s3://{BUCKET}/{key}", framework, **storage) as opened,
    ):
        loaded = load(f"s3://{BUCKET}/{key}", **storage)
        assert opened.keys() == reference.keys()
        assert set(loaded) == set(reference.keys())
        for name in opened.keys():  # noqa: SIM118
            expected = reference.get_tensor(name)
            assert same(opened.get_tensor(name), expected)
            assert same(loaded[name], expected)
            assert same(opened.get_slice(name)[3:5], reference.get_slice(name)[3:5])


def test_a_model_from_an_object_store(bucket: SeaweedFS, tmp_path: Path) -> None:
    """load_model reads an object straight into a module."""

    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Linear(30, 20)
            self.two = self.one

    model, other = Tied(), Tied()
    safetensors.torch.save_model(model, str(tmp_path / "tied.safetensors"))
    bucket.upload(tmp_path / "tied.safetensors", BUCKET, "tied.safetensors")
    load_model(other, f"s3://{BUCKET}/tied.safetensors", storage_options=bucket.storage_options)
    assert torch.equal(other.one.weight, model.one.weight)


def test_an_object_that_is_not_there(bucket: SeaweedFS) -> None:
    """A missing object is a FileNotFoundError, as a missing file is."""
    with pytest.raises(FileNotFoundError, match="absent"):
        safe_open(f"s3://{BUCKET}/absent.safetensors", "pt", storage_options=bucket.storage_options)
