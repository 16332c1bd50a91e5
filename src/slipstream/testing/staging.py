"""Several files that appear together or not at all.

Each is written under a temporary name in its own directory, brought to the disk, and renamed once all of them are
whole. Whatever happens before that, the temporary files and the directories made for them are removed.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from slipstream.errors import SlipstreamError, UsageError

_OWN_FILE = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|config\.json")


def refuse_to_overwrite(directory: Path, *, force: bool) -> None:
    """Refuses a directory that holds a checkpoint, unless `force` is given and the names are those of this writer.

    Raises:
        UsageError: it does, or it is no directory.
    """
    if not os.path.lexists(directory):
        return
    if not directory.is_dir():
        raise UsageError(f"{directory} is not a directory", uri=str(directory))
    names = sorted(os.listdir(directory))
    foreign = [
        name for name in names if name.endswith((".safetensors", ".index.json")) and not _OWN_FILE.fullmatch(name)
    ]
    if foreign:
        raise UsageError(
            f"{directory} holds {foreign[0]}, which is not of a synthetic checkpoint; choose another directory",
            uri=str(directory),
        )
    own = [name for name in names if _OWN_FILE.fullmatch(name)]
    if own and not force:
        raise UsageError(f"{directory} holds a checkpoint already ({own[0]}); force replaces it", uri=str(directory))


class Staging:
    """Collects files for a directory; a context manager whose exit removes what was not committed.

    It belongs to one thread. The descriptors it hands out stay open until `commit` or the exit.
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

    def add(self, name: str) -> int:
        """Begins a file; returns the descriptor to write it by. Ours to close."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._descriptors[name] = os.open(self._temporary(name), flags, 0o666)
        return self._descriptors[name]

    def add_bytes(self, name: str, content: bytes) -> None:
        """Begins a file and writes all of it."""
        with open(self.add(name), "wb", closefd=False) as file:
            file.write(content)

    def commit(self) -> None:
        """Brings all files to the disk, gives them their names, and removes what an earlier checkpoint had besides."""
        for descriptor in self._descriptors.values():
            os.fsync(descriptor)
        new = list(self._descriptors)
        for name in new:
            os.replace(self._temporary(name), self._directory / name)
            os.close(self._descriptors.pop(name))
        for name in os.listdir(self._directory):
            if _OWN_FILE.fullmatch(name) and name not in new:
                os.unlink(self._directory / name)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self._made.clear()

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
