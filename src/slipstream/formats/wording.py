"""How a refusal is worded: the file, the tensor, the offset, what is wrong, and the next step.

Words that come from a file are escaped and cut, because the file may be hostile.
"""

from __future__ import annotations

from slipstream.errors import FormatError
from slipstream.types import Blob

FETCH_AGAIN = "Download the file again; if that does not help, write it again with a current safetensors."

_SHOWN_CHARS = 100


def quoted(value: object) -> str:
    """Returns `value` as Python would write it, without control characters, cut at about 100 characters."""
    if isinstance(value, str | list | tuple) and len(value) > _SHOWN_CHARS:
        return repr(value[:_SHOWN_CHARS])[:_SHOWN_CHARS] + "..."
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS + 2 else text[:_SHOWN_CHARS] + "..."


def plural(count: int, noun: str) -> str:
    """Returns the count with its noun: "1 byte", "12,000 bytes"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def refusal(
    blob: Blob,
    problem: str,
    *,
    step: str = FETCH_AGAIN,
    offset: int,
    length: int | None = None,
    tensor: str | None = None,
) -> FormatError:
    """Returns the error to raise for a safetensors blob.

    Args:
        blob: the file.
        problem: what is wrong, without a full stop.
        step: what to do next, as a sentence.
        offset: absolute, where it was noticed.
        length: bytes concerned from there on, where that means something.
        tensor: the name of the tensor concerned, where there is one.
    """
    place = f"at byte {offset:,}" if tensor is None else f"tensor {quoted(tensor)} at byte {offset:,}"
    message = f"{blob.uri}: {place}: {problem}. {step}"
    return FormatError(message, uri=blob.uri, offset=offset, length=length, tensor=tensor)
