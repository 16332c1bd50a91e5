"""Several files that appear together or not at all.

Each is written under a temporary name in its own directory, brought to the disk, and renamed once all of them are
whole. Whatever happens before that, the temporary files and the directories made for them are removed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, as_completed
from pathlib import Path
from types import TracebackType
from typing import Self

from slipstream.errors import SlipstreamError, UsageError
from slipstream.testing.destination import NewFile, Part, Report, is_own, open_makers, refuse_names


def refuse_to_overwrite(directory: Path, *, force: bool) -> None:
    """Refuses a directory that holds a checkpoint, unless `force` is given and the names are those of this writer.

    Raises:
        UsageError: it does, or it is no directory.
    """
    if not os.path.lexists(directory):
        return
    if not directory.is_dir():
        raise UsageError(f"{directory} is not a directory", uri=str(directory))
    refuse_names(os.listdir(directory), str(directory), force=force)


class Staging:
    """Collects files for a directory; a context manager whose exit removes what was not committed. A Destination.

    It belongs to one thread.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made: list[Path] = []
        self._descriptors: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Staging for {self._directory}: {len(self._descriptors)} files>"

    def __enter__(self) -> Self:
        missing = [path for path in (self._directory, *self._directory.parents) if not path.exists()]
        try:
            for path in reversed(missing):
                path.mkdir(exist_ok=True)
                self._made.append(path)
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._discard()

    def require_space(self, nbytes: int) -> None:
        """Raises SlipstreamError unless the disk has room for that many bytes."""
        free = shutil.disk_usage(self._directory).free
        if free < nbytes:
            raise SlipstreamError(
                f"the checkpoint takes {nbytes / 1e6:,.1f} MB, and {self._directory} has {free / 1e6:,.1f} MB free; "
                "free some space, choose another directory, or write fewer layers",
                uri=str(self._directory),
            )

    def write(self, files: Sequence[NewFile], report: Report) -> None:
        """See Destination. The parts of all files are made and written at once, in no order."""
        with open_makers() as pool:
            try:
                pending: list[Future[int]] = []
                for file in files:
                    descriptor = self._open(file.name)
                    pending += [pool.submit(_write_part, descriptor, part) for part in file.parts]
                for done in as_completed(pending):
                    report(done.result())
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def commit(self) -> None:
        """See Destination. All files are brought to the disk before the first gets its name."""
        for descriptor in self._descriptors.values():
            os.fsync(descriptor)
        new = list(self._descriptors)
        for name in new:
            os.replace(self._temporary(name), self._directory / name)
            os.close(self._descriptors.pop(name))
        for name in os.listdir(self._directory):
            if is_own(name) and name not in new:
                os.unlink(self._directory / name)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self._made.clear()

    def _open(self, name: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._descriptors[name] = os.open(self._temporary(name), flags, 0o666)
        return self._descriptors[name]

    def _temporary(self, name: str) -> Path:
        return self._directory / f".{name}.{os.getpid()}.partial"

    def _discard(self) -> None:
        for name, descriptor in self._descriptors.items():
            os.close(descriptor)
            self._temporary(name).unlink(missing_ok=True)
        self._descriptors.clear()
        for path in reversed(self._made):
            try:
                path.rmdir()
            except OSError:  # somebody else has put something into it
                break
        self._made.clear()


def _write_part(descriptor: int, part: Part) -> int:
    """`pwrite` until nothing is left: a nearly full disk takes a part before it refuses."""
    data, offset = memoryview(part.make()), part.offset
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count
    return part.nbytes
