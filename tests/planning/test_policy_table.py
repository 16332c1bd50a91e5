"""Which strategy the policy chooses from which facts, and that its reason says so in words."""

from __future__ import annotations

from typing import Any, cast

import pytest

from slipstream import Options
from slipstream.planning.policy import choose_strategy
from slipstream.types import FILE_STRATEGIES, StorageFacts, Strategy, Target
from tests.planning.plans import MIB, make_facts

SIZE = 100 * MIB
HOST, DEVICE = Target.HOST, Target.DEVICE
NFS = make_facts(filesystem="nfs4", remote=True)
FUSE = make_facts(filesystem="fuse.bindfs", remote=True, huge_read_ahead=True)
TMPFS = make_facts(filesystem="tmpfs", in_memory=True, cached_bytes=SIZE)
CACHED = make_facts(cached_bytes=SIZE)
NEARLY = make_facts(cached_bytes=SIZE - 4096)
ONE_PAGE = make_facts(cached_bytes=4096)
PARTLY = make_facts(cached_bytes=SIZE // 4, huge_read_ahead=True)
COLD_NEW_KERNEL = make_facts(huge_read_ahead=True)
COLD_GOOD_READ_AHEAD = make_facts(read_ahead_bytes=4 * MIB)
COLD_NO_BDI = make_facts(read_ahead_bytes=None)
COLD_SMALL_READ_AHEAD = make_facts()
NO_MEMORY = make_facts(available_bytes=SIZE - 1)
UNKNOWN_MEMORY = make_facts(available_bytes=None)
UNKNOWN_CACHE = make_facts(cached_bytes=None, huge_read_ahead=True)


@pytest.mark.parametrize(
    ("facts", "target", "strategy", "words"),
    [
        pytest.param(NFS, HOST, "buffered", ["nfs4", "network", "parallel"], id="network"),
        pytest.param(FUSE, HOST, "buffered", ["fuse.bindfs", "FUSE", "page by page"], id="FUSE"),
        pytest.param(NFS, DEVICE, "buffered", ["nfs4", "network"], id="network to device"),
        pytest.param(make_facts(remote=True, cached_bytes=SIZE), HOST, "buffered", ["network"], id="network, cached"),
        pytest.param(TMPFS, HOST, "mapped", ["tmpfs", "memory already"], id="tmpfs"),
        pytest.param(TMPFS, DEVICE, "buffered", ["tmpfs", "memory already", "device"], id="tmpfs to device"),
        pytest.param(CACHED, HOST, "mapped", ["all", "page cache"], id="cached"),
        pytest.param(CACHED, DEVICE, "buffered", ["all", "page cache", "device"], id="cached to device"),
        pytest.param(NEARLY, HOST, "mapped", ["nearly all", "page cache"], id="nearly cached"),
        pytest.param(NEARLY, DEVICE, "buffered", ["nearly all", "page cache"], id="nearly cached, to device"),
        pytest.param(ONE_PAGE, DEVICE, "direct", ["1 %", "page cache"], id="one page cached"),
        pytest.param(PARTLY, HOST, "mapped", ["25 %", "page cache", "reads ahead"], id="partly cached"),
        pytest.param(PARTLY, DEVICE, "direct", ["25 %", "passes through"], id="partly cached to device"),
        pytest.param(COLD_NEW_KERNEL, HOST, "mapped", ["nothing", "reads ahead"], id="cold, new kernel"),
        pytest.param(COLD_GOOD_READ_AHEAD, HOST, "mapped", ["nothing", "reads ahead"], id="cold, good read-ahead"),
        pytest.param(COLD_NO_BDI, HOST, "mapped", ["nothing"], id="cold, read-ahead unknown"),
        pytest.param(COLD_SMALL_READ_AHEAD, HOST, "direct", ["read-ahead", "too small"], id="cold, small read-ahead"),
        pytest.param(COLD_SMALL_READ_AHEAD, DEVICE, "direct", ["passes through"], id="cold to device"),
        pytest.param(COLD_NEW_KERNEL, DEVICE, "direct", ["passes through"], id="cold to device, new kernel"),
        pytest.param(NO_MEMORY, HOST, "mapped", ["free memory", "given back"], id="no memory for a copy"),
        pytest.param(UNKNOWN_MEMORY, HOST, "direct", ["read-ahead", "too small"], id="memory unknown"),
        pytest.param(UNKNOWN_CACHE, HOST, "mapped", ["cannot be looked into"], id="cache unknown"),
        pytest.param(UNKNOWN_CACHE, DEVICE, "direct", ["cannot be looked into"], id="cache unknown, to device"),
    ],
)
def test_choice(facts: StorageFacts, target: Target, strategy: str, words: list[str]) -> None:
    """The policy takes the strategy that suits the storage, and its reason names the facts it went by."""
    choice = choose_strategy(facts, SIZE, Options(), target)
    assert choice.strategy == strategy
    for word in words:
        assert word in choice.reason


@pytest.mark.parametrize("facts", [COLD_NO_BDI, COLD_NEW_KERNEL, COLD_SMALL_READ_AHEAD, UNKNOWN_CACHE, PARTLY])
def test_reasons_claim_nothing_that_is_not_known(facts: StorageFacts) -> None:
    """No reason speaks of zero bytes where a figure is not known."""
    assert " 0 bytes" not in choose_strategy(facts, SIZE, Options(), HOST).reason


@pytest.mark.parametrize("facts", [NFS, TMPFS, CACHED, COLD_SMALL_READ_AHEAD, NO_MEMORY])
@pytest.mark.parametrize("target", list(Target))
@pytest.mark.parametrize("strategy", FILE_STRATEGIES)
def test_forced(strategy: Strategy, target: Target, facts: StorageFacts) -> None:
    """A strategy that the options name is taken whatever the facts are, and the reason says who asked."""
    choice = choose_strategy(facts, SIZE, Options(strategy=strategy), target)
    assert choice.strategy is strategy
    assert "options" in choice.reason


@pytest.mark.parametrize("facts", [NFS, TMPFS, CACHED, COLD_SMALL_READ_AHEAD, COLD_NEW_KERNEL])
def test_settings_of_the_caller_are_kept(facts: StorageFacts) -> None:
    """A concurrency that the caller sets holds for every strategy; "auto" takes at least one."""
    assert choose_strategy(facts, SIZE, Options(concurrency=3), HOST).concurrency == 3
    assert choose_strategy(facts, SIZE, Options(), HOST).concurrency >= 1


@pytest.mark.parametrize(("asked", "used"), [(4096, 4096), (4097, 8192), (5000, 8192), (8192, 8192), (MIB, MIB)])
def test_chunks_are_whole_pages(asked: int, used: int) -> None:
    """A chunk size is rounded up to whole pages: chunks are cut at multiples of it."""
    assert choose_strategy(make_facts(), SIZE, Options(chunk_bytes=asked), HOST).chunk_bytes == used


@pytest.mark.parametrize("target", list(Target))
def test_empty_file(target: Target) -> None:
    """A file without bytes gets a strategy and a reason like any other."""
    choice = choose_strategy(make_facts(), 0, Options(), target)
    assert choice.strategy in FILE_STRATEGIES
    assert choice.reason


@pytest.mark.parametrize("strategy", ["auto", *FILE_STRATEGIES])
def test_options_of_text(strategy: str) -> None:
    """The names of strategies may be given as text."""
    assert choose_strategy(CACHED, SIZE, Options(strategy=cast(Any, strategy)), HOST).strategy in FILE_STRATEGIES


@pytest.mark.parametrize(
    ("facts", "concurrency"),
    [
        pytest.param(COLD_NEW_KERNEL, 16, id="cold, read ahead by huge pages alone"),
        pytest.param(COLD_GOOD_READ_AHEAD, 2, id="cold, good read-ahead"),
        pytest.param(CACHED, 2, id="cached"),
        pytest.param(TMPFS, 2, id="tmpfs"),
        pytest.param(make_facts(in_memory=True, cached_bytes=None), 2, id="tmpfs, cache unknown"),
    ],
)
def test_mapped_reads_in_flight(facts: StorageFacts, concurrency: int) -> None:
    """Many threads populate a mapping where each keeps little in flight; two where the device reads far ahead."""
    assert choose_strategy(facts, SIZE, Options(), HOST).concurrency == concurrency
