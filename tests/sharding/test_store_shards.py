"""Shards of a checkpoint in a real S3 store, in several blobs with an index, whose ranks are put together again."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

import slipstream
from slipstream import Options, Shard
from slipstream.testing.seaweedfs import SeaweedFS
from slipstream.testing.uploading import upload_checkpoint

PREFIX = "s3://shards/tiny"
COLUMNS = ("o_proj", "down_proj")


@pytest.mark.parametrize("gap_bytes", ["auto", 0])
def test_ranks_from_s3(gap_bytes: Any, seaweedfs: SeaweedFS) -> None:
    """Three ranks of a Llama by own rules, each from S3 by itself, together are the checkpoint, whatever is joined."""
    seaweedfs.create_bucket("shards")
    upload_checkpoint("llama-tiny", PREFIX, shards=3, storage_options=seaweedfs.storage_options, force=True)
    storage: dict[str, Any] = {"storage_options": seaweedfs.storage_options, "framework": "numpy"}
    rules = {"*norm.weight": None, "*.o_proj.weight": 1, "*.down_proj.weight": 1, "*": 0}
    how = Options(gap_bytes=gap_bytes, memory_limit=64 << 20)
    whole: dict[str, Any] = slipstream.load(PREFIX, **storage)
    ranks: list[dict[str, Any]] = [
        slipstream.load(PREFIX, shard=Shard(rank, 3, rules), options=how, **storage) for rank in range(3)
    ]
    assert len(whole) == 39
    for name, array in whole.items():
        pieces = [rank[name].view(numpy.uint16) for rank in ranks]
        if "norm" in name:
            assert all((piece == array.view(numpy.uint16)).all() for piece in pieces)
        else:
            together = numpy.concatenate(pieces, axis=1 if any(word in name for word in COLUMNS) else 0)
            assert (together == array.view(numpy.uint16)).all()
