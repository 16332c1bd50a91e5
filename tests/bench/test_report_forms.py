"""Markdown and HTML: both show the same document, whatever characters its names hold."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from slipstream.bench.records import Record
from slipstream.bench.report.document import Bullets, Document, Paragraph, Section, Table
from slipstream.bench.report.markdown import write_markdown
from slipstream.bench.report.page import write_page
from slipstream.bench.report.story import tell_story
from slipstream.bench.report.wording import column_of, plain, ratio, seconds
from tests.bench.synthetic_results import awkward, gp3, io2, s3, vllm

NASTY = (
    "1. no list",
    "# no heading",
    "- no bullet",
    "+ neither",
    "a | b",
    "*not* _em_ **bold** ~~gone~~",
    "`code`",
    "[x](http://y) ![i](j)",
    "<b>&amp;</b>",
    "$math$ \\frac",
    "tab\tand\nline",
    "\x1b[31m red \u202e turned",
    "=== ---",
)


def tell(records: list[Record]) -> Document:
    return tell_story(sorted(records, key=lambda record: record.taken_at), charts=False)


def everything() -> Document:
    return tell([*gp3(rounds=2), *io2(rounds=1), *s3(rounds=1), *vllm(rounds=1), *awkward()])


class Reader(HTMLParser):
    """Texts of table cells and of paragraphs, headings and list items; and every tag that was opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.texts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] | None = None
        self._cell = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._open = []
            self._cell = len(self.tables[-1][-1])
            self.tables[-1][-1] += [""] * int(dict(attrs).get("colspan") or 1)
        elif tag in ("p", "li", "h1", "h2", "h3"):
            self._open = []

    def handle_endtag(self, tag: str) -> None:
        text = "".join(self._open or ()).replace("\N{NO-BREAK SPACE}", " ")
        if tag in ("td", "th"):
            self.tables[-1][-1][self._cell] = text
        elif tag in ("p", "li", "h1", "h2", "h3"):
            self.texts.append(text)

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self._open.append(data)


def read_markdown(text: str) -> tuple[list[list[list[str]]], list[str]]:
    """Tables of cells, and the texts of paragraphs, items and headings, as a reader of GitHub's Markdown has them."""
    tables: list[list[list[str]]] = []
    texts: list[str] = []
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline":
            shown = "".join(_shown(child) for child in token.children or ())
            if before is not None and before.type in ("th_open", "td_open"):
                tables[-1][-1].append(shown)
            else:
                texts.append(shown)
    return tables, texts


def _shown(token: Token) -> str:
    assert token.type in ("text", "text_special", "strong_open", "strong_close", "em_open", "em_close", "image",
                          "link_open", "link_close", "softbreak", "hardbreak"), token  # fmt: skip
    return token.content


def expected(table: Table) -> list[list[str]]:
    return [
        [plain(column.title) for column in table.columns],
        *([plain(cell) for cell in row.cells] for row in table.rows),
    ]


def test_markdown_shows_every_cell() -> None:
    """A reader of Markdown finds exactly the document's tables, cell by cell."""
    document = everything()
    tables, _ = read_markdown(write_markdown(document))
    assert tables == [expected(table) for table in document.tables]


def test_page_shows_every_cell() -> None:
    """The page holds exactly the document's tables, cell by cell."""
    document = everything()
    assert Reader(write_page(document, lambda figure: "")).tables == [expected(table) for table in document.tables]


@pytest.mark.parametrize("text", NASTY)
def test_names_are_not_markup(text: str) -> None:
    """Text that would be markup, in a paragraph, a list or a heading, is shown as it is by both forms."""
    document = Document(text, text, (Section(text, 2, (Paragraph(text), Bullets((text,)))),))
    assert read_markdown(write_markdown(document))[1] == [plain(text)] * 5
    page = Reader(write_page(document, lambda figure: ""))
    assert [shown for shown in page.texts if shown] == [plain(text)] * 6  # and in the list of sections


def test_page_runs_and_fetches_nothing() -> None:
    """The page has no script, no event handler and no address outside itself, even where names hold some."""
    page = Reader(write_page(everything(), lambda figure: ""))
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "embed", "base", "form", "img")]
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("href", "src", "srcset", "action", "data"):
            address = attributes.get(name)
            assert address is None or address.startswith("#") or address == "data:,", (tag, address)
    text = write_page(everything(), lambda figure: "")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in text


def test_numbers_are_right_aligned() -> None:
    """Columns of numbers are right-aligned in both forms, columns of words are not."""
    document = tell(gp3(rounds=1))
    page = Reader(write_page(document, lambda figure: ""))
    heads = [dict(attrs).get("class") for tag, attrs in page.tags if tag == "th" and attrs.get("scope") == "col"]
    numeric = [column.numeric for table in document.tables for column in table.columns]
    assert [each == "number" for each in heads] == numeric
    rules = [line for line in write_markdown(document).splitlines() if line.startswith("| -")]
    assert [cell.strip().endswith(":") for rule in rules for cell in rule.strip("|").split("|")] == numeric


def test_digits() -> None:
    """A column shows three digits of its smallest number, and as many decimals in every row."""
    assert column_of([47.56, 4.881, None]) == ["47.56", "4.88", "–"]
    assert column_of([0.0381, 2.0]) == ["0.0381", "2.0000"]
    assert column_of([1234.5]) == ["1,234.50"]
    assert column_of([0.0, None]) == ["0.00", "–"]
    assert [ratio(value) for value in (1.0449, 0.0141, 123.4, None)] == ["1.04", "0.014", "123", "–"]
    assert [seconds(value) for value in (3.014, 0.0381, 123.4)] == ["3.01 s", "0.0381 s", "123 s"]
