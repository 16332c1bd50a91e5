"""Which strategy reads a file, and why. Decides by facts that were gathered before; reads nothing."""

from __future__ import annotations

from slipstream.options import Options
from slipstream.types import StorageFacts, Strategy, StrategyChoice, Target

# Measured on a virtual disk of 2 GB/s with 2 cores (docs/performance.md): mapped reading is at the
# device's bandwidth from 2 threads on and costs more CPU from 16 on; O_DIRECT needs 8 to 16 in flight.
_CONCURRENCY = {Strategy.MAPPED: 4, Strategy.DIRECT: 16, Strategy.BUFFERED: 16}
_GOOD_READ_AHEAD_BYTES = 1 << 20  # below it, mapped reading fell to half of the device's bandwidth
_PAGE_BYTES = 4096


def choose_strategy(facts: StorageFacts, size: int, options: Options, target: Target) -> StrategyChoice:
    """The strategy for one file of `size` bytes, with its reason in words."""
    if options.strategy == "auto":
        strategy, reason = _decide(facts, size, target)
    else:
        strategy, reason = options.strategy, "asked for by the options"
    concurrency = _CONCURRENCY[strategy] if options.concurrency == "auto" else options.concurrency
    chunk_bytes = -(-options.chunk_bytes // _PAGE_BYTES) * _PAGE_BYTES
    return StrategyChoice(strategy, reason, concurrency, chunk_bytes)


def _decide(facts: StorageFacts, size: int, target: Target) -> tuple[Strategy, str]:
    if facts.remote:
        return Strategy.BUFFERED, (
            f"{facts.filesystem} is a network or FUSE file system: a mapping would fault it in page by page, "
            "so it is read in parallel"
        )
    if target is Target.DEVICE:
        return _decide_for_device(facts, size)
    if facts.in_memory:
        return Strategy.MAPPED, f"{facts.filesystem} is memory already: mapped, nothing is copied"
    if facts.cached_bytes is not None and facts.cached_bytes >= size:
        return Strategy.MAPPED, "all of it is in the page cache: mapped, nothing is read or copied"
    return _decide_for_cold_host(facts, size)


def _decide_for_device(facts: StorageFacts, size: int) -> tuple[Strategy, str]:
    if facts.in_memory:
        return Strategy.BUFFERED, f"{facts.filesystem} is memory already: copied in parallel on its way to the device"
    if facts.cached_bytes is not None and facts.cached_bytes >= size:
        return Strategy.BUFFERED, "all of it is in the page cache: copied in parallel on its way to the device"
    return (
        Strategy.DIRECT,
        f"{_cached_share(facts, size)}; only passes through the host, so the page cache is left alone",
    )


def _decide_for_cold_host(facts: StorageFacts, size: int) -> tuple[Strategy, str]:
    cached = _cached_share(facts, size)
    reads_ahead = facts.read_ahead_bytes is None or facts.read_ahead_bytes >= _GOOD_READ_AHEAD_BYTES
    if facts.huge_read_ahead or reads_ahead:
        how = "by 2 MiB at a time" if facts.huge_read_ahead else f"by {facts.read_ahead_bytes or 0:,} bytes at a time"
        return Strategy.MAPPED, f"{cached}; mapped without a copy, the kernel reads ahead {how}"
    small = f"a read-ahead of {facts.read_ahead_bytes or 0:,} bytes is too small for mapped reading on this kernel"
    if facts.available_bytes is not None and facts.available_bytes < size:
        return Strategy.MAPPED, (
            f"{cached}; {small}, but {facts.available_bytes:,} bytes of free memory hold no copy of it: "
            "mapped pages can be given back"
        )
    return Strategy.DIRECT, f"{cached}; {small}, so the device is read directly"


def _cached_share(facts: StorageFacts, size: int) -> str:
    if facts.cached_bytes is None:
        return "the page cache cannot be looked into"
    if facts.cached_bytes == 0:
        return "nothing of it is in the page cache"
    return f"{100 * facts.cached_bytes // max(size, 1)} % of it is in the page cache"
