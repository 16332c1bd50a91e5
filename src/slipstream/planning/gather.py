"""How the strips of a tensor are read: each by itself, or with what lies between them. Decides; reads nothing.

Reading a gap along costs its bytes; leaving it out costs one more request. So it is a matter of how far strips are
apart, and of what a request costs on their storage.
"""

from __future__ import annotations

from slipstream.options import Options
from slipstream.types import Gather, StorageFacts, Strategy, StrategyChoice, Strips, StripWay

# A page: what the page cache reads at least, and devices with large sectors too. On a virtual disk of 2 GB/s and 90,000
# requests a second, 22 kB cost as much as a request; a device that other ranks read from as well is better spared.
_LOCAL_GAP_BYTES = 4 << 10
# Unmeasured: a round trip of 0.3 ms at 1 GB/s.
_REMOTE_GAP_BYTES = 256 << 10
# A request takes a store 30 ms before its first byte, in which a connection of 90 MB/s brings 2.7 MB; many are under
# way at once, so that less than half of it counts. Requests also cost money, and stores limit how many one may make.
_STORE_GAP_BYTES = 1 << 20
# What one rank leaves out, its neighbours on the host ask for: together they want all of it, and in order it comes
# fastest (docs/sharding.md).
_SHARED_GAP_BYTES = 1 << 20
# Of single strips in one read: what is known of each is in memory until they are there.
_MOST_PIECES = 8192
# What passes through memory on its way to where strips stand together: 32 reads of the usual 8 MiB.
_MOST_SCRATCH_BYTES = 256 << 20
_LEAST_SPAN_BYTES = 16 << 10
_PAGE_BYTES = 4096


def size_scratch(options: Options) -> tuple[int, int]:
    """The most that one read takes from a blob along with strips, and memory for all that passes through so.

    That is a quarter of a limit, if a quarter does.
    """
    limit, span_bytes = options.memory_limit, options.chunk_bytes
    if limit is None:
        return span_bytes, _MOST_SCRATCH_BYTES
    span_bytes = min(span_bytes, max(limit // 16, _LEAST_SPAN_BYTES))
    return span_bytes, min(_MOST_SCRATCH_BYTES, max(limit // 4, span_bytes + 2 * _PAGE_BYTES))


def plan_gather(
    strips: Strips,
    facts: StorageFacts,
    choice: StrategyChoice,
    options: Options,
    *,
    span_bytes: int,
    shared: bool = False,
    staged: bool = False,
) -> Gather:
    """How strips of one blob are read.

    Args:
        strips: where they lie.
        facts: what is known of the blob's storage.
        choice: how the blob is read otherwise.
        options: the caller's settings.
        span_bytes: the most that one read may take from the blob.
        shared: whether other ranks on this host read the rest of it.
        staged: whether strips pass through a ring, so that the blob is not mapped for that reason alone.
    """
    way = _choose_way(facts, choice, options, shared=shared, staged=staged)
    wanted_gap = _gap_bytes(facts, way) if options.gap_bytes == "auto" else options.gap_bytes
    gap = wanted_gap
    row = strips.width + sum(between for between in strips.gaps if between <= gap)
    if row > span_bytes:  # a row is read in pieces, or in its blocks: what lies between them is left out
        gap, row = 0, strips.width
    joins_rows = strips.gap_between_rows <= gap
    period = row + (strips.gap_between_rows if joins_rows else 0)
    rows = max(1, span_bytes // period)
    if not joins_rows:
        rows = min(rows, max(1, _MOST_PIECES // len(strips.blocks)))
    step = span_bytes if row > span_bytes else rows * strips.width
    return Gather(
        strips=strips,
        gap_bytes=gap,
        step_bytes=step,
        span_bytes=span_bytes,
        way=way,
        reason=_explain(strips, gap, wanted_gap, facts, way),
    )


def _choose_way(
    facts: StorageFacts, choice: StrategyChoice, options: Options, *, shared: bool, staged: bool
) -> StripWay:
    """How single strips are read: by default past the page cache, which reads pages where devices give sectors.

    Not where the file is in memory already, other ranks on this host want the rest, or the caller wants another way.
    """
    is_local = not (facts.over_http or facts.remote)
    may_map = choice.strategy is Strategy.MAPPED or (staged and options.strategy == "auto" and is_local)
    if may_map and shared and options.gap_bytes == "auto" and not facts.in_memory:
        return StripWay.SHARED
    if choice.strategy in (Strategy.DIRECT, Strategy.GDS):
        return StripWay.SECTORS
    if choice.strategy is not Strategy.MAPPED:
        return StripWay.APART
    return StripWay.APART if facts.in_memory or options.strategy != "auto" else StripWay.SECTORS


def _gap_bytes(facts: StorageFacts, way: StripWay) -> int:
    if facts.over_http:
        return _STORE_GAP_BYTES
    if facts.remote:
        return _REMOTE_GAP_BYTES
    return _SHARED_GAP_BYTES if way is StripWay.SHARED else _LOCAL_GAP_BYTES


def _explain(strips: Strips, gap: int, wanted_gap: int, facts: StorageFacts, way: StripWay) -> str:
    count = strips.rows * len(strips.blocks)
    longest = max(end - start for start, end in strips.blocks)
    gaps = [*strips.gaps, *([strips.gap_between_rows] if strips.rows > 1 or len(strips.blocks) == 1 else [])]
    apart = f"{min(gaps):,}" if min(gaps) == max(gaps) else f"{min(gaps):,} to {max(gaps):,}"
    what = f"{count:,} strips of {'up to ' if len(strips.blocks) > 1 else ''}{longest:,} bytes, {apart} apart"
    where = "a store" if facts.over_http else facts.filesystem
    if max(gaps) <= gap and way is StripWay.SHARED:
        return f"{what}: whole rows are read into the page cache, once for all ranks on this host"
    if max(gaps) <= gap:
        return f"{what}: read along with what lies between them, which costs {where} less than a request for each"
    if min(gaps) > gap:
        why = "" if gap == wanted_gap else ", since a whole row is more than one read may take"
        return f"{what}: each is read by itself{why}"
    return f"{what}: those up to {gap:,} bytes apart are read together"
