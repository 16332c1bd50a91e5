"""`slipstream bench list`: the contenders, and what each can do on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from slipstream.cli import arguments
from slipstream.cli.text import add_row, make_table, output, printable

if TYPE_CHECKING:
    from slipstream.bench.abilities import Abilities

Pythons = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=PATH",
        help="The interpreter that a contender runs in, where versions conflict. May be given several times.",
    ),
]


def list_contenders(python: Pythons = None, as_json: arguments.Json = False, debug: arguments.Debug = False) -> None:
    """Show the contenders, their versions, what each can do on this machine, and why not what it cannot."""
    from slipstream.bench.abilities import PLACES, list_abilities
    from slipstream.bench.contenders import find_contender
    from slipstream.bench.interpreters import parse_interpreters

    interpreters = parse_interpreters(python or [])
    for name in interpreters:
        find_contender(name)
    found = list_abilities(interpreters)
    if as_json:
        print(json.dumps([_as_json(abilities) for abilities in found], indent=2))
        return
    console = output()
    table = make_table("contender", "loader", "version", *PLACES, "why not", wrap=["version", "why not"])
    for abilities in found:
        contender = abilities.contender
        can = ("yes" if abilities.can(place) else "no" for place in PLACES)
        add_row(table, contender.name, contender.title, _version(abilities), *can, printable(_why(abilities)))
    console.print(table)


def _version(abilities: Abilities) -> str:
    """Of its own distribution."""
    own = abilities.contender.distributions[:1]
    return next((abilities.versions[name] for name in own if name in abilities.versions), "")


def _why(abilities: Abilities) -> str:
    """Each reason once, with what it stands in the way of where that is not everything."""
    places: dict[str, list[str]] = {}
    for place, reason in abilities.refusals.items():
        places.setdefault(reason, []).append(place)
    return "; ".join(_sentences(places))


def _sentences(places: Mapping[str, list[str]]) -> Iterable[str]:
    from slipstream.bench.abilities import PLACES

    for reason, of in places.items():
        yield reason if len(of) == len(PLACES) else f"{', '.join(of)}: {reason}"


def _as_json(abilities: Abilities) -> Mapping[str, object]:
    from slipstream.bench.abilities import PLACES

    return {
        "name": abilities.contender.name,
        "title": abilities.contender.title,
        "role": abilities.contender.role,
        "versions": dict(abilities.versions),
        "python": str(abilities.python) if abilities.python else None,
        "can": {place: abilities.can(place) for place in PLACES},
        "why_not": dict(abilities.refusals),
        "settings": sorted(abilities.contender.settings),
    }
