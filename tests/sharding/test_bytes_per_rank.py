"""What a rank reads of a model with Llama 3's proportions: by the plan, by the kernel's count, by the server's log."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import slipstream
from slipstream import Options, Shard
from slipstream.sources.page_cache import count_cached_bytes
from slipstream.testing.checkpoints import encode_header
from slipstream.testing.layouts import LAYOUTS
from slipstream.testing.range_server import RangeServer
from tests.sharding.llama_like import COLUMNS, SHAPES, forget, write_llama_like

RANKS = 4
FIRST_LOOK_BYTES = 96 << 10
_SLACK_BYTES = 128 << 10  # the header, and what else the process reads meanwhile

Elements = Any


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Elements]]]:
    path = tmp_path_factory.mktemp("llama") / "model.safetensors"
    yield path, write_llama_like(path)
    path.unlink()


def count_device_bytes() -> int:
    """Bytes that this process has made the kernel fetch from a device: ahead, past the cache, asynchronously."""
    match = re.search(r"^read_bytes: (\d+)", Path("/proc/self/io").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])


def test_full_size_by_the_plan(tmp_path: Path) -> None:
    """Of Llama 3 8B itself each of four ranks asks its disk for at most 0.26, and all together for all of it once."""
    specs = LAYOUTS["llama-3-8b"].specs(32)
    header = encode_header([(spec.name, spec.dtype, spec.shape) for spec in specs])
    path = tmp_path / "model.safetensors"
    path.write_bytes(header)
    os.truncate(path, len(header) + sum(spec.nbytes for spec in specs))  # a hole: no byte of it is read
    plans = slipstream.plan_ranks(path, Shard(0, RANKS))
    whole = plans[0].checkpoint.nbytes
    assert max(plan.source_bytes for plan in plans) <= 0.26 * whole
    norms = sum(info.nbytes for info in plans[0].checkpoint.tensors if "norm" in info.name)
    assert sum(plan.nbytes for plan in plans) == whole + 3 * norms
    assert [plan.tensor_count for plan in plans] == [291] * RANKS


@pytest.mark.parametrize("strategy", ["auto", "direct"])
@pytest.mark.parametrize("rank", range(RANKS))
def test_by_the_kernel(strategy: Any, rank: int, model: tuple[Path, dict[str, Elements]]) -> None:
    """A rank makes the kernel fetch at most 0.30 of a cold checkpoint from its device, read-ahead included."""
    path, elements = model
    shard, how = Shard(rank, RANKS, "llama"), Options(strategy=strategy)
    slipstream.load(path, shard=shard, names="*norm*", framework="numpy", options=how)  # imports are over before
    forget(path)
    if _cached(path):
        pytest.skip("this file system keeps its files in memory")
    before = count_device_bytes()
    found = slipstream.load(path, shard=shard, framework="numpy", options=how)
    fetched = count_device_bytes() - before
    for name, array in elements.items():
        _check(found[name], array, name, rank)
    if fetched == 0:
        pytest.skip("this file system does not say what it reads")
    size = path.stat().st_size
    assert 0.24 * size < fetched <= 0.30 * size + _SLACK_BYTES


def test_no_rank_reads_ahead_into_anothers_rows(model: tuple[Path, dict[str, Elements]]) -> None:
    """Of rows that are mapped, only what was asked for comes into the page cache, whatever the device reads ahead."""
    path, _ = model
    forget(path)
    names = [name for name in SHAPES if name not in COLUMNS]
    slipstream.load(path, shard=Shard(1, RANKS, "llama"), names=names, framework="numpy")
    with open(path, "rb") as file:
        cached = count_cached_bytes(file.fileno(), 0, path.stat().st_size)
    assert cached is not None
    plan = slipstream.plan(path, shard=Shard(1, RANKS, "llama"), names=names)
    assert cached <= plan.nbytes + _SLACK_BYTES


@pytest.mark.parametrize("told_by", ["the shard", "torchrun"])
def test_neighbours_read_the_disk_once(
    told_by: str, model: tuple[Path, dict[str, Elements]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four ranks on one host together make the kernel fetch the checkpoint once: 0.25 of it each, on average."""
    path, elements = model
    ranks_per_host = RANKS if told_by == "the shard" else None
    if told_by == "torchrun":
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(RANKS))
    forget(path)
    if _cached(path):
        pytest.skip("this file system keeps its files in memory")
    before = count_device_bytes()
    for rank in range(RANKS):
        found = slipstream.load(
            path, shard=Shard(rank, RANKS, "llama", ranks_per_host=ranks_per_host), framework="numpy"
        )
        for name, array in elements.items():
            _check(found[name], array, name, rank)
        del found
    fetched = count_device_bytes() - before
    if fetched == 0:
        pytest.skip("this file system does not say what it reads")
    assert path.stat().st_size - _SLACK_BYTES <= fetched <= path.stat().st_size + _SLACK_BYTES


def test_by_the_servers_log(
    model: tuple[Path, dict[str, Elements]], range_root: Path, range_server: RangeServer
) -> None:
    """From a store rows are read exactly; of what is divided by columns all is read, in few requests."""
    path, elements = model
    served = range_root / "llama.safetensors"
    served.symlink_to(path)
    url, shard = range_server.url("llama.safetensors"), Shard(2, RANKS, "llama")
    found = slipstream.load(url, shard=shard, framework="numpy", options=Options(hedge=False))
    for name, array in elements.items():
        _check(found[name], array, name, 2)
    requests = range_server.requests
    rows = sum(
        array.nbytes // (1 if "norm" in name else RANKS) for name, array in elements.items() if name not in COLUMNS
    )
    columns = sum(elements[name].nbytes for name in COLUMNS)
    sent = sum(request.body_bytes for request in requests) - FIRST_LOOK_BYTES
    assert 0.98 * (rows + columns) <= sent <= rows + columns
    assert len(requests) < 40


def _cached(path: Path) -> bool:
    with open(path, "rb") as file:
        return bool(count_cached_bytes(file.fileno(), 0, path.stat().st_size))


def _check(found: Any, array: Elements, name: str, rank: int) -> None:
    """Compares a rank's piece with the slice of the whole."""
    if "norm" in name:
        expected = array
    else:
        dim = 1 if name in COLUMNS else 0
        each = array.shape[dim] // RANKS
        expected = array[:, rank * each : (rank + 1) * each] if dim else array[rank * each : (rank + 1) * each]
    assert found.view("uint16").shape == expected.shape
    assert (found.view("uint16") == expected).all(), name
