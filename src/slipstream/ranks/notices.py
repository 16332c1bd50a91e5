"""What ends a load for every rank when it ends for one: a failure, an early leave, a death. Texts between processes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Literal, TypeAlias

from slipstream import errors
from slipstream.errors import RankError, SlipstreamError

Kind: TypeAlias = Literal["failed", "left", "died", "broken"]
_PLACES = ("uri", "offset", "length", "attempts", "endpoint", "status", "code", "tensor")


@dataclass(frozen=True, slots=True)
class Notice:
    """Why a load ends before all of it was passed round. The first one that is posted counts for every rank.

    Attributes:
        kind: a rank "failed" with an error, "left" its stream, or "died"; "broken" is the connection between ranks.
        rank: whom it befell, by its global rank; None where nobody can tell.
        text: the error's message, or what is known.
        error: the error's class, by its name in `slipstream.errors`; empty for what is not one of them.
        places: the error's other attributes.
    """

    kind: Kind
    rank: int | None
    text: str
    error: str = ""
    places: dict[str, str | int] = field(default_factory=dict)

    @property
    def is_orderly(self) -> bool:
        """Whether all ranks live and are connected, so that they can end what they have begun."""
        return self.kind in ("failed", "left")

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self))

    def to_error(self) -> SlipstreamError:
        """The error for a rank whom it did not befall itself: of the same class, and with the rank's name."""
        if self.kind == "failed" and self.error:
            kind: type[SlipstreamError] = getattr(errors, self.error)
            error = kind(f"rank {self.rank} failed, and with it the load of all ranks: {self.text}")
            for name, value in self.places.items():
                setattr(error, name, value)
            return error
        lost = RankError(f"rank {self.rank} failed: {self.text}" if self.kind == "failed" else self.text)
        lost.rank = self.rank
        return lost


def read_notice(text: str | bytes) -> Notice:
    """What `to_json` made."""
    return Notice(**json.loads(text))


def note_failure(rank: int, error: BaseException) -> Notice:
    """The notice of a rank that fails with this error."""
    if not isinstance(error, SlipstreamError):
        return Notice("failed", rank, f"{type(error).__name__}: {error}")
    kind = next(kind for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
    places = {name: value for name in _PLACES if isinstance(value := getattr(error, name, None), str | int)}
    return Notice("failed", rank, error.message, kind.__name__, places)


def note_leave(rank: int, delivered: int, total: int) -> Notice:
    """The notice of a rank whose stream is closed before its end."""
    return Notice(
        "left",
        rank,
        f"rank {rank} closed its stream after {delivered:,} of {total:,} tensors, so the others cannot have the rest: "
        "iterate to the end on every rank, or stop at the same tensor on all of them",
    )


def note_death(rank: int, where: str, silence: str) -> Notice:
    """The notice of a rank that says nothing any more.

    Args:
        where: its host and process.
        silence: how that was seen.
    """
    return Notice(
        "died", rank, f"rank {rank} ({where}) has died, or hangs: {silence}. Look at its output and the kernel's log"
    )


def note_break(text: str) -> Notice:
    """The notice of a collective that failed though every rank lives."""
    return Notice("broken", None, f"the connection between the ranks broke: {text}")
