"""Progress for people: a bar on standard error, or the caller's own function."""

from __future__ import annotations

import sys
from collections.abc import Callable

from slipstream.errors import UsageError
from slipstream.types import Progress

_BAR_CELLS = 30


def find_report(progress: bool | Callable[[Progress], object]) -> Callable[[Progress], object] | None:
    """What to call with each Progress: None for nothing.

    Raises:
        UsageError: neither a truth value nor callable.
    """
    if callable(progress):
        return progress
    if not isinstance(progress, bool):
        raise UsageError(f"progress is {progress!r}; it is True, False or a function that takes a Progress")
    return draw_bar if progress else None


def draw_bar(progress: Progress) -> None:
    """Draws one line over the last on a terminal; elsewhere writes one line when all is delivered."""
    ended = progress.tensors_delivered == progress.tensors_total
    terminal = sys.stderr.isatty()
    if not terminal and not ended:
        return
    share = progress.bytes_read / progress.bytes_total if progress.bytes_total else 1.0
    bar = "#" * round(share * _BAR_CELLS)
    rate = progress.bytes_read / progress.seconds / 1e9 if progress.seconds else 0.0
    line = f"[{bar:<{_BAR_CELLS}}] {share:4.0%}  {progress.bytes_read / 1e9:.2f} GB  {rate:.2f} GB/s"
    print(f"\r{line}" if terminal else line, end="\n" if ended else "", file=sys.stderr, flush=True)
