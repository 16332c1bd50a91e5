"""The colours of loaders and of everything else, for light and dark paper.

Loaders keep theirs in every chart. They differ in lightness as well as in hue, after Okabe and Ito's palette for the
colour-blind, dark enough for text on white (4.5 : 1 and more); and each has a marker of its own. On the page they are
CSS variables; in files they are the light ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ink:
    """A colour on light and on dark paper, under the name of its CSS variable."""

    name: str
    light: str
    dark: str


TEXT = Ink("text", "#1b1f24", "#e7eaee")
MUTED = Ink("muted", "#5a6370", "#a0aab6")
RULE = Ink("rule", "#dfe3e8", "#343b45")
PAPER = Ink("paper", "#ffffff", "#15181d")

_LOADERS = {
    "slipstream": (Ink("slipstream", "#0b5cad", "#62aef7"), "o"),
    "runai": (Ink("runai", "#b84a00", "#f39a62"), "s"),
    "safetensors": (Ink("safetensors", "#8a3a86", "#d795d2"), "^"),
    "tensorizer": (Ink("tensorizer", "#0c7355", "#53c8a4"), "D"),
    "fastsafetensors": (Ink("fastsafetensors", "#7a6000", "#d6bb4c"), "v"),
    "instanttensor": (Ink("instanttensor", "#a32a4b", "#f08aa6"), "P"),
}
_OTHERS = (
    (Ink("other-1", "#2c6e80", "#74c4d8"), "X"),
    (Ink("other-2", "#5b5299", "#aaa2ea"), "<"),
    (Ink("other-3", "#596a1c", "#b3c66c"), ">"),
    (Ink("other-4", "#7b4a2d", "#cfa17f"), "h"),
)


def inks() -> list[Ink]:
    """All colours."""
    return [TEXT, MUTED, RULE, PAPER, *(ink for ink, _ in (*_LOADERS.values(), *_OTHERS))]


class Palette:
    """Which loader has which colour and marker; loaders of plugins get theirs in the order of their names."""

    def __init__(self, contenders: Iterable[str]) -> None:
        others = sorted(set(contenders) - set(_LOADERS))
        self._inks = _LOADERS | {name: _OTHERS[n % len(_OTHERS)] for n, name in enumerate(others)}

    def ink(self, contender: str) -> Ink:
        """Its colour."""
        return self._inks[contender][0]

    def marker(self, contender: str) -> str:
        """Its marker, as matplotlib names it."""
        return self._inks[contender][1]
