"""The exceptions of the original, and what becomes one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import slipstream


class RunaiStreamerInvalidInputException(Exception):
    """Paths or a device that cannot be streamed together or to."""


class RunaiStreamerMemoryLimitException(Exception):
    """The memory limit is smaller than the largest tensor or range."""


@contextmanager
def translated() -> Iterator[None]:
    """Has what slipstream raises inside the block raised as the original would.

    That is ValueError, unless it has a class of its own for it. The text is slipstream's: what failed, where, and what
    to do next. The cause is slipstream's error, with its attributes.
    """
    try:
        yield
    except slipstream.MemoryLimitError as error:
        raise RunaiStreamerMemoryLimitException(str(error)) from error
    except slipstream.SlipstreamError as error:
        if isinstance(error, ValueError | ImportError):
            raise
        raise ValueError(str(error)) from error
