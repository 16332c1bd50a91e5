"""Writes a document as one HTML page that needs nothing else: styles and charts are in it, and scripts are not.

It asks for nothing over the network, and its Content-Security-Policy would not let it. Charts are there twice, for a
page's width and for a phone's; which of them is seen, and in which colours, is the style's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from html import escape as escape_html
from importlib.resources import files

from slipstream.bench.report.document import (
    Block,
    Bullets,
    Card,
    Cards,
    Document,
    Figure,
    Paragraph,
    Row,
    Section,
    Table,
)
from slipstream.bench.report.inks import inks
from slipstream.bench.report.wording import plain

DrawInline = Callable[[Figure], str]
"""Makes the elements of one chart."""

_BEFORE_UNIT = re.compile(r"(?<=\d) (?=[%×]|(?:s|ms|[kMG]B|[KMG]iB)\b)|(?<=→) ")
_SHORT = 12  # characters, up to which a cell needs no breaks
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def write_page(document: Document, draw: DrawInline) -> str:
    """The document as HTML.

    Args:
        document: what is written.
        draw: makes a chart's elements, with colours as CSS variables.
    """
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    anchors = [f"s{number}" for number in range(1, len(document.sections) + 1)]
    body = [f"<h1>{escape(document.title)}</h1>", f'<p class="subtitle">{escape(document.subtitle)}</p>']
    body += _contents(document, anchors)
    for section, anchor in zip(document.sections, anchors, strict=True):
        body += _section(section, anchor, draw)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<link rel="icon" href="data:,">',
            f"<title>{escape(document.title)}</title>",
            f"<style>\n{_variables()}{style}</style>",
            "</head>",
            "<body>",
            "<main>",
            *body,
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def escape(text: str) -> str:
    """Plain text as HTML that shows exactly this; numbers and their units stay on one line."""
    return _BEFORE_UNIT.sub("\N{NO-BREAK SPACE}", escape_html(plain(text)))


def _variables() -> str:
    light = " ".join(f"--{ink.name}: {ink.light};" for ink in inks())
    dark = " ".join(f"--{ink.name}: {ink.dark};" for ink in inks())
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


def _contents(document: Document, anchors: list[str]) -> Iterator[str]:
    yield '<nav aria-label="Sections"><ul>'
    for section, anchor in zip(document.sections, anchors, strict=True):
        if section.level == 2:
            yield f'<li><a href="#{anchor}">{escape(section.title)}</a></li>'
    yield "</ul></nav>"


def _section(section: Section, anchor: str, draw: DrawInline) -> Iterator[str]:
    yield f'<h{section.level} id="{anchor}">{escape(section.title)}</h{section.level}>'
    for block in section.blocks:
        yield from _block(block, draw)


def _block(block: Block, draw: DrawInline) -> Iterator[str]:
    if isinstance(block, Paragraph):
        yield f"<p>{escape(block.text)}</p>"
    elif isinstance(block, Bullets):
        yield "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in block.items) + "</ul>"
    elif isinstance(block, Cards):
        yield '<div class="cards">'
        yield from map(_card, block.items)
        yield "</div>"
    elif isinstance(block, Figure):
        yield f"<figure><figcaption><b>{escape(block.drawing.title)}</b>{escape(block.caption)}</figcaption>"
        yield f"{draw(block)}</figure>"
    else:
        yield from _table(block)


def _card(card: Card) -> str:
    first, *rest = (escape(line) for line in card.lines)
    lines = [f'<p class="first">{first}</p>', *(f"<p>{line}</p>" for line in rest)]
    figure = f'<p class="figure">{escape(card.figure)} <span>{escape(card.unit)}</span></p>'
    return f'<article class="card"><h4>{escape(card.title)}</h4>{figure}{"".join(lines)}</article>'


def _table(table: Table) -> Iterator[str]:
    caption = escape(table.caption)
    yield f'<figure class="table"><figcaption><b>{caption}</b></figcaption>'
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table{_slim(table)}>'
    heads = (
        f'<th scope="col"{" class=number" if column.numeric else ""}>{escape(column.title)}</th>'
        for column in table.columns
    )
    yield f"<thead><tr>{''.join(heads)}</tr></thead>"
    yield "<tbody>"
    classes = [_column_class(table, number) for number in range(len(table.columns))]
    for row in table.rows:
        yield _row(row, classes)
    yield "</tbody></table></div>"
    yield from (f'<p class="notes">{escape(note)}</p>' for note in table.notes)
    yield "</figure>"


def _slim(table: Table) -> str:
    """For a table whose first column needs no room kept for it."""
    return ' class="slim"' if _longest(table, 0) <= _SHORT else ""


def _column_class(table: Table, number: int) -> str:
    return "number" if table.columns[number].numeric else "word" if _longest(table, number) <= _SHORT else "words"


def _longest(table: Table, number: int) -> int:
    return max((len(row.cells[number]) for row in table.rows if row.kind != "group"), default=0)


def _row(row: Row, classes: Sequence[str]) -> str:
    if row.kind == "group":
        title = f"<span>{escape(row.cells[0])}</span>"
        return f'<tr class="group"><th colspan="{len(row.cells)}" scope="colgroup">{title}</th></tr>'
    cells = [f'<th scope="row">{escape(row.cells[0])}</th>']
    for cell, css_class in zip(row.cells[1:], classes[1:], strict=True):
        cells.append(f'<td class="{css_class}">{escape(cell)}</td>')
    return f'<tr class="{row.kind}">{"".join(cells)}</tr>'
