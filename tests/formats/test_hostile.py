"""Hostile files only ever give a FormatError, with a message that is safe and useful to show."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

from slipstream.errors import FormatError
from tests.formats.builders import URI, parse_file
from tests.formats.hostile import HOSTILE


@pytest.mark.parametrize("content", [pytest.param(content, id=label) for label, content in HOSTILE])
def test_refused_with_a_good_message(content: bytes) -> None:
    """Each hostile file is a FormatError that names the file and an offset, in one short printable line."""
    with pytest.raises(FormatError) as caught:
        parse_file(content)
    error = caught.value
    assert error.uri == URI
    assert isinstance(error.offset, int)
    assert error.offset >= 0
    message = str(error)
    assert message.startswith(f"{URI}: ")
    assert f"at byte {error.offset:,}" in message
    assert message.isprintable()
    assert len(message) < 700
    assert message.endswith(".")
    assert gc.isenabled()


@pytest.fixture
def lifted_limits() -> Iterator[None]:
    """Python's own guards against deep recursion and long integers, switched off as some applications do."""
    recursion, digits = sys.getrecursionlimit(), sys.get_int_max_str_digits()
    sys.setrecursionlimit(10**7)
    sys.set_int_max_str_digits(0)
    yield
    sys.setrecursionlimit(recursion)
    sys.set_int_max_str_digits(digits)


@pytest.mark.usefixtures("lifted_limits")
@pytest.mark.parametrize("label", [label for label, _ in HOSTILE if "deep" in label or "million" in label])
def test_own_limits(label: str) -> None:
    """Depth and digits are limited by the parser itself, also where the application lifted Python's limits."""
    with pytest.raises(FormatError):
        parse_file(dict(HOSTILE)[label])
