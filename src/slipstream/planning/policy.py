"""Which strategy reads a file, and why. Decides by facts that were gathered before; reads nothing."""

from __future__ import annotations

from slipstream.options import Options
from slipstream.types import StorageFacts, Strategy, StrategyChoice, Target

# Measured on a virtual disk of 2 GB/s with 2 cores (docs/performance.md): for mapped reading the kernel's
# read-ahead keeps the device busy, 2 threads keep it going between chunks, and 4 begin to break its order;
# O_DIRECT needs 8 to 16 in flight.
# For ranges over HTTP it is where the search begins: with 85 to 90 MB/s for each, a cloud store fills 10 Gb/s with
# 15 (Amazon S3 User Guide, "Performance guidelines"), and doubling finds the many that more takes within a second.
_CONCURRENCY = {Strategy.MAPPED: 2, Strategy.DIRECT: 16, Strategy.BUFFERED: 16, Strategy.RANGED: 32}
# Where only the huge pages make the kernel read ahead, by 2 MiB for each thread, more threads keep more in flight:
# 5.6 GB and 16 GB at 2.6 GB/s took 2.5 and 9.4 s with 2 threads, 2.3 and 5.9 with 4, 2.1 and 5.5 with 16.
_SMALL_READ_AHEAD_CONCURRENCY = 16
_GOOD_READ_AHEAD_BYTES = 1 << 20  # below it, mapped reading fell to half of the device's bandwidth
# What Linux reads ahead of a mapping advised with MADV_HUGEPAGE. Where the device's own read-ahead is as
# large, the advice is left out: on a virtual machine whose host takes free memory back, the first touch of
# 5.6 GB took 0.02 to 1.2 s in huge pages, and 0.02 to 0.5 s in small ones (15 and 9 samples).
_HUGE_READ_AHEAD_BYTES = 2 << 20
# What is cached is only mapped, at 100 GB/s and more: chunks for reading would cost more in Python than that.
_CACHED_CHUNK_BYTES = 64 << 20
_PAGE_BYTES = 4096


def choose_strategy(facts: StorageFacts, size: int, options: Options, target: Target) -> StrategyChoice:
    """The strategy for one file of `size` bytes, with its reason in words."""
    if facts.over_http:
        strategy, reason = Strategy.RANGED, "is behind HTTP: ranges of it are received straight into their place"
    elif options.strategy == "auto":
        strategy, reason = _decide(facts, size, target)
    else:
        strategy, reason = Strategy(options.strategy), "asked for by the options"
    concurrency = _first_concurrency(strategy, facts, size) if options.concurrency == "auto" else options.concurrency
    chunk_bytes = -(-options.chunk_bytes // _PAGE_BYTES) * _PAGE_BYTES
    if strategy is Strategy.MAPPED and _is_cached(facts, size):
        chunk_bytes = max(chunk_bytes, _CACHED_CHUNK_BYTES)
    huge_pages = _reads_small_ahead(facts)
    return StrategyChoice(strategy, reason, concurrency, chunk_bytes, huge_pages)


def _first_concurrency(strategy: Strategy, facts: StorageFacts, size: int) -> int:
    """What suits a strategy, or where its search begins. Of TLS connections, few fight for few processors."""
    if strategy is Strategy.MAPPED and not (facts.in_memory or _is_cached(facts, size)) and _reads_small_ahead(facts):
        return _SMALL_READ_AHEAD_CONCURRENCY
    if facts.decrypting_cpus is None:
        return _CONCURRENCY[strategy]
    return min(_CONCURRENCY[strategy], 2 * facts.decrypting_cpus)


def _reads_small_ahead(facts: StorageFacts) -> bool:
    """Whether the device reads ahead by less than the kernel does for a huge page, or it is not known by how much."""
    return (facts.read_ahead_bytes or 0) < _HUGE_READ_AHEAD_BYTES


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
    if _is_cached(facts, size):
        return Strategy.MAPPED, f"{_cached_share(facts, size)}: mapped, nothing is copied"
    return _decide_for_cold_host(facts, size)


def _decide_for_device(facts: StorageFacts, size: int) -> tuple[Strategy, str]:
    if facts.in_memory:
        return Strategy.BUFFERED, f"{facts.filesystem} is memory already: copied in parallel on its way to the device"
    if _is_cached(facts, size):
        return Strategy.BUFFERED, f"{_cached_share(facts, size)}: copied in parallel on its way to the device"
    return (
        Strategy.DIRECT,
        f"{_cached_share(facts, size)}; only passes through the host, so the page cache is left alone",
    )


def _decide_for_cold_host(facts: StorageFacts, size: int) -> tuple[Strategy, str]:
    cached = _cached_share(facts, size)
    ahead_bytes = max(facts.read_ahead_bytes or 0, _HUGE_READ_AHEAD_BYTES if facts.huge_read_ahead else 0)
    if facts.read_ahead_bytes is None or ahead_bytes >= _GOOD_READ_AHEAD_BYTES:
        how = f"by {_size(ahead_bytes)} at a time" if ahead_bytes else "as it sees fit"
        return Strategy.MAPPED, f"{cached}; mapped without a copy, the kernel reads ahead {how}"
    small = f"a read-ahead of {_size(ahead_bytes)} is too small for mapped reading on this kernel"
    if facts.available_bytes is not None and facts.available_bytes < size:
        return Strategy.MAPPED, (
            f"{cached}; {small}, but {facts.available_bytes:,} bytes of free memory hold no copy of it: "
            "mapped pages can be given back"
        )
    return Strategy.DIRECT, f"{cached}; {small}, so the device is read directly"


def _is_cached(facts: StorageFacts, size: int) -> bool:
    """Whether hardly anything is left to read: kernels take a few pages back at any time."""
    return facts.cached_bytes is not None and facts.cached_bytes >= size * 0.95


def _cached_share(facts: StorageFacts, size: int) -> str:
    if facts.cached_bytes is None:
        return "the page cache cannot be looked into"
    if facts.cached_bytes >= size:
        return "all of it is in the page cache"
    if _is_cached(facts, size):
        return "nearly all of it is in the page cache"
    if facts.cached_bytes == 0:
        return "nothing of it is in the page cache"
    return f"{max(100 * facts.cached_bytes // size, 1)} % of it is in the page cache"


def _size(length: int) -> str:
    return f"{length >> 20} MiB" if length >= 1 << 20 else f"{length >> 10} KiB"
