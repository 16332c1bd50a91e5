"""What each contender can do on this machine, and why not what it cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slipstream.bench.contenders import Contender, check_availability, contenders

PLACES = {"disk": ("cpu", "file"), "S3": ("cpu", "s3"), "GPU": ("cuda:0", "file")}
"""What is asked: to which destination, from which scheme."""


@dataclass(frozen=True)
class Abilities:
    """One contender.

    Attributes:
        contender: which.
        versions: of its distributions, those that are installed.
        python: the interpreter that it runs in; None is this one.
        refusals: why it cannot do what it cannot, by the names of `PLACES`.
    """

    contender: Contender
    versions: Mapping[str, str]
    python: Path | None
    refusals: Mapping[str, str]

    def can(self, place: str) -> bool:
        """Whether it can do that."""
        return place not in self.refusals


def list_abilities(interpreters: Mapping[str, Path]) -> Sequence[Abilities]:
    """What every contender can do, each with the packages of its interpreter."""
    return [_describe(contender, interpreters.get(name)) for name, contender in contenders().items()]


def _describe(contender: Contender, python: Path | None) -> Abilities:
    found = {
        place: check_availability(contender, destination=destination, schemes=frozenset({scheme}), python=python)
        for place, (destination, scheme) in PLACES.items()
    }
    return Abilities(
        contender=contender,
        versions={name: version for each in found.values() for name, version in each.versions.items()},
        python=python,
        refusals={place: availability.reason for place, availability in found.items() if not availability.ok},
    )
