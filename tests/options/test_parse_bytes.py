"""Sizes in bytes, as people write them."""

from __future__ import annotations

import contextlib
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream import UsageError
from slipstream.options import parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        (" 4096 ", 4096),
        ("1k", 1000),
        ("1K", 1000),
        ("1kB", 1000),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("1Ki", 1024),
        ("1kib", 1024),
        ("8MiB", 8 << 20),
        ("8 MiB", 8 << 20),
        ("8 mb", 8_000_000),
        ("2G", 2 * 10**9),
        ("2GiB", 2 << 30),
        ("3TB", 3 * 10**12),
        ("3TiB", 3 << 40),
        ("1.5GB", 1_500_000_000),
        ("1.5 KiB", 1536),
        ("0.5MiB", 512 << 10),
        ("1.001KB", 1001),
        ("0.001GB", 1_000_000),
        ("9007199254740993", 2**53 + 1),
        ("9007199254740.993KB", 2**53 + 1),
    ],
)
def test_sizes(text: str, size: int) -> None:
    """Decimal and binary units, with or without a space and a B, in either case; fractions are exact."""
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-1",
        "+1",
        "1e9",
        "1,000",
        "1_000",
        "0x10",
        "ten",
        "KB",
        "1 K B",
        "1PB",
        "1I",
        "1iB",
        "1BB",
        "1KBB",
        "1bit",
        "1.",
        ".5",
        "1.5.5",
        "nan",
        "inf",
        "None",
        "1\n2",
        pytest.param("9" * 5000, id="too many digits"),
    ],
)
def test_what_is_no_size(text: str) -> None:
    """Anything else is wrong usage, and the error shows what was given and what may be."""
    with pytest.raises(UsageError, match="MiB") as caught:
        parse_bytes(text)
    assert isinstance(caught.value, ValueError)


def test_huge_fractions() -> None:
    """A size beyond what a float can hold is exact too, or wrong usage."""
    with contextlib.suppress(UsageError):
        assert parse_bytes("9" * 400 + ".5KB") == int("9" * 400 + "500")


@given(
    whole=st.integers(0, 10**6),
    fraction=st.integers(0, 999),
    unit=st.sampled_from([("KB", 10**3), ("MB", 10**6), ("GB", 10**9), ("KiB", 2**10), ("MiB", 2**20), ("GiB", 2**30)]),
)
def test_fractions_are_cut_to_whole_bytes(whole: int, fraction: int, unit: tuple[str, int]) -> None:
    """A size with three decimals is the exact product, without the part of a byte."""
    number = f"{whole}.{fraction:03}"
    assert parse_bytes(number + unit[0]) == int(Decimal(number) * unit[1])


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_wrong_usage(text: str) -> None:
    """No text brings another error than the documented one."""
    with contextlib.suppress(UsageError):
        assert parse_bytes(text) >= 0
