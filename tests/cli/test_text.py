"""What the commands print: escaped, short, and in units that people read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.cli import text
from tests.cli.process import assert_harmless


@given(st.text())
def test_printable_is_harmless(name: str) -> None:
    """Whatever a name holds, what is printed of it is one line of printable characters."""
    shown = text.printable(name)
    assert shown.isprintable()
    assert_harmless(shown)


@given(st.text(st.characters(codec="ascii", min_codepoint=32, max_codepoint=126), max_size=100))
def test_printable_keeps_what_is_harmless(name: str) -> None:
    """Plain names are shown as they are."""
    assert text.printable(name) == name


def test_printable_is_short() -> None:
    """A name of a megabyte is cut."""
    assert len(text.printable("x" * 1_000_000)) == 512


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (1_050_673_152, "1.05 GB"), (16_060_522_496, "16.06 GB")],
)
def test_format_bytes(count: int, shown: str) -> None:
    """Sizes are decimal, with two digits behind the point."""
    assert text.format_bytes(count) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(8 << 20, "8 MiB"), (65536, "64 KiB"), (5_000_000, "5.00 MB"), (3 << 30, "3 GiB")]
)
def test_format_binary(count: int, shown: str) -> None:
    """Settings are shown as people wrote them."""
    assert text.format_binary(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0304, "0.030 s"), (2.5, "2.50 s"), (12.34, "12.3 s"), (200, "3 min 20 s")]
)
def test_format_seconds(seconds: float, shown: str) -> None:
    """Times have three digits, and minutes where they are long."""
    assert text.format_seconds(seconds) == shown


@pytest.mark.parametrize(
    ("uris", "shown"),
    [
        (["/a/b/model.safetensors"], ["model.safetensors"]),
        (["/a/b/x", "/a/b/y"], ["x", "y"]),
        (["/a/b/x", "/a/c/x"], ["b/x", "c/x"]),
        (["/a/b/x", "/a/b/c/x"], ["x", "c/x"]),
        (["/a/bc/x", "/a/bd/x"], ["bc/x", "bd/x"]),
        (["/x", "/x"], ["x", "x"]),
        (["s3://models/a/x.safetensors"], ["x.safetensors"]),
        (["https://h/a/x.safetensors?..."], ["x.safetensors?..."]),
        (["s3://models/a/x", "s3://models/a/b/y"], ["x", "b/y"]),
        (["s3://models/x", "s3://others/x"], ["models/x", "others/x"]),
        (["s3://models/x", "gs://models/x", "/models/x"], ["s3://models/x", "gs://models/x", "/models/x"]),
    ],
)
def test_short_names(uris: list[str], shown: list[str]) -> None:
    """Files are named without the folder that they have in common, by whole folders."""
    assert text.short_names(uris) == shown


def test_rows_hold_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    """What looks like rich markup in a table is printed as it is."""
    table = text.make_table("a", "b")
    text.add_row(table, "[red]x[/red]", "[/]")
    text.output().print(table)
    assert "[red]x[/red]" in capsys.readouterr().out
