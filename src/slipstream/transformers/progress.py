"""Progress of a load that is several streams, told as one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from slipstream.errors import UsageError
from slipstream.types import Progress

Report: TypeAlias = Callable[[Progress], object]


class SumOfProgress:
    """Adds up the streams of one load. Several threads may iterate them; the report is called in one at a time."""

    def __init__(self, report: Report, nbytes: int, tensors: int) -> None:
        """
        Args:
            report: is told of the whole.
            nbytes, tensors: of the whole.
        """
        self._report = report
        self._nbytes = nbytes
        self._tensors = tensors
        self._started = time.perf_counter()
        self._parts: dict[int, Progress] = {}
        self._lock = threading.Lock()

    def follow(self, part: int) -> Report:
        """What one of the streams is to report to."""

        def add(progress: Progress) -> None:
            with self._lock:
                self._parts[part] = progress
                parts = self._parts.values()
                self._report(
                    Progress(
                        bytes_read=sum(each.bytes_read for each in parts),
                        bytes_total=self._nbytes,
                        tensors_delivered=sum(each.tensors_delivered for each in parts),
                        tensors_total=self._tensors,
                        seconds=time.perf_counter() - self._started,
                    )
                )

        return add


class Bar:
    """A bar like those of transformers, which their settings for bars turn on and off."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._shown = 0

    def __call__(self, progress: Progress) -> None:
        """Shows how far it is."""
        from transformers.utils.logging import tqdm

        if self._bar is None:
            self._bar = tqdm(total=progress.bytes_total, desc="Reading weights", unit="B", unit_scale=True)
        self._bar.update(progress.bytes_read - self._shown)
        self._shown = progress.bytes_read
        if progress.tensors_delivered == progress.tensors_total:
            self.close()

    def close(self) -> None:
        """Ends the line. Safe to call again."""
        if self._bar is not None:
            self._bar.close()


@contextmanager
def reporting(progress: bool | Report) -> Iterator[Report | None]:
    """What to call with each Progress: None for nothing. A bar ends with the `with` block.

    Raises:
        UsageError: neither a truth value nor callable.
    """
    if callable(progress):
        yield progress
    elif not isinstance(progress, bool):
        raise UsageError(f"progress is {progress!r}; it is True, False or a function that takes a Progress")
    elif not progress:
        yield None
    else:
        bar = Bar()
        try:
            yield bar
        finally:
            bar.close()
