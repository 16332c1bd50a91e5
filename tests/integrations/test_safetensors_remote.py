"""safe_open and load_file on stores and web servers: what they read, counted by the servers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors.numpy
import safetensors.torch
import torch

import slipstream
from slipstream import Dtype
from slipstream.safetensors import safe_open
from slipstream.testing.checkpoints import encode_index, write_safetensors
from slipstream.testing.nginx import Nginx
from slipstream.testing.range_faults import Hold, Status
from slipstream.testing.range_server import Faults, RangeServer, SeenRequest, When
from tests.endings.leaks import see_footprint, wait_nothing_left
from tests.integrations.checkpoints import numbered, same, write_layers

FIRST_LOOK_BYTES = 96 << 10


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is served: a model of layers, and a file of matrices."""
    made = tmp_path_factory.mktemp("served")
    write_layers(made / "layers.safetensors", layers=40)
    write_safetensors(
        made / "matrices.safetensors",
        {"a.padding": numbered((30_000,)), "tall": numbered((1000, 300)), "wide": numbered((3, 1_500_000), Dtype.U8)},
    )
    return made


@pytest.fixture(scope="module")
def running(root: Path) -> Iterator[RangeServer]:
    with RangeServer(root) as server:
        yield server


@pytest.fixture
def server(running: RangeServer) -> RangeServer:
    running.reset()
    running.wait_open_connections(0)
    running.reset()
    return running


def asked(server: RangeServer) -> list[tuple[int, int]]:
    """The ranges that were asked for, but for the first looks at a file."""
    return [seen.range for seen in server.requests if seen.range is not None and not is_first_look(seen)]


def is_first_look(seen: SeenRequest) -> bool:
    return seen.header("range") == f"bytes=0-{FIRST_LOOK_BYTES - 1}"


def looks(server: RangeServer) -> int:
    """How often the file was looked at: once by everything that is opened."""
    return sum(map(is_first_look, server.requests))


def place(root: Path, file: str, name: str) -> tuple[int, int]:
    info = slipstream.inspect(root / file).by_name[name]
    return info.start, info.end


@pytest.mark.parametrize("framework", ["pt", "np"])
def test_opening_reads_the_header_and_nothing_else(server: RangeServer, framework: str) -> None:
    """Names, shapes, types and metadata cost one request."""
    with safe_open(server.url("matrices.safetensors"), framework) as opened:
        assert opened.keys() == ["a.padding", "tall", "wide"]
        assert opened.get_slice("tall").get_shape() == [1000, 300]
        assert opened.metadata() is None
    assert [seen.range for seen in server.requests] == [(0, FIRST_LOOK_BYTES)]


@pytest.mark.parametrize("framework", ["pt", "np"])
def test_one_tensor_costs_its_own_bytes(server: RangeServer, root: Path, framework: str) -> None:
    """A single tensor is read alone."""
    with safe_open(server.url("matrices.safetensors"), framework) as opened:
        found = opened.get_tensor("tall")
    with safetensors.safe_open(root / "matrices.safetensors", framework) as reference:
        assert same(found, reference.get_tensor("tall"))
    assert asked(server) == [place(root, "matrices.safetensors", "tall")]


@pytest.mark.parametrize("framework", ["pt", "np"])
def test_rows_cost_their_own_bytes(server: RangeServer, root: Path, framework: str) -> None:
    """A slice of rows reads these rows."""
    start, _ = place(root, "matrices.safetensors", "tall")
    with safe_open(server.url("matrices.safetensors"), framework) as opened:
        found = opened.get_slice("tall")[100:103]
        row = opened.get_slice("tall")[-1]
    with safetensors.safe_open(root / "matrices.safetensors", framework) as reference:
        assert same(found, reference.get_slice("tall")[100:103])
        assert same(row, reference.get_slice("tall")[-1])
    assert asked(server) == [
        (start + 100 * 1200, start + 103 * 1200),
        (start + 999 * 1200, start + 1000 * 1200),
    ]


def test_columns_with_large_gaps_are_read_alone(server: RangeServer, root: Path) -> None:
    """Columns of a wide matrix are a range for each row."""
    start, _ = place(root, "matrices.safetensors", "wide")
    with safe_open(server.url("matrices.safetensors"), "pt") as opened:
        found = opened.get_slice("wide")[:, 1000:2000]
    with safetensors.safe_open(root / "matrices.safetensors", "pt") as reference:
        assert same(found, reference.get_slice("wide")[:, 1000:2000])
    expected = [(start + row * 1_500_000 + 1000, start + row * 1_500_000 + 2000) for row in range(3)]
    assert sorted(asked(server)) == expected


def test_columns_with_small_gaps_are_one_request(server: RangeServer, root: Path) -> None:
    """Columns of a tall matrix are read with what lies between them, from the first to the last."""
    start, _ = place(root, "matrices.safetensors", "tall")
    with safe_open(server.url("matrices.safetensors"), "np") as opened:
        found = opened.get_slice("tall")[:, 10:20]
    with safetensors.safe_open(root / "matrices.safetensors", "np") as reference:
        assert same(found, reference.get_slice("tall")[:, 10:20])
    assert asked(server) == [(start + 40, start + 999 * 1200 + 80)]


def test_an_empty_or_wrong_slice_reads_nothing(server: RangeServer) -> None:
    """What has no elements, or is refused, costs no request."""
    with safe_open(server.url("matrices.safetensors"), "pt") as opened:
        part = opened.get_slice("tall")
        assert tuple(part[5:5].shape) == (0, 300)
        assert tuple(part[2000:, :7].shape) == (0, 7)
        with pytest.raises(IndexError):
            part[1000]
        with pytest.raises(ValueError, match="step"):
            part[::-1]
    assert asked(server) == []


ORDERS: dict[str, Callable[[safe_open], list[str]]] = {
    "keys": lambda opened: opened.keys(),
    "stored": lambda opened: opened.offset_keys(),
    "counted": lambda opened: sorted(opened.keys(), key=lambda name: (int(name.split(".")[2]), name)),
    "all but some": lambda opened: [name for name in opened.offset_keys() if not name.endswith("5.part1")],
}


@pytest.mark.parametrize("order", ORDERS)
def test_one_tensor_after_another_costs_no_round_trip_each(server: RangeServer, root: Path, order: str) -> None:
    """120 tensors in any usual order take a few streams and hardly a byte twice."""
    expected = safetensors.torch.load_file(root / "layers.safetensors")
    with safe_open(server.url("layers.safetensors"), "pt") as opened:
        names = ORDERS[order](opened)
        for name in names:
            assert same(opened.get_tensor(name), expected[name]), name
    assert looks(server) <= 4  # opening it, the first tensor, a window, and one more where the first guess was wrong
    assert len(server.requests) < 20
    nbytes = sum(end - start for start, end in asked(server))
    assert nbytes <= sum(tensor.nbytes for tensor in expected.values())


def test_slices_made_first_and_read_by_a_pool(server: RangeServer, root: Path) -> None:
    """What transformers does: slices of all tensors, then all of each, by number, by four threads."""
    expected = safetensors.torch.load_file(root / "layers.safetensors")
    with safe_open(server.url("layers.safetensors"), "pt") as opened, ThreadPoolExecutor(4) as pool:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        names = ORDERS["counted"](opened)
        found = dict(zip(names, pool.map(lambda name: slices[name][...], names), strict=True))
    assert all(same(found[name], expected[name]) for name in expected)
    assert looks(server) <= 8
    assert len(server.requests) < 30


def test_a_second_round_is_read_ahead_too(server: RangeServer, root: Path) -> None:
    """Who goes through a checkpoint twice reads it in two streams, not tensor by tensor."""
    expected = safetensors.torch.load_file(root / "layers.safetensors")
    with safe_open(server.url("layers.safetensors"), "pt") as opened:
        for name in opened.keys() * 2:
            assert same(opened.get_tensor(name), expected[name])
    assert looks(server) == 5  # opening it; and each time the first tensor, and a window
    assert len(server.requests) < 20


def test_windows_follow_one_another(server: RangeServer, root: Path) -> None:
    """A limit on memory makes small windows: each comes before the last is used up, and all together are the file."""
    expected = safetensors.torch.load_file(root / "layers.safetensors")
    limit = 20 * 40_000  # twenty tensors
    with safe_open(server.url("layers.safetensors"), "pt", options=slipstream.Options(memory_limit=limit)) as opened:
        for name in opened.keys():  # noqa: SIM118
            assert same(opened.get_tensor(name), expected[name])
    assert 6 <= looks(server) <= 20
    assert len(server.requests) < 60
    assert sum(end - start for start, end in asked(server)) == sum(tensor.nbytes for tensor in expected.values())


def test_a_window_is_begun_before_the_last_is_used_up(server: RangeServer) -> None:
    """With half of one window taken the next is under way, if both together are within the limit."""
    options = slipstream.Options(memory_limit=20 * 40_000)  # a window of twenty tensors, and then of ten
    with safe_open(server.url("layers.safetensors"), "np", options=options) as opened:
        names = opened.keys()
        for name in names[:11]:
            opened.get_tensor(name)
        assert looks(server) == 3  # opening it, the first tensor, and the window
        for name in names[11:13]:
            opened.get_tensor(name)
        assert looks(server) == 4


def test_a_slice_of_a_part_breaks_the_order(server: RangeServer, root: Path) -> None:
    """Whole tensors with parts of others between them are read alone, as far as nobody can tell what comes next."""
    with safe_open(server.url("layers.safetensors"), "np") as opened:
        names = opened.keys()
        for name in names[:3]:
            opened.get_tensor(name)
            opened.get_slice(names[-1])[:1]
    wanted = [place(root, "layers.safetensors", name) for name in names[:3]]
    start, _ = place(root, "layers.safetensors", names[-1])
    assert sorted(asked(server)) == sorted([*wanted, *[(start, start + 4000)] * 3])


def test_jumps_are_not_read_ahead_of(server: RangeServer, root: Path) -> None:
    """Tensors that are asked for out of any order are read alone, and nothing else is."""
    with safe_open(server.url("layers.safetensors"), "np") as opened:
        names = opened.offset_keys()[::40]
        for name in reversed(names):
            opened.get_tensor(name)
    assert sorted(asked(server)) == sorted(place(root, "layers.safetensors", name) for name in names)


def test_slices_in_turn_are_not_read_ahead_of(server: RangeServer, root: Path) -> None:
    """A rank that takes its rows of every tensor reads these and no others."""
    with safe_open(server.url("layers.safetensors"), "np") as opened:
        for name in opened.offset_keys()[:10]:
            assert opened.get_slice(name)[2:4].shape == (2, 1000)
    assert sum(end - start for start, end in asked(server)) == 10 * 2 * 4000


def test_a_failure_is_raised_once_and_healed_by_asking_again(server: RangeServer, root: Path) -> None:
    """An error of what reads ahead comes to whoever waits for a tensor of it; then it may be asked for again."""
    expected = safetensors.torch.load_file(root / "layers.safetensors")
    with safe_open(server.url("layers.safetensors"), "pt") as opened:
        names = opened.keys()
        opened.get_tensor(names[0])
        server.set_faults(Faults(Status(403)))
        with pytest.raises(slipstream.AccessDeniedError):
            opened.get_tensor(names[1])
        server.set_faults(Faults())
        assert all(same(opened.get_tensor(name), expected[name]) for name in names)


def test_a_failure_in_the_midst_of_a_window(server: RangeServer, root: Path) -> None:
    """A range that is refused while others come is an error, after which the rest can still be read."""
    expected = safetensors.torch.load_file(root / "layers.safetensors")
    options = slipstream.Options(chunk_bytes=100_000, concurrency=1)
    with safe_open(server.url("layers.safetensors"), "pt", options=options) as opened:
        names = opened.keys()
        opened.get_tensor(names[0])
        server.set_faults(Faults(Status(403, when=When(after=4))))
        with pytest.raises(slipstream.AccessDeniedError):
            assert all(same(opened.get_tensor(name), expected[name]) for name in names[1:])
        server.set_faults(Faults())
        assert all(same(opened.get_tensor(name), expected[name]) for name in names)


def test_ctrl_c_while_a_tensor_is_waited_for(server: RangeServer, root: Path) -> None:
    """A KeyboardInterrupt ends the wait and what is read ahead; the file is still open, and reads on."""
    expected = safetensors.torch.load_file(root / "layers.safetensors")
    with safe_open(server.url("layers.safetensors"), "pt") as opened:
        names = opened.keys()
        opened.get_tensor(names[0])
        server.set_faults(Faults(Hold(when=When(after=1))))

        def interrupt() -> None:
            server.wait_held(1)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            opened.get_tensor(names[1])
        thread.join()
        server.set_faults(Faults())
        server.release()
        assert all(same(opened.get_tensor(name), expected[name]) for name in names)


def test_a_blob_that_is_replaced_is_an_error(server: RangeServer, tmp_path: Path) -> None:
    """Whatever is read of another blob than the one that was opened raises BlobChangedError."""
    write_layers(tmp_path / "old", layers=3)
    write_layers(tmp_path / "new", layers=2)
    server.put("changing.safetensors", (tmp_path / "old").read_bytes())
    with safe_open(server.url("changing.safetensors"), "np") as opened:
        server.put("changing.safetensors", (tmp_path / "new").read_bytes())
        for call in (
            lambda: opened.get_tensor(opened.keys()[0]),
            lambda: opened.get_slice(opened.keys()[0])[1:2],
            lambda: opened.get_slice(opened.keys()[-1])[1:2],
            opened.get_tensors,
        ):
            with pytest.raises(slipstream.BlobChangedError, match="open it again"):
                call()


def test_leaving_early_leaves_nothing(server: RangeServer, tmp_path: Path) -> None:
    """Reads ahead end with the block: no thread, no descriptor, no connection goes on."""
    before = see_footprint(tmp_path)
    with safe_open(server.url("layers.safetensors"), "np") as opened:
        for name in opened.keys()[:5]:
            opened.get_tensor(name)
    wait_nothing_left(before, tmp_path)
    server.wait_open_connections(0)


def test_a_url_with_a_query_is_asked_whole(server: RangeServer) -> None:
    """A signed URL is what every request of it uses, and is not shown."""
    url = server.url("layers.safetensors") + "?signature=secret"
    with safe_open(url, "np") as opened:
        for name in opened.keys()[:5]:
            opened.get_tensor(name)
        opened.get_slice(opened.keys()[50])[1:3]
        assert "secret" not in repr(opened)
    assert {seen.query for seen in server.requests} == {"signature=secret"}


def test_an_index_over_http_with_a_login(server: RangeServer, root: Path, tmp_path: Path) -> None:
    """A sharded checkpoint is read through its index, and the login in its URL goes with every shard."""
    for number in range(2):
        name = f"tensor.{number}"
        write_safetensors(tmp_path / f"{number}.safetensors", {name: numbered((4, 3))})
        server.put(f"sharded/{number}.safetensors", (tmp_path / f"{number}.safetensors").read_bytes())
    index = encode_index({f"tensor.{number}": f"{number}.safetensors" for number in range(2)}, 96)
    server.put("sharded/model.safetensors.index.json", index)
    url = server.url("sharded/model.safetensors.index.json").replace("//", "//user:word@")
    with safe_open(url, "pt") as opened:
        assert opened.keys() == ["tensor.0", "tensor.1"]
        assert opened.get_tensor("tensor.1").tolist() == torch.arange(12).reshape(4, 3).tolist()
        assert opened.get_slice("tensor.0")[1].tolist() == [3, 4, 5]
        assert "word" not in repr(opened)
    assert all(seen.header("authorization") for seen in server.requests)


def test_the_bytes_that_nginx_has_sent(nginx: Nginx, root: Path, tmp_path: Path) -> None:
    """By nginx's own log, rows cost these rows and a first look for each opening."""
    with Nginx(root, access_log=True, directory=tmp_path) as noting:
        with safe_open(noting.url("matrices.safetensors"), "pt") as opened:
            assert opened.get_slice("tall")[500:600].shape == (100, 300)
        lines = [line.split() for line in noting.access_log.read_text().splitlines() if "safetensors" in line]
    sent = [int(fields[4]) for fields in lines]
    assert sorted(sent) == [FIRST_LOOK_BYTES, FIRST_LOOK_BYTES, 100 * 1200]
