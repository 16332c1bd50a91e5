"""What is there, what is missing, and in which parts that is fetched."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream import Options
from slipstream.planning.build import plan_reads
from slipstream.pulling.fetch import choose_part_bytes
from slipstream.pulling.spans import count_bytes, cut_spans, find_missing, merge_spans
from slipstream.ranges import lay_out_ranges
from slipstream.types import Blob, StorageFacts

SIZE = 200
spans_within = st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda span: tuple(sorted(span))))


def bytes_of(spans: object) -> set[int]:
    return {place for start, end in spans for place in range(start, end)}  # type: ignore[attr-defined]


@given(spans=spans_within)
def test_merged_spans(spans: list[tuple[int, int]]) -> None:
    """Merging keeps every byte, and leaves spans in order that do not touch."""
    merged = merge_spans(spans)
    assert bytes_of(merged) == bytes_of(spans)
    assert all(left[1] < right[0] for left, right in itertools.pairwise(merged))
    assert all(start < end for start, end in merged)


@given(spans=spans_within)
def test_missing_spans(spans: list[tuple[int, int]]) -> None:
    """What has landed and what is missing are the whole file, and have no byte in common."""
    landed = merge_spans(spans)
    missing = find_missing(SIZE, landed)
    assert bytes_of(missing) == set(range(SIZE)) - bytes_of(landed)
    assert count_bytes(missing) + count_bytes(landed) == SIZE


@given(spans=spans_within, part_bytes=st.integers(1, SIZE + 1))
def test_parts(spans: list[tuple[int, int]], part_bytes: int) -> None:
    """Parts hold each byte once, none crosses a multiple of the part size, and none is empty."""
    merged = merge_spans(spans)
    parts = cut_spans(merged, part_bytes)
    assert bytes_of(parts) == bytes_of(merged)
    assert count_bytes(parts) == count_bytes(merged)
    assert all(start < end and start // part_bytes == (end - 1) // part_bytes for start, end in parts)


FACTS = StorageFacts("s3", "endpoint", True, False, None, None, False, None, over_http=True)


@settings(max_examples=50)
@given(
    size=st.integers(1, 1 << 42),
    landed=st.integers(0, 1 << 30),
    chunk_bytes=st.integers(4096, 1 << 26),
    limit=st.integers(1, 1 << 34),
)
def test_parts_of_a_plan(size: int, landed: int, chunk_bytes: int, limit: int) -> None:
    """Parts are few where the limit allows that, several fit within it, and a plan copies none of them."""
    missing = find_missing(size, merge_spans([(0, min(landed, size))]))
    part_bytes = choose_part_bytes(count_bytes(missing), chunk_bytes, limit)
    assert part_bytes <= max(limit // 4, 1)
    if count_bytes(missing) // part_bytes > 5000:
        assert part_bytes > limit // 4 - 4096  # the limit makes them so small: nothing more to hold
        return
    parts = cut_spans(missing, part_bytes)
    checkpoint = lay_out_ranges([Blob("s3://b/m", size)], [(0, start, end) for start, end in parts])
    options = Options(chunk_bytes=chunk_bytes, memory_limit=limit)
    plan = plan_reads(checkpoint, checkpoint.tensors, [FACTS], options)
    assert sum(op.nbytes for op in plan.ops) == count_bytes(missing)
    assert not any(op.copies for op in plan.ops if op.nbytes > part_bytes)  # a short first may join a short last one
    assert all(op.lease_bytes <= limit for op in plan.ops)
