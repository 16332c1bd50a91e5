"""Makes a chart's SVG part of a page: its colours become CSS variables, its font the page's, its ids its own."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from slipstream.bench.report.inks import inks

_VARIABLES = {ink.light: f"var(--{ink.name})" for ink in inks()}
_NUMBER = re.compile(r"-?\d+\.\d+")
_REFERENCE = re.compile(r"(?<=#)[^)]+")
_DROPPED = ("metadata", "style")
_NO_TURN = re.compile(r"rotate\(-?0 ")


def inline_svg(svg: str, *, prefix: str, label: str, css_class: str) -> str:
    """The drawing as an element of HTML.

    Args:
        svg: as matplotlib writes it, with text as text.
        prefix: for its ids; another one for each drawing of a page.
        label: what a screen reader says.
        css_class: of the element.
    """
    root = ElementTree.fromstring(svg)
    referred = {match[0] for each in root.iter() for value in each.attrib.values() if (match := _reference(value))}
    view_box = root.attrib["viewBox"]
    _convert(root, prefix, referred)
    root.attrib.clear()
    root.attrib.update({"class": css_class, "viewBox": view_box, "role": "img", "aria-label": label})
    return ElementTree.tostring(root, encoding="unicode")


def _convert(element: ElementTree.Element, prefix: str, referred: set[str]) -> None:
    element.tag = _local(element.tag)
    attributes = {_local(name): value for name, value in element.attrib.items()}
    element.attrib.clear()
    for name, value in attributes.items():
        if name == "style":
            value = _convert_style(value, prefix)
        elif name == "id":
            if value not in referred:
                continue
            value = prefix + value
        elif name == "transform" and _NO_TURN.match(value):
            continue
        elif (reference := _reference(value)) is not None:
            value = value.replace(f"#{reference[0]}", f"#{prefix}{reference[0]}")
        else:
            value = _NUMBER.sub(lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), " ".join(value.split()))
        element.attrib[name] = value
    if element.tag != "text":
        element.text = None
    element.tail = None
    for child in list(element):
        if _local(child.tag) in _DROPPED:
            element.remove(child)
        else:
            _convert(child, prefix, referred)


def _convert_style(style: str, prefix: str) -> str:
    kept = []
    for declaration in style.split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if not name or name == "font-family":
            continue
        if (reference := _reference(value)) is not None:
            value = value.replace(f"#{reference[0]}", f"#{prefix}{reference[0]}")
        kept.append(f"{name}:{_VARIABLES.get(value.lower(), value)}")
    return ";".join(kept)


def _reference(value: str) -> re.Match[str] | None:
    """The id in "url(#id)" or "#id"."""
    return _REFERENCE.search(value) if value.startswith(("url(#", "#")) and value not in _VARIABLES else None


def _local(name: str) -> str:
    return name.rpartition("}")[2]
