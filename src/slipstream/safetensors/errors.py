"""Errors that both sides know: slipstream's own, which are SafetensorErrors as well where the reference raises one.

So `except safetensors.SafetensorError` in code that was written for the reference goes on to work, and so does
`except slipstream.SlipstreamError`. A file that is not there is a FileNotFoundError on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from slipstream.errors import FormatError, StreamClosedError, TensorNotFoundError, UsageError

if TYPE_CHECKING:

    class SafetensorError(Exception):
        """What safetensors raises, and all errors of this module are."""
else:
    try:
        from safetensors import SafetensorError
    except ImportError:  # it is not needed for reading

        class SafetensorError(Exception):
            """Stands for safetensors' own error, where safetensors is not installed."""


class CheckpointError(FormatError, SafetensorError):
    """The file, or the index of a sharded checkpoint, is not what it must be. Download or convert it again."""


class ArgumentError(UsageError, SafetensorError):
    """A framework, device or backend that there is not, or that this module cannot deliver to."""


class SliceError(UsageError, SafetensorError):
    """An index that the tensor's shape does not have."""


class NoSuchTensorError(TensorNotFoundError, SafetensorError):
    """The checkpoint has no tensor of that name."""


class ClosedError(StreamClosedError, SafetensorError):
    """The `with` block of `safe_open` has been left."""


@contextmanager
def as_safetensors_raises() -> Iterator[None]:
    """Turns errors about the content of a checkpoint into those that callers of safetensors expect."""
    try:
        yield
    except FormatError as error:
        if isinstance(error, SafetensorError):
            raise
        raised = CheckpointError(
            error.message, uri=error.uri, offset=error.offset, length=error.length, tensor=error.tensor
        )
        raise raised from error
