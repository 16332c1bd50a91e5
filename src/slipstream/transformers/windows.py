"""Cuts a checkpoint into what is read together. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence

from slipstream.types import TensorInfo

_DIGITS_AT_END = re.compile(r"(.*?)(\d*)", re.DOTALL)


def sort_as_asked(tensors: Sequence[TensorInfo]) -> list[TensorInfo]:
    """The tensors in the order in which transformers asks for them: by name, numbers in it counted as such."""
    return sorted(tensors, key=lambda info: _natural_key(info.name))


def cut_windows(tensors: Sequence[TensorInfo], window_bytes: int) -> list[tuple[TensorInfo, ...]]:
    """Cuts a sequence into windows of about equal size.

    Args:
        tensors: in any order, which is kept.
        window_bytes: how large a window is at most, unless a single tensor is larger.

    Returns:
        At least one tensor in each window; no window of no tensors.
    """
    windows: list[list[TensorInfo]] = []
    used = window_bytes
    for info in tensors:
        if not windows or used + info.nbytes > window_bytes:
            windows.append([])
            used = 0
        windows[-1].append(info)
        used += info.nbytes
    return [tuple(window) for window in windows]


def _natural_key(name: str) -> list[tuple[int, int, str, int]]:
    """A key that sorts `layers.2` before `layers.10`, and `shard_2` before `shard_10`."""
    key: list[tuple[int, int, str, int]] = []
    for part in name.split("."):
        found = _DIGITS_AT_END.fullmatch(part)
        assert found is not None
        text, digits = found[1], found[2]
        if part.isascii() and part.isdecimal():
            key.append((0, int(part), "", 0))
        else:
            key.append((1, 0, text, int(digits) if digits.isascii() and digits else -1))
    return key
