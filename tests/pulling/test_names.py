"""Which paths are wanted, and which may become files: decided before the file system is asked anything."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slipstream import UsageError
from slipstream.pulling.names import check_paths, is_own, make_filter

PATHS = ("config.json", "tokenizer/vocab.json", "model.safetensors", "README.md", "Config.JSON")


@pytest.mark.parametrize(
    ("allow", "ignore", "wanted"),
    [
        (None, None, PATHS),
        ("*.json", None, ("config.json", "tokenizer/vocab.json")),
        (["*.json", "*.md"], None, ("config.json", "tokenizer/vocab.json", "README.md")),
        (None, "*.safetensors", ("config.json", "tokenizer/vocab.json", "README.md", "Config.JSON")),
        ("*.json", "tokenizer/*", ("config.json",)),
        ("tokenizer/vocab.json", None, ("tokenizer/vocab.json",)),
        ("vocab.json", None, ()),
        ("[cC]onfig.*", None, ("config.json", "Config.JSON")),
        ([], None, ()),
        (None, [], PATHS),
        (("*",), ("*",), ()),
    ],
)
def test_patterns(allow: str | list[str] | None, ignore: str | list[str] | None, wanted: tuple[str, ...]) -> None:
    """A path is wanted that matches any of `allow` and none of `ignore`; stars cross slashes, and case counts."""
    assert tuple(filter(make_filter(allow, ignore), PATHS)) == wanted


@pytest.mark.parametrize("pattern", [7, [b"*.json"], ["*.json", None]])
def test_patterns_that_are_none(pattern: object) -> None:
    """What is no text is told by the name of its argument."""
    with pytest.raises(UsageError, match="ignore"):
        make_filter(None, pattern)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../up",
        "a/../../up",
        "a/..",
        "..",
        ".",
        "./a",
        "a//b",
        "a/",
        "",
        "a\0b",
        "..\\up",
        "a\\b",
        "C:\\windows",
        "n" * 256,
        "ü" * 128,
    ],
)
def test_paths_that_cannot_be_files(path: str) -> None:
    """A path that leads out of the directory, or that no file can have, is refused with the way to leave it out."""
    with pytest.raises(UsageError, match=r"s3://m/ holds .*ignore="):
        check_paths(["good.json", path], "s3://m/")


@pytest.mark.parametrize(
    "path", ["a", "a/b", "...", ".hidden", "..a/b..", "~", "-rf", "a:b", "a b", "ü/重", "n" * 255, "\udcff.bin"]
)
def test_paths_that_can(path: str) -> None:
    """What only looks odd is a file like any other."""
    check_paths([path], "s3://m/")


@given(path=st.text(alphabet=st.sampled_from("./\\\0a~ü "), max_size=12))
@example("a/b")
def test_what_is_allowed_stays_below(path: str) -> None:
    """Whatever is not refused is, as any program would read it, a path strictly below the directory."""
    try:
        check_paths([path], "s3://m/")
    except UsageError:
        return
    full = os.path.join("/to", path)
    assert os.path.normpath(full) == full
    assert full.startswith("/to/")
    assert len(full) > len("/to/")


def test_a_file_and_a_folder_of_one_name() -> None:
    """Stores can hold both, directories cannot."""
    with pytest.raises(UsageError, match=r"'a/b' and 'a/b/c/d'"):
        check_paths(["a/b/c/d", "a/b", "x"], "s3://m/")


def test_own_folders() -> None:
    """Only what lies in a folder of a pull's own name is its own."""
    assert is_own(".slipstream/pull.jsonl")
    assert is_own("sub/.slipstream/lock")
    assert not is_own("x.slipstream/lock")
    assert not is_own("slipstream")
