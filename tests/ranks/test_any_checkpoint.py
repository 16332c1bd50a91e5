"""Ranks share any checkpoint, read in any way: tried with ranks that are threads of one process, over real sockets."""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore

import slipstream
from slipstream import Options, streaming
from slipstream.delivery.accelerator import Accelerator, open_accelerator
from slipstream.ranks.board import Board
from slipstream.ranks.device_group import connect_devices
from slipstream.ranks.team import Group, Team, connect
from slipstream.ranks.watch import Watch
from slipstream.testing.checkpoints import tensor_nbytes
from tests.staging.conftest import accelerate
from tests.streaming.random_checkpoints import (
    Content,
    Form,
    forms,
    options,
    selections,
    sharded,
    tensor_bytes,
    write_checkpoint,
)

RANKS = 3


class Teams:
    """Three ranks, each a thread, whose broadcasts go through sockets, be they of host memory or of a device's."""

    def __init__(self, accelerator: Accelerator | None) -> None:
        self._accelerator = accelerator
        self._store = HashStore()
        self._numbers = itertools.count()
        self._pool = ThreadPoolExecutor(RANKS)
        self._groups: list[Group] = self._on_each(self._connect)

    def load(self, uri: Any, names: Any, framework: str, how: Options) -> list[list[tuple[str, bytes]]]:
        """What each rank is given, in order."""
        store = PrefixStore(f"load/{next(self._numbers)}", self._store)
        given = threading.local()
        patched = lambda distributed, settle, device: given.team  # noqa: E731

        def load_one(rank: int) -> list[tuple[str, bytes]]:
            watch = Watch(
                board := Board(store), rank, range(RANKS), ["here"] * RANKS, waits_for_all=self._accelerator is not None
            )
            watch.start(lambda clean: None)
            given.team = Team(
                self._groups[rank],
                rank,
                range(RANKS),
                board,
                watch,
                neighbours=RANKS,
                accelerator=self._accelerator,
            )
            chosen: Any = framework
            with slipstream.stream(uri, names=names, framework=chosen, options=how, distributed=True) as tensors:
                found: list[tuple[str, bytes]] = []
                for name, tensor in tensors:
                    found.append((name, tensor_bytes(tensor)))
                    del tensor  # the limit may be too small for two
                watch.wait_ended(20.0)
                return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(streaming, "join_ranks", patched)
            if self._accelerator is not None:
                accelerate(patch.setattr)
            return self._on_each(load_one)

    def _connect(self, rank: int) -> Group:
        store = PrefixStore("connect", self._store)
        if self._accelerator is None:
            return connect(store, rank, RANKS)
        return connect_devices(store, rank, range(RANKS), self._accelerator, lambda: None)

    def _on_each(self, task: Any) -> list[Any]:
        tasks = [self._pool.submit(task, rank) for rank in range(RANKS)]
        wait(tasks)  # before any is looked at: none may be left behind in its broadcasts
        return [task.result() for task in tasks]


@pytest.fixture(scope="module")
def teams() -> Iterator[Teams]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        yield Teams(None)


@pytest.fixture(scope="module")
def teams_of_devices() -> Iterator[Teams]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        accelerator = open_accelerator(torch.device("cpu"))
        yield Teams(accelerator)
        accelerator.memory.drop()


def limits(shards: list[Content]) -> st.SearchStrategy[int | None]:
    """Limits that the largest tensor fits into, alone or with others."""
    sizes = [tensor_nbytes(dtype, shape) for shard in shards for dtype, shape, _ in shard.values()]
    return st.one_of(st.none(), st.integers(max([*sizes, 1]), 2 * sum(sizes) + 2))


anything = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@anything
@given(data=st.data(), shards=sharded(), form=forms(), framework=st.sampled_from(["torch", "numpy"]))
def test_any_checkpoint(teams: Teams, data: st.DataObject, shards: list[Content], form: Form, framework: str) -> None:
    """Every rank is given the selected tensors with the bytes that a load of one's own gives, all in the same order."""
    check(teams, data, shards, form, framework, data.draw(options(limits(shards))))


@anything
@given(data=st.data(), shards=sharded(), form=forms())
def test_any_checkpoint_on_devices(
    teams_of_devices: Teams, data: st.DataObject, shards: list[Content], form: Form
) -> None:
    """The same where bytes are passed round on devices, under limits of theirs."""
    how = replace(
        data.draw(options()), share_through="device", device_memory_limit=data.draw(limits(shards)), ring_bytes=1 << 22
    )
    check(teams_of_devices, data, shards, form, "torch", how)


def check(teams: Teams, data: st.DataObject, shards: list[Content], form: Form, framework: str, how: Options) -> None:
    """Lets the ranks load, and looks at what each was given."""
    wanted = {name for shard in shards for name in shard}
    names, selected = data.draw(selections(sorted(wanted)))
    if not isinstance(names, str | list) and names is not None and not callable(names):
        names = list(names)  # each rank has an iterator of its own
    with tempfile.TemporaryDirectory() as folder:
        uri = write_checkpoint(Path(folder), shards, form)
        if not any(shards) and form in ("index", "index file"):
            return
        results = teams.load(uri, names, framework, how)
    contents = {name: content for shard in shards for name, (_, _, content) in shard.items()}
    for result in results:
        assert [name for name, _ in result] == [name for name, _ in results[0]]
        assert dict(result) == {name: contents[name] for name in selected}
        assert len(result) == len(selected)
