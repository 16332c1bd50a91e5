"""When something goes wrong between a client and an HTTP server of ranges. What: see `range_faults` and `range_lies`.

What chance decides depends on the seed, the fault's place in the list, the request's method, path and Range, and how
often that range has been asked for: not on which thread came first. `When.numbers`, `first` and `after` count in the
order of arrival.
"""

from __future__ import annotations

import fnmatch
import hashlib
import importlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from slipstream.testing.range_answers import Answer, Exchange, Request


@dataclass(frozen=True)
class When:
    """Which requests a fault strikes: those that meet all of these conditions.

    Attributes:
        path: a glob that the path matches; `*` goes across slashes.
        method: GET or HEAD; None is either.
        numbers: the how-manyth of the requests that match `path` and `method`, from 1 on.
        first: that many of them, the first.
        after: all but that many of them, the first.
        first_attempts: for every range of every path apart, the first that many requests.
        probability: of those that remain, this share.
    """

    path: str = "*"
    method: str | None = None
    numbers: tuple[int, ...] | None = None
    first: int | None = None
    after: int = 0
    first_attempts: int | None = None
    probability: float = 1.0

    def concerns(self, request: Request) -> bool:
        """Whether the request is one of those that are counted."""
        return self.method in (None, request.method) and fnmatch.fnmatchcase(request.path, self.path)

    def includes(self, number: int, attempt: int, chance: float) -> bool:
        """Whether the request is struck that is the `number`th counted and the `attempt`th for its range."""
        return (
            (self.numbers is None or number in self.numbers)
            and (self.first is None or number <= self.first)
            and number > self.after
            and (self.first_attempts is None or attempt <= self.first_attempts)
            and chance < self.probability
        )


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong, for the requests in `when`. Subclasses override what they need."""

    when: When = When()

    def applies(self, exchange: Exchange) -> bool:
        """A condition beyond `when`."""
        return True

    def prepare(self, exchange: Exchange) -> None:
        """Before the answer is made."""

    def alter(self, answer: Answer, exchange: Exchange) -> None:
        """Once the honest answer is made."""


@dataclass(frozen=True, init=False)
class Faults:
    """All that goes wrong at one time: `Faults(Rate(1e6), Status(503, when=...))`.

    Those that strike a request alter its answer in the order in which they are listed.
    """

    faults: tuple[Fault, ...]

    def __init__(self, *faults: Fault) -> None:
        object.__setattr__(self, "faults", faults)

    def to_json(self) -> list[Any]:
        """As lists, dictionaries, texts and numbers."""
        return [[type(fault).__module__, type(fault).__name__, asdict(fault)] for fault in self.faults]

    @classmethod
    def from_json(cls, described: Iterable[tuple[str, str, dict[str, Any]]]) -> Faults:
        """What `to_json` made, after its way through JSON, which knows no tuples."""
        faults = []
        for module, name, fields in described:
            kind = getattr(importlib.import_module(module), name)
            when = When(**_with_tuples(fields.pop("when")))
            faults.append(kind(**_with_tuples(fields), when=when))
        return cls(*faults)


class FaultPicker:
    """Decides which faults strike which request, and counts what that takes. The caller holds a lock."""

    def __init__(self, faults: Faults, seed: int) -> None:
        self._faults = faults.faults
        self._seed = seed
        self._concerned = [0] * len(self._faults)
        self._attempts: Counter[tuple[str, ...]] = Counter()

    def pick(self, exchange: Exchange) -> list[tuple[Fault, int]]:
        """The faults that strike, each with the number that the request has among those that it concerns."""
        request = exchange.request
        key = (request.method, request.path, request.header("range") or "")
        self._attempts[key] += 1
        attempt = self._attempts[key]
        struck = []
        for place, fault in enumerate(self._faults):
            if not fault.when.concerns(request):
                continue
            self._concerned[place] += 1
            number = self._concerned[place]
            chance = _chance(self._seed, place, *key, attempt)
            if fault.when.includes(number, attempt, chance) and fault.applies(exchange):
                struck.append((fault, number))
        return struck


def _chance(*key: object) -> float:
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest()) / 2**64


def _with_tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_with_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return value
