"""The figures of the reference document, Appendix A to D, with what is known of how they came about.

They stand in published.json beside this file, as printed. Everything here is data: nothing is measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TypedDict


@dataclass(frozen=True, slots=True)
class PublishedCell:
    """One figure. `at` is the concurrency or number of readers, or None where the table has no such column."""

    at: int | None
    seconds: float

    @property
    def printed(self) -> str:
        """The figure as the document prints it."""
        return f"{self.seconds:g}"


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """One loader's figures on one storage, from one table of the document.

    Attributes:
        appendix: "A" to "D".
        section: the experiment's heading.
        experiment: its name here: "gp3", "io2", "s3" or "vllm".
        storage: where the model lay: "gp3", "io2" or "s3".
        loader: the contender's name here.
        title: the loader's name there.
        setting: the heading of the first column, or None where there is none.
        measure: the heading of the figures.
        cells: the figures, in the document's order.
    """

    appendix: str
    section: str
    experiment: str
    storage: str
    loader: str
    title: str
    setting: str | None
    measure: str
    cells: tuple[PublishedCell, ...]

    def seconds(self, at: int | None) -> float | None:
        """The figure at a concurrency, or None where the document has none."""
        return next((cell.seconds for cell in self.cells if cell.at == at), None)

    @property
    def best(self) -> PublishedCell:
        """The shortest time."""
        return min(self.cells, key=lambda cell: cell.seconds)


class PublishedStorage(TypedDict):
    """What the document says of a storage; None where it says nothing."""

    title: str
    capacity_gb: int | None
    iops: int | None
    throughput_mib_per_s: int | None


class PublishedSource(TypedDict):
    """Which document it is."""

    title: str
    publisher: str
    date: str | None
    date_note: str
    method: str


class PublishedModel(TypedDict):
    """What was loaded, and how its size was taken."""

    title: str
    size_as_printed: str
    nbytes: int
    files: int
    nbytes_note: str


@dataclass(frozen=True, slots=True)
class Published:
    """The whole document's figures."""

    source: PublishedSource
    hardware: Mapping[str, str]
    storages: Mapping[str, PublishedStorage]
    software: Mapping[str, str]
    model: PublishedModel
    destination: str
    tables: tuple[PublishedTable, ...]

    def table(self, experiment: str, storage: str, loader: str) -> PublishedTable | None:
        """One loader's figures, or None where the document has none."""
        for table in self.tables:
            if (table.experiment, table.storage, table.loader) == (experiment, storage, loader):
                return table
        return None


@cache
def read_published() -> Published:
    """Reads the figures. The same value each time; nobody changes it."""
    data = json.loads(files(__package__).joinpath("published.json").read_text(encoding="utf-8"))
    tables = [{**table, "cells": tuple(PublishedCell(**cell) for cell in table["cells"])} for table in data["tables"]]
    return Published(**{**data, "tables": tuple(PublishedTable(**table) for table in tables)})
