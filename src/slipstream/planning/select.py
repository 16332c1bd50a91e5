"""Which tensors are wanted: by names, globs or a function."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import translate
from typing import TypeAlias

from slipstream.errors import TensorNotFoundError, UsageError
from slipstream.types import Checkpoint, TensorInfo

Names: TypeAlias = str | Iterable[str] | Callable[[str], bool]


def select_tensors(checkpoint: Checkpoint, names: Names | None) -> tuple[TensorInfo, ...]:
    """The tensors that `names` asks for, in checkpoint order.

    Args:
        checkpoint: what there is.
        names: None for all; a name or glob; a list of names and globs; or a function from a name to
            whether it is wanted.

    Raises:
        TensorNotFoundError: a name or glob that nothing in the checkpoint answers to.
        UsageError: something else than text, alone or in the list.
    """
    if names is None:
        return checkpoint.tensors
    if callable(names):
        return tuple(tensor for tensor in checkpoint.tensors if names(tensor.name))
    patterns = [names] if isinstance(names, str) or not isinstance(names, Iterable) else names
    wanted: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise UsageError(f"names holds {pattern!r}: give tensor names or globs as text, or one function")
        wanted.update(_match(checkpoint, pattern))
    return tuple(tensor for tensor in checkpoint.tensors if tensor.name in wanted)


def _match(checkpoint: Checkpoint, pattern: str) -> list[str]:
    """The names that a pattern stands for. A tensor of exactly that name comes before any glob."""
    if pattern in checkpoint.by_name:
        return [pattern]
    matches = re.compile(translate(pattern)).match
    found = [name for name in checkpoint.by_name if matches(name)]
    if not found:
        import difflib  # here, because only this error needs it

        near = difflib.get_close_matches(pattern, checkpoint.by_name, n=3)
        advice = f"; did you mean {', '.join(near)}?" if near else ": list the names with `slipstream inspect`"
        raise TensorNotFoundError(f"no tensor of the checkpoint matches {pattern!r}{advice}")
    return found
