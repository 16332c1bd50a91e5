"""Random safetensors files: valid ones with a few changes, to their structure, their numbers or their bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from hypothesis import strategies as st

from tests.formats.builders import make_file
from tests.formats.corpus import TOKENS

# A JSON document that may be wrong: a str is text as it stands, quotes included; the keys of an object may repeat.
Node: TypeAlias = "str | Array | Object"


@dataclass
class Array:
    """A JSON array as written."""

    items: list[Node] = field(default_factory=list)


@dataclass
class Object:
    """A JSON object as written."""

    keys: list[str] = field(default_factory=list)
    items: list[Node] = field(default_factory=list)


_BITS = {"F4": 4, "F6_E2M3": 6, "U8": 8, "BOOL": 8, "BF16": 16, "F32": 32, "C64": 64}
_KEYS = ("dtype", "shape", "data_offsets", "__metadata__", "a", "b", "q", "")
_ODD_TOKENS = [token for token in TOKENS if len(token) < 600]


@st.composite
def mutated_files(draw: st.DrawFn) -> bytes:
    """Files that are valid but for up to three changes of structure and two of bytes."""
    document, size = draw(_documents())
    for _ in range(draw(st.integers(0, 3))):
        _mutate(draw, document)
    text = _render(document, draw(st.sampled_from(["", " ", "\n\t"])))
    content = make_file(text, b"x" * max(0, size + draw(st.sampled_from([0, 0, 0, 0, 0, 1, -1]))))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        content = _mutate_bytes(draw, content)
    return content


@st.composite
def _documents(draw: st.DrawFn) -> tuple[Object, int]:
    """A valid header, and how many bytes of data it describes."""
    document, position = Object(), 0
    for number in range(draw(st.integers(0, 4))):
        dtype = draw(st.sampled_from(sorted(_BITS)))
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        nbytes, odd_bits = divmod(math.prod(shape) * _BITS[dtype], 8)
        if odd_bits:
            shape, nbytes = [*shape, 8], math.prod(shape) * _BITS[dtype]
        offsets = Array([str(position), str(position + nbytes)])
        values: list[Node] = [json.dumps(dtype), Array([str(n) for n in shape]), offsets]
        keys = ['"dtype"', '"shape"', '"data_offsets"']
        order = draw(st.permutations(range(3)))
        document.keys.append(json.dumps("abcd"[number]))
        document.items.append(Object([keys[i] for i in order], [values[i] for i in order]))
        position += nbytes
    order = draw(st.permutations(range(len(document.keys))))
    document.keys = [document.keys[i] for i in order]
    document.items = [document.items[i] for i in order]
    if draw(st.booleans()):
        document.keys.append('"__metadata__"')
        document.items.append(Object(['"format"'], ['"pt"']))
    return document, position


def _containers(node: Node) -> Iterator[Array | Object]:
    if not isinstance(node, str):
        yield node
        for item in node.items:
            yield from _containers(item)


def _mutate(draw: st.DrawFn, document: Object) -> None:
    """Changes one place of the document."""
    container = draw(st.sampled_from([*_containers(document)]))
    if not container.items or draw(st.integers(0, 5)) == 0:
        container.items.append(draw(st.sampled_from(_ODD_TOKENS)))
        if isinstance(container, Object):
            container.keys.append(json.dumps(draw(st.sampled_from(_KEYS))))
        return
    place = draw(st.integers(0, len(container.items) - 1))
    change = draw(st.sampled_from(["odd", "odd", "tweak", "tweak", "drop", "repeat", "nest", "key"]))
    if change == "odd":
        container.items[place] = draw(st.sampled_from(_ODD_TOKENS))
    elif change == "tweak":
        container.items[place] = _tweak(draw, container.items[place])
    elif change == "nest":
        container.items[place] = Array([container.items[place]])
    elif change == "drop":
        del container.items[place]
        if isinstance(container, Object):
            del container.keys[place]
    elif change == "repeat":
        container.items.append(container.items[place])
        if isinstance(container, Object):
            container.keys.append(container.keys[place])
    elif isinstance(container, Object):
        container.keys[place] = draw(st.sampled_from([json.dumps(key) for key in _KEYS] + ['"\\u0064type"', "q", "1"]))


def _tweak(draw: st.DrawFn, node: Node) -> Node:
    """A number near or far from the one there, an object as an array of its values, or the reverse of that."""
    if isinstance(node, Object):
        return Array(node.items)
    if isinstance(node, Array):
        return Object([json.dumps(str(number)) for number in range(len(node.items))], node.items)
    if node.isdecimal():
        number = int(node)
        return draw(
            st.sampled_from([str(number + 1), str(number - 1), str(number * 2), f"{node}.0", f"{node}e0", f"-{node}"])
        )
    return Object([node], ["null"])


def _mutate_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    place = draw(st.integers(0, len(content)))
    change = draw(st.sampled_from(["flip", "insert", "cut", "remove"]))
    if change == "cut":
        return content[:place]
    if change == "insert":
        return content[:place] + draw(st.binary(min_size=1, max_size=3)) + content[place:]
    if change == "remove" or place == len(content):
        return content[:place] + content[place + 1 :]
    return content[:place] + bytes([content[place] ^ (1 << draw(st.integers(0, 7)))]) + content[place + 1 :]


def _render(node: Node, space: str) -> str:
    if isinstance(node, str):
        return node
    if isinstance(node, Array):
        return "[" + f",{space}".join(_render(item, space) for item in node.items) + "]"
    pairs = (f"{key}:{space}{_render(item, space)}" for key, item in zip(node.keys, node.items, strict=True))
    return "{" + f",{space}".join(pairs) + "}"
