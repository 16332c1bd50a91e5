"""A model's files in a directory, and their place in the page cache."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.bench.page_cache import make_cold, make_warm
from slipstream.bench.storages.base import PageCache, PlacedModel, Report, StorageUnavailableError

if TYPE_CHECKING:
    from slipstream.bench.models import Model

_PIECE_BYTES = 8 << 20
_FOLDER = "slipstream-bench"


def model_slug(model: Model) -> str:
    """A name for a model's folder: "llama-3-8b-4-layers"."""
    name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in model.name)
    return name if model.layers is None else f"{name}-{model.layers}-layers"


def place_locally(
    model: Model, directory: Path | None, report: Report, *, tensorizer_file: Path | None = None
) -> PlacedModel:
    """A model in a directory: as it is where that is on the same file system, else copied there, once.

    Raises:
        StorageUnavailableError: there is no such directory, it may not be written, or it has no room.
    """
    files = [*model.files, *([tensorizer_file] if tensorizer_file else [])]
    if directory is not None:
        try:
            if any(file.stat().st_dev != directory.stat().st_dev for file in files):
                files = copy_files(files, directory / _FOLDER / model_slug(model), report)
        except OSError as error:
            raise StorageUnavailableError(
                f"the model cannot be placed in {directory}: {error.strerror}; give a directory that can be written"
            ) from error
    placed = tuple(files[: len(model.files)])
    return PlacedModel(
        model=model,
        uris=tuple(map(str, placed)),
        tensorizer_uri=str(files[-1]) if tensorizer_file else None,
        files=placed,
        tensorizer_file=files[-1] if tensorizer_file else None,
    )


def copy_files(files: Sequence[Path], folder: Path, report: Report) -> list[Path]:
    """Copies files into a folder, those that are not there already by size and time of change; returns the copies.

    A copy appears whole, under its name, or not at all.

    Raises:
        StorageUnavailableError: there is no room.
        OSError: the folder cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [file for file in files if not _is_copied(file, folder / file.name)]
    total = sum(file.stat().st_size for file in missing)
    free = shutil.disk_usage(folder).free
    if free < total:
        raise StorageUnavailableError(
            f"the model takes {total / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free; free some, or "
            "take fewer layers"
        )
    done = 0
    for file in missing:
        unfinished = folder / f".{file.name}.{os.getpid()}.unfinished"
        try:
            with file.open("rb") as source, unfinished.open("wb") as target:
                while piece := source.read(_PIECE_BYTES):
                    target.write(piece)
                    done += len(piece)
                    report(f"copying to {folder}", done, total)
                target.flush()
                os.fsync(target.fileno())
            status = file.stat()
            os.utime(unfinished, ns=(status.st_atime_ns, status.st_mtime_ns))
            unfinished.rename(folder / file.name)
        finally:
            unfinished.unlink(missing_ok=True)
    return [folder / file.name for file in files]


def set_page_cache(placed: PlacedModel, page_cache: PageCache, *, tensorizer: bool) -> None:
    """Drops the model's files from the page cache, or reads those in that the sample loads; and checks it.

    Raises:
        SampleError: part of them stays, or does not stay.
    """
    if page_cache == "warm":
        make_warm([placed.tensorizer_file] if tensorizer and placed.tensorizer_file else placed.files)
    else:
        make_cold([*placed.files, *([placed.tensorizer_file] if placed.tensorizer_file else [])])


def _is_copied(file: Path, copy: Path) -> bool:
    if not copy.exists():
        return False
    ours, theirs = file.stat(), copy.stat()
    return ours.st_size == theirs.st_size and int(ours.st_mtime) == int(theirs.st_mtime)
