"""Which bytes of a file are there, and which are missing. Pure functions over half-open spans `[start, end)`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]


def merge_spans(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The same bytes in as few spans as possible, in order."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        elif start < end:
            merged.append((start, end))
    return tuple(merged)


def find_missing(size: int, landed: Sequence[Span]) -> tuple[Span, ...]:
    """What of `[0, size)` is in no span.

    Args:
        size: of the file.
        landed: as `merge_spans` makes them, none beyond the file.
    """
    edges = [0, *(edge for span in landed for edge in span), size]
    return tuple((start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end)


def cut_spans(spans: Iterable[Span], part_bytes: int) -> list[Span]:
    """The same bytes in parts that end at multiples of `part_bytes` in the file."""
    parts: list[Span] = []
    for start, end in spans:
        while start < end:
            stop = min(start - start % part_bytes + part_bytes, end)
            parts.append((start, stop))
            start = stop
    return parts


def count_bytes(spans: Iterable[Span]) -> int:
    """How many bytes spans hold that do not overlap."""
    return sum(end - start for start, end in spans)
