"""Numbers and names as people see them: as many digits as mean something, equally many in a column, one line."""

from __future__ import annotations

from collections.abc import Iterable
from math import floor, log10

NOTHING = "–"
_LEAST, _MOST = 2, 4


def decimals_for(values: Iterable[float | None], digits: int = 3) -> int:
    """How many digits behind the point show so many of the smallest value: from two, as the document has, to four."""
    positive = [value for value in values if value is not None and value > 0]
    if not positive:
        return _LEAST
    return min(_MOST, max(_LEAST, digits - 1 - floor(log10(min(positive)))))


def fixed(value: float | None, decimals: int = 2) -> str:
    """A number with so many digits behind the point; a dash for None."""
    return NOTHING if value is None else f"{value:,.{decimals}f}"


def column_of(values: Iterable[float | None], digits: int = 3) -> list[str]:
    """Numbers for one column; the smallest has so many digits, if two to four behind the point are enough for it."""
    held = list(values)
    decimals = decimals_for(held, digits)
    return [fixed(value, decimals) for value in held]


def ratio(value: float | None) -> str:
    """A factor: "1.04", "0.014", "123"."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.095 else f"{value:.3f}"


def percent(value: float | None) -> str:
    """A fraction as "98 %"."""
    return NOTHING if value is None else f"{value * 100:.0f} %"


def divide(value: float | None, by: float | None) -> float | None:
    """The quotient; None where one of them is missing, or there is nothing to divide by."""
    return None if value is None or not by else value / by


def cost(value: float) -> str:
    """CPU seconds by 10^9 bytes in a sentence; two digits of it mean something."""
    return fixed(value, decimals_for([value], 2))


def seconds(value: float) -> str:
    """A time in a sentence: "3.01 s", "0.0381 s", "123 s"."""
    return f"{value:,.0f} s" if value >= 100 else f"{value:.{decimals_for([value])}f} s"


def gigabytes(nbytes: float) -> str:
    """A size in a sentence: "5.59 GB", "8.0 MB"."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.1f} MB"


def plain(text: str) -> str:
    """Text on one line, with control, direction and other invisible characters written as escapes."""
    joined = " ".join(text.split())
    if joined.isprintable():
        return joined
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in joined)
