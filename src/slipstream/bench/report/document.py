"""A report as a value: what `markdown` and `page` both write.

All text in it is plain: nothing is markup, whatever characters it holds. Cells are text with the digits that are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from slipstream.bench.report.chart_data import Drawing
from slipstream.bench.report.wording import NOTHING

RowKind: TypeAlias = Literal["plain", "ours", "floor", "missing", "group"]
"""What a row is about: slipstream, a plain reader, something without figures; or it is a heading for those below."""


@dataclass(frozen=True)
class Column:
    """One column; numbers stand on its right."""

    title: str
    numeric: bool = True


@dataclass(frozen=True)
class Row:
    """One row, with a text for each column."""

    cells: tuple[str, ...]
    kind: RowKind = "plain"


@dataclass(frozen=True)
class Table:
    """A table. The first column says what the row is about."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert all(len(row.cells) == len(self.columns) for row in self.rows), self.caption


@dataclass(frozen=True)
class Paragraph:
    """Text."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of texts."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Card:
    """One headline: what it is about, the figure, and what it means. `lines` go from important to less so."""

    title: str
    figure: str
    unit: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Cards:
    """Headlines beside one another."""

    items: tuple[Card, ...]


@dataclass(frozen=True)
class Figure:
    """A chart.

    Attributes:
        name: of its files, without a suffix.
        caption: below it.
        description: the same in words and numbers, for who cannot see it.
        drawing: what is drawn.
    """

    name: str
    caption: str
    description: str
    drawing: Drawing


Block: TypeAlias = Table | Paragraph | Bullets | Cards | Figure


@dataclass(frozen=True)
class Section:
    """A heading, of level 2 or 3, and what stands below it."""

    title: str
    level: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """The whole report."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]

    @property
    def figures(self) -> list[Figure]:
        """All charts, in their order."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Figure)]

    @property
    def tables(self) -> list[Table]:
        """All tables, in their order."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Table)]


def make_table(
    caption: str, columns: Sequence[Column], rows: Sequence[Row], *, notes: Sequence[str] = (), drop_empty: bool = False
) -> Table:
    """A table; where `drop_empty` is set, without the columns that hold nothing in any row."""
    kept = list(range(len(columns)))
    if drop_empty:
        kept = [n for n in kept if not columns[n].numeric or any(row.cells[n] not in ("", NOTHING) for row in rows)]
    return Table(
        caption,
        tuple(columns[n] for n in kept),
        tuple(Row(tuple(row.cells[n] for n in kept), row.kind) for row in rows),
        tuple(notes),
    )
