"""Ranks that share a load: every one is given everything, and everything is read once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import starmap
from pathlib import Path
from typing import Any

import pytest

import slipstream
from slipstream import ByteRange
from slipstream.ranks import agreement
from slipstream.testing.checkpoints import encode_index, encode_safetensors
from slipstream.testing.nginx import Nginx
from slipstream.testing.proxy import ForwardProxy
from slipstream.testing.range_server import RangeServer
from slipstream.testing.seaweedfs import SeaweedFS
from tests.ranks.crew import Crew
from tests.ranks.member import digest
from tests.ranks.models import MIB, Model

HEADERS_BYTES = 512 << 10  # of what a load reads besides tensors: an index, and the first 96 KiB of two shards


def check(results: list[Any], model: Model, names: set[str] | None = None) -> None:
    """Every rank was given the same tensors in the same order, and together they have read each byte once."""
    wanted = {name: value for name, value in model.digests.items() if names is None or name in names}
    orders = [[name for name, _ in result["tensors"]] for result in results]
    assert all(order == orders[0] for order in orders)
    for result in results:
        assert dict(result["tensors"]) == wanted
        assert len(result["tensors"]) == len(wanted)
        assert result["ranks"] == len(results)
    if names is None:
        assert sum(result["read"] for result in results) == model.nbytes
        for result in results:
            assert result["read"] + result["received"] == model.nbytes


@pytest.mark.parametrize("strategy", ["mapped", "direct", "buffered"])
def test_from_a_disk(crew: Crew, model: Model, strategy: str) -> None:
    """From files, read in any way, each rank reads its share, and has everything in the end."""
    results = crew.ask_all("load", uri=str(model.folder), options={"strategy": strategy})
    check(results, model)
    share = model.nbytes / crew.size
    assert all(abs(result["read"] - share) <= 5 * MIB for result in results)


@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_frameworks(pair: Crew, model: Model, framework: str) -> None:
    """Tensors come for any framework, though PyTorch passes them round."""
    plain = slipstream.load(str(model.folder), framework=framework)  # type: ignore[arg-type]
    results = pair.ask_all("load", uri=str(model.folder), framework=framework)
    assert [len(result["tensors"]) for result in results] == [len(plain)] * 2
    assert results[0]["tensors"] == results[1]["tensors"]
    if framework == "torch":
        check(results, model)


def test_selections(crew: Crew, model: Model) -> None:
    """Only the selected tensors are read, and passed round."""
    results = crew.ask_all("load", uri=str(model.folder), names=["layer.*", "head.1", "empty"])
    names = {name for name in model.digests if name.startswith("layer.")} | {"head.1", "empty"}
    check(results, model, names)
    assert sum(result["read"] for result in results) == 9 * (MIB + 24) + 1


def test_nothing_to_read(crew: Crew, model: Model) -> None:
    """Tensors without bytes arrive as well, where nothing else does."""
    check(crew.ask_all("load", uri=str(model.folder), names=["empty", "last"]), model, {"empty", "last"})
    check(crew.ask_all("load", uri=str(model.folder), names=[]), model, set())


def test_load(crew: Crew, model: Model) -> None:
    """`load` gives every rank the whole dictionary, in the same order."""
    results = crew.ask_all("load_all", uri=str(model.folder))
    assert all(list(result.items()) == list(results[0].items()) for result in results)
    assert results[0] == model.digests


@pytest.mark.parametrize("read_ahead_mib", [13, 11])
def test_weights_for_an_engine(pair: Crew, model: Model, read_ahead_mib: int) -> None:
    """Each rank of an engine is given all but what it skips, also where one tensor is more than is read ahead."""
    for rank, skips in enumerate(["layer.", "head."]):
        arguments = {"skips": skips, "read_ahead_bytes": read_ahead_mib * MIB}
        pair.tell(rank, "stream_weights", uri=str(model.folder), **arguments)
    for rank, skips in enumerate(["layer.", "head."]):
        wanted = {f"model.{name}": value for name, value in model.digests.items() if skips not in name}
        assert pair.hear(rank) == wanted


def test_load_into(crew: Crew, tmp_path: Path) -> None:
    """`load_into` fills the module of every rank."""
    content = {"weight": ("F32", (64, 64), bytes(range(256)) * 64), "bias": ("F32", (64,), bytes(range(256)))}
    (tmp_path / "a.safetensors").write_bytes(encode_safetensors(content))
    shapes = {"weight": [64, 64], "bias": [64]}
    results = crew.ask_all("load_into", uri=str(tmp_path), shapes=shapes)
    assert all(result == results[0] and set(result) == set(shapes) for result in results)


def test_ranges(crew: Crew, model: Model) -> None:
    """Plain ranges are shared as well, also those that overlap, repeat, are empty or begin at the same place."""
    one, two = (str(model.folder / name) for name in model.shards)
    wanted = [
        (one, 0, 5 * MIB),
        (one, 4 * MIB, 9 * MIB + 3),
        (two, 7, 7),
        (two, 7, 99),
        (one, 0, 5 * MIB),
        (two, 7, MIB),
    ]
    plain = {str(position): digest(data) for position, data in slipstream.stream_ranges([*starmap(ByteRange, wanted)])}
    total = sum(end - start for _, start, end in wanted)
    results = crew.ask_all("load_ranges", wanted=wanted)
    assert sum(result["read"] for result in results) == total
    for result in results:
        assert result["ranges"] == plain
        assert result["read"] + result["received"] == total


@pytest.mark.parametrize("limit_mib", [13, 24])
def test_memory_limit(crew: Crew, model: Model, limit_mib: int) -> None:
    """Under a limit no rank takes more, also not for a tensor that several ranks read, nor for what others send."""
    options = {"memory_limit": limit_mib * MIB, "chunk_bytes": MIB}
    results = crew.ask_all("load", uri=str(model.folder), options=options)
    check(results, model)
    assert all(result["peak"] <= limit_mib * MIB for result in results)


def test_many_loads(crew: Crew, model: Model) -> None:
    """Loads one after another leave neither threads nor descriptors nor keys in the store."""
    crew.ask_all("load", uri=str(model.folder))
    threads, keys = [found["threads"] for found in crew.ask_all("remember")], crew.store.num_keys()
    descriptors = [found["descriptors"] for found in crew.ask_all("remember")]
    for _ in range(3):
        check(crew.ask_all("load", uri=str(model.folder)), model)
    found = crew.ask_all("remember")
    assert [each["threads"] for each in found] == threads == [0] * crew.size
    assert all(each["descriptors"] <= count for each, count in zip(found, descriptors, strict=True))
    assert crew.store.num_keys() == keys


def test_collectives_of_the_caller(crew: Crew, model: Model) -> None:
    """The caller's own collectives in the same group, while a load is under way, do not disturb it."""
    crew.ask_all("open", uri=str(model.folder), options={"memory_limit": 13 * MIB})
    taken = crew.ask_all("take", count=1)
    assert crew.ask_all("sum_ranks") == [sum(range(crew.size + 1))] * crew.size
    results = crew.ask_all("rest")
    for result, first in zip(results, taken, strict=True):
        assert len(result["tensors"]) + len(first) == len(model.digests)


def test_groups_of_some_ranks(quartet: Crew, model: Model) -> None:
    """Groups of some of the ranks load side by side, each for itself."""
    for name, ranks in (("low", [0, 1]), ("high", [2, 3])):
        quartet.ask_all("make_group", name=name, ranks=ranks)
    for rank in range(4):
        quartet.tell(rank, "load", uri=str(model.folder), group="low" if rank < 2 else "high")
    results = [quartet.hear(rank) for rank in range(4)]
    check(results[:2], model)
    check(results[2:], model)


def test_once_per_host(model: Model) -> None:
    """With share_across="node" the ranks of each host share among themselves; one that is alone loads alone."""
    with Crew(4) as crew:
        for rank, host in enumerate(["a", "b", "a", "c"]):
            crew.ask(rank, "set_host", name=host)
        results = crew.ask_all("load", uri=str(model.folder), options={"share_across": "node"})
        check([results[0], results[2]], model)
        for alone in (results[1], results[3]):
            assert dict(alone["tensors"]) == model.digests
            assert (alone["ranks"], alone["read"], alone["received"]) == (1, model.nbytes, 0)
        check(crew.ask_all("load", uri=str(model.folder)), model)


def test_one_rank(model: Model) -> None:
    """A group of one process loads as one does without a group."""
    with Crew(1) as crew:
        (result,) = crew.ask_all("load", uri=str(model.folder))
        assert dict(result["tensors"]) == model.digests
        assert (result["ranks"], result["received"]) == (1, 0)


@pytest.fixture
def served(tmp_path: Path, model: Model) -> Iterator[RangeServer]:
    """The model behind a server of ranges, with an index."""
    weight_map = {name: shard for shard, tensors in model.shards.items() for name in tensors}
    with RangeServer(model.folder) as server:
        server.put("model.safetensors.index.json", encode_index(weight_map, model.nbytes))
        yield server


def test_from_a_web_server(crew: Crew, model: Model, served: RangeServer) -> None:
    """From a server every byte of every tensor is asked for once, by one rank, and each rank asks for its share."""
    for rank in range(crew.size):
        crew.tell(
            rank,
            "load",
            uri=served.url("model.safetensors.index.json"),
            options={"hedge": False},
            storage_options={"headers": {"X-Rank": str(rank)}},
        )
    check([crew.hear(rank) for rank in range(crew.size)], model)
    sent = [0] * crew.size
    for request in served.requests:
        if request.path.endswith(".safetensors"):
            sent[int(request.header("x-rank") or 0)] += request.body_bytes
    headers = 2 * (96 << 10)  # which every rank reads, since a URL's query is nothing to pass round
    assert sum(sent) == model.nbytes + crew.size * headers
    assert all(abs(nbytes - headers - model.nbytes / crew.size) <= 5 * MIB for nbytes in sent)


def test_from_seaweedfs(crew: Crew, model: Model, seaweedfs: SeaweedFS) -> None:
    """From an S3 server the ranks together receive the checkpoint once, and the headers for one of them."""
    bucket = f"ranks-{crew.size}"
    seaweedfs.create_bucket(bucket)
    for name in model.shards:
        seaweedfs.upload(model.folder / name, bucket, f"model/{name}")
    with ExitStack() as stack:
        proxies = [stack.enter_context(ForwardProxy()) for _ in range(crew.size)]
        for rank, proxy in enumerate(proxies):
            storage_options = {**seaweedfs.storage_options, "proxy": proxy.url}
            crew.tell(
                rank, "load", uri=f"s3://{bucket}/model/", options={"hedge": False}, storage_options=storage_options
            )
        check([crew.hear(rank) for rank in range(crew.size)], model)
        received = [sum(passage.received_bytes for passage in proxy.passages) for proxy in proxies]
    assert model.nbytes < sum(received) < model.nbytes * 1.02 + HEADERS_BYTES
    assert all(abs(nbytes - model.nbytes / crew.size) <= 5 * MIB + HEADERS_BYTES for nbytes in received)


def test_signed_urls_stay_where_they_are(pair: Crew, model: Model, served: RangeServer) -> None:
    """URLs that hold secrets are loaded, and what is passed round of the plan does not hold these."""
    uris = [served.url(name).replace("://", "://me:hidden-word@") + "?signature=very-secret" for name in model.shards]
    check(pair.ask_all("load", uri=uris), model)
    posted = agreement._encode(slipstream.plan(uris), uris)
    assert b"head.1" in posted
    assert b"very-secret" not in posted
    assert b"hidden-word" not in posted


def test_nginx(quartet: Crew, model: Model, nginx: Nginx) -> None:
    """From another server, by plain URLs."""
    for name in model.shards:
        nginx.upload(model.folder / name, "ranks", name)
    check(quartet.ask_all("load", uri=[nginx.url(f"ranks/{name}") for name in model.shards]), model)


def test_paths_may_differ(pair: Crew, model: Model, tmp_path: Path) -> None:
    """Hosts may have the same checkpoint at different places, each with identities of its own."""
    for name in model.shards:
        (tmp_path / name).write_bytes((model.folder / name).read_bytes())
    pair.tell(0, "load", uri=str(model.folder))
    pair.tell(1, "load", uri=str(tmp_path))
    check([pair.hear(0), pair.hear(1)], model)
