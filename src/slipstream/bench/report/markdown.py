"""Writes a document as Markdown, of the kind that GitHub shows: tables with a pipe between cells."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from slipstream.bench.report.document import Block, Bullets, Cards, Document, Figure, Paragraph, Section, Table
from slipstream.bench.report.wording import plain

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$&])")
_AT_START = re.compile(r"^(?:[#+=-](?=[\s#+=-]|$)|\d+[.)](?=\s|$))")


def write_markdown(document: Document, charts: str = "charts") -> str:
    """The document as Markdown.

    Args:
        document: what is written.
        charts: where its charts' files lie, relative to the Markdown's file.
    """
    parts = [f"# {escape(document.title)}", escape(document.subtitle)]
    for section in document.sections:
        parts += _section(section, charts)
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """Plain text as Markdown that shows exactly this, on one line."""
    escaped = _SPECIAL.sub(r"\\\1", plain(text))
    return _AT_START.sub(lambda match: f"{match[0][:-1]}\\{match[0][-1]}", escaped)


def _section(section: Section, charts: str) -> Iterator[str]:
    yield f"{'#' * section.level} {escape(section.title)}"
    for block in section.blocks:
        yield from _block(block, charts)


def _block(block: Block, charts: str) -> Iterator[str]:
    if isinstance(block, Paragraph):
        yield escape(block.text)
    elif isinstance(block, Bullets):
        yield "\n".join(f"- {escape(item)}" for item in block.items)
    elif isinstance(block, Cards):
        yield "\n".join(
            f"- **{escape(f'{card.title}: {card.figure} {card.unit}.')}** {escape(' '.join(card.lines))}"
            for card in block.items
        )
    elif isinstance(block, Figure):
        title = f"{block.drawing.title}. {block.drawing.subtitle}"
        yield f"![{escape(title)}]({charts}/{block.name}.png)"
        yield f"*{escape(block.caption)}* [SVG]({charts}/{block.name}.svg)"
    else:
        yield from _table(block)


def _table(table: Table) -> Iterator[str]:
    yield f"**{escape(table.caption)}**"
    texts = [[escape(column.title) for column in table.columns]]
    texts += [[escape(cell) for cell in row.cells] for row in table.rows]
    for line, row in zip(texts[1:], table.rows, strict=True):
        if row.kind in ("ours", "group"):
            line[:] = [f"**{cell}**" if cell else cell for cell in line]
    widths = [max(3, *(len(line[n]) for line in texts)) for n in range(len(table.columns))]
    rules = ["-" * (width - 1) + ":" if column.numeric else "-" * width
             for width, column in zip(widths, table.columns, strict=True)]  # fmt: skip
    lines = [_line(texts[0], widths, table), f"| {' | '.join(rules)} |"]
    lines += [_line(line, widths, table) for line in texts[1:]]
    yield "\n".join(lines)
    if table.notes:
        yield "\n".join(f"*{escape(note)}*  " for note in table.notes).rstrip()


def _line(cells: Sequence[str], widths: Sequence[int], table: Table) -> str:
    padded = (
        cell.rjust(width) if column.numeric else cell.ljust(width)
        for cell, width, column in zip(cells, widths, table.columns, strict=True)
    )
    return f"| {' | '.join(padded)} |"
