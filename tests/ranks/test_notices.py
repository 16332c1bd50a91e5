"""What a rank is told of another's failure."""

from __future__ import annotations

import pytest

import slipstream
from slipstream import RankError, SlipstreamError
from slipstream.ranks.board import BoardLostError
from slipstream.ranks.notices import Notice, note_break, note_death, note_failure, note_leave, read_notice
from slipstream.sources.base import SigningRefusedError

KINDS = [
    value
    for value in vars(slipstream).values()
    if isinstance(value, type) and issubclass(value, SlipstreamError) and value is not SlipstreamError
]


def cross(notice: Notice) -> Notice:
    """The notice, as another process reads it."""
    return read_notice(notice.to_json().encode())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_errors_keep_class_and_place(kind: type[SlipstreamError]) -> None:
    """An error of the library is of the same class on every rank, says which rank it befell, and where."""
    error = kind("the disk failed: look at dmesg", uri="/model/a", offset=17, length=4096)
    told = cross(note_failure(3, error)).to_error()
    assert type(told) is kind
    assert str(told) == "rank 3 failed, and with it the load of all ranks: the disk failed: look at dmesg"
    assert (told.uri, told.offset, told.length) == ("/model/a", 17, 4096)


def test_internal_classes_are_not_needed() -> None:
    """An error of a class that is not public arrives as the public one that it is."""
    assert type(cross(note_failure(0, SigningRefusedError("no"))).to_error()) is slipstream.AccessDeniedError
    assert type(cross(note_failure(0, BoardLostError("no"))).to_error()) is RankError


def test_other_errors_are_told() -> None:
    """What is not an error of the library arrives as a RankError with its class and text."""
    told = cross(note_failure(1, ZeroDivisionError("division by zero"))).to_error()
    assert isinstance(told, RankError)
    assert told.rank == 1
    assert str(told) == "rank 1 failed: ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("notice", "rank", "words"),
    [
        (note_leave(2, 5, 300), 2, "rank 2 closed its stream after 5 of 300 tensors"),
        (note_death(4, "node7, process 99", "30 s of silence"), 4, "rank 4 (node7, process 99) has died, or hangs"),
        (note_break("Connection reset"), None, "the connection between the ranks broke: Connection reset"),
    ],
)
def test_other_ends(notice: Notice, rank: int | None, words: str) -> None:
    """A rank that leaves, dies or loses its connection is a RankError that names it."""
    told = cross(notice).to_error()
    assert isinstance(told, RankError)
    assert told.rank == rank
    assert str(told).startswith(words)
