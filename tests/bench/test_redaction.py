"""What of other people's words may stand in a record."""

from __future__ import annotations

import pytest

from slipstream.bench.redaction import find_secrets, redact, redact_value, shorten


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("GET https://host/key?X-Amz-Signature=abc&x=1 failed", "GET https://host/key?(redacted) failed"),
        ("s3://user:pass@host/key", "s3://host/key"),
        ("Signature=abc&Expires=1", "Signature=(redacted)&Expires=1"),
        ("is it there? yes: a=b", "is it there? yes: a=b"),
        ("curl -s 'https://host/a?sig=1' --range 0-1", "curl -s 'https://host/a?(redacted)' --range 0-1"),
        ("no secret in /models/a.safetensors", "no secret in /models/a.safetensors"),
    ],
)
def test_urls_lose_query_and_user(text: str, left: str) -> None:
    """Signed queries and user information go, and everything else stays."""
    assert redact(text) == left


def test_secrets_are_known_by_their_names() -> None:
    """Values of variables and options that are called key, secret, token and the like, at any depth; but not words."""
    found = find_secrets(
        {"AWS_SECRET_ACCESS_KEY": "0123456789", "AWS_REGION": "eu-central-1", "USE_TOKEN": "true"},
        {"s3": {"session_token": "abcdefgh"}, "endpoint": "http://host", "sas": 3},
    )
    assert found == {"0123456789", "abcdefgh"}
    assert redact_value({"a": ["x0123456789x", 3, None], "b": "abcdefgh"}, found) == {
        "a": ["x(redacted)x", 3, None],
        "b": "(redacted)",
    }


def test_the_longest_secret_goes_first() -> None:
    """A secret that begins with another one leaves no rest."""
    assert redact("abcdefghij", ["abcdef", "abcdefghij"]) == "(redacted)"


def test_a_paragraph_is_shortened_in_its_middle() -> None:
    """Beginning and end stay, on one line that a terminal does not obey."""
    assert shorten("a\n  b\x1b[31m\tc\x07") == "a b c?"
    short = shorten("begin " + "x" * 1000 + " end", longest=40)
    assert short.startswith("begin ")
    assert short.endswith(" end")
    assert len(short) < 50
