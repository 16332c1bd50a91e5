"""Folders for what is needed only while a benchmark runs. What a killed one left, the next one removes."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slipstream.bench.storages.undo import started_at

_PREFIX = "running-"
_numbers = itertools.count()


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder in another one, which is made if need be; gone at the end."""
    parent.mkdir(parents=True, exist_ok=True)
    _remove_orphans(parent)
    folder = parent / f"{_PREFIX}{os.getpid()}-{started_at(os.getpid())}-{next(_numbers)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_orphans(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*-*"):
        pid, started, *_ = folder.name.removeprefix(_PREFIX).split("-")
        if not pid.isdecimal() or str(started_at(int(pid))) != started:
            shutil.rmtree(folder, ignore_errors=True)
