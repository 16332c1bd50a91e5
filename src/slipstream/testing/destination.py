"""Where a checkpoint is written: the seam between those who make contents and those who store them.

    synthetic ── NewFile, made of Parts ──▶ Destination: staging (a directory), uploading (an object store)

Files appear together or not at all, and no destination holds more than a few parts in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeAlias

from slipstream.errors import UsageError

Report: TypeAlias = Callable[[int], object]
"""Told of so many bytes more, in the thread that called `write`."""


class Part(NamedTuple):
    """Neighbouring bytes of a file, made when they are wanted.

    Attributes:
        offset: of the first, in the file.
        nbytes: how many.
        make: makes them, in any thread.
    """

    offset: int
    nbytes: int
    make: Callable[[], bytes | memoryview]


class NewFile(NamedTuple):
    """A file that is to be written. Its parts are in order and without gaps."""

    name: str
    parts: Sequence[Part]

    @property
    def nbytes(self) -> int:
        """Its size."""
        return sum(part.nbytes for part in self.parts)


class Destination(Protocol):
    """Collects files for one place. It belongs to one thread; whatever was not committed is removed in the end."""

    def write(self, files: Sequence[NewFile], report: Report) -> None:
        """Makes and stores these files. Nobody sees them yet."""
        ...

    def commit(self) -> None:
        """Makes all that was written visible, in that order, and removes what an earlier checkpoint had besides."""
        ...


def file_with(name: str, content: bytes) -> NewFile:
    """A file of bytes that are there already."""
    return NewFile(name, (Part(0, len(content), lambda: content),))


def open_makers() -> ThreadPoolExecutor:
    """Threads that make parts, as many as there are cores, up to four; numpy releases the GIL."""
    return ThreadPoolExecutor(min(4, os.cpu_count() or 1), "slipstream-synth")


def is_own(name: str) -> bool:
    """Whether this is how the writer of synthetic checkpoints names its files."""
    head, _, tail = name.partition("-")
    if head == "model" and tail.endswith(".safetensors"):
        numbers = tail.removesuffix(".safetensors").split("-of-")
        return len(numbers) == 2 and all(len(number) == 5 and number.isdecimal() for number in numbers)
    return name in ("model.safetensors", "model.safetensors.index.json", "config.json")


def refuse_names(names: Sequence[str], place: str, *, force: bool) -> None:
    """Refuses a place that holds a checkpoint, unless `force` is given and the names are those of this writer.

    Raises:
        UsageError: it does.
    """
    names = sorted(names)
    foreign = [name for name in names if name.endswith((".safetensors", ".index.json")) and not is_own(name)]
    if foreign:
        raise UsageError(
            f"{place} holds {foreign[0]}, which is not of a synthetic checkpoint; choose another place", uri=place
        )
    own = [name for name in names if is_own(name)]
    if own and not force:
        raise UsageError(f"{place} holds a checkpoint already ({own[0]}); force replaces it", uri=place)
