"""Every setting, with its default, its unit and the reason for it. The only reader of `os.environ`.

Precedence: argument, then environment (`SLIPSTREAM_CONCURRENCY`, ...), then default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from threading import TIMEOUT_MAX
from typing import Any, Literal, cast

from slipstream.errors import UsageError
from slipstream.types import Strategy

_PREFIX = "SLIPSTREAM_"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def parse_bytes(text: str) -> int:
    """Reads a size such as "256MiB", "1.5 GB" or "4096".

    Raises:
        UsageError: it is not a size.
    """
    match = re.fullmatch(r"\s*(\d{1,20}(?:\.\d{1,20})?)\s*((?:[KMGT]I?)?)B?\s*", text.upper())
    if match is None:
        raise UsageError(f'"{text}" is not a size in bytes; write for example 268435456, 256MiB or 1.5GB')
    whole, _, fraction = match[1].partition(".")
    scaled = int(whole + fraction) * _UNITS[match[2]]
    return scaled // int("1" + "0" * len(fraction))


def _parse_concurrency(text: str) -> int | str:
    return int(text) if text.strip().isdecimal() else text.strip()


def _parse_limit(text: str) -> int | None:
    return None if text.strip().lower() in ("", "none") else parse_bytes(text)


def _setting(name: str, parse: Callable[[str], object], default: object) -> Callable[[], Any]:
    """What makes a setting that was not given: the environment's word, at the time an Options is made."""

    def read() -> object:
        text = os.environ.get(_PREFIX + name.upper())
        if text is None:
            return default
        try:
            return parse(text)
        except ValueError as error:
            raise UsageError(f"the environment variable {_PREFIX}{name.upper()} is {text!r}: {error}") from error

    return read


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to read. Checked when made; frozen; safe to share between threads.

    Attributes:
        concurrency: reads in flight. "auto" takes what suits the strategy the policy chose.
        chunk_bytes: the largest single read (what is cached is mapped in larger ones), and the size up to
            which small neighbours are read together. At least 4,096.
        memory_limit: bytes that the tensors in flight and the tensors the caller still holds may take
            together; None is no limit. A tensor larger than it is refused before any read.
        memory_wait_s: how long a stream that cannot move, because the caller holds all of
            `memory_limit`, waits for another thread to drop tensors before it raises.
        strategy: "auto" lets the policy decide for each file; a name forces one.

    Raises:
        UsageError: a value that cannot work, or an unknown `SLIPSTREAM_` variable in the environment.
    """

    # 8 MiB: the smallest chunk with which O_DIRECT reads reached the disk's bandwidth at 8 to 16 in
    # flight; 4 and 16 MiB were equal within noise (docs/performance.md).
    concurrency: int | Literal["auto"] = field(default_factory=_setting("concurrency", _parse_concurrency, "auto"))
    chunk_bytes: int = field(default_factory=_setting("chunk_bytes", parse_bytes, 8 << 20))
    memory_limit: int | None = field(default_factory=_setting("memory_limit", _parse_limit, None))
    # Unmeasured: long enough for a consumer thread to finish with a tensor, short enough to notice.
    memory_wait_s: float = field(default_factory=_setting("memory_wait_s", float, 2.0))
    strategy: Strategy | Literal["auto", "mapped", "direct", "buffered"] = field(
        default_factory=_setting("strategy", str, "auto")
    )

    def __post_init__(self) -> None:
        _refuse_unknown_variables()
        if self.concurrency != "auto" and not (_is_int(self.concurrency) and 1 <= self.concurrency <= 1024):
            raise UsageError(f'concurrency is {self.concurrency!r}; it is "auto" or a whole number from 1 to 1024')
        if not (_is_int(self.chunk_bytes) and self.chunk_bytes >= 4096):
            raise UsageError(f"chunk_bytes is {self.chunk_bytes!r}; it is a whole number of bytes, at least 4096")
        if self.memory_limit is not None and not (_is_int(self.memory_limit) and self.memory_limit > 0):
            raise UsageError(f"memory_limit is {self.memory_limit!r}; it is a number of bytes above 0, or None")
        if not (_is_number(self.memory_wait_s) and 0 <= self.memory_wait_s <= TIMEOUT_MAX):
            raise UsageError(f"memory_wait_s is {self.memory_wait_s!r}; it is a number of seconds, 0 or more")
        if self.strategy != "auto":
            try:
                object.__setattr__(self, "strategy", Strategy(self.strategy))
            except ValueError:
                names = ", ".join(f'"{name}"' for name in ("auto", *Strategy))
                raise UsageError(f"strategy is {self.strategy!r}; it is one of {names}") from None


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refuse_unknown_variables() -> None:
    known = {_PREFIX + option.name.upper() for option in fields(Options)}
    unknown = sorted(name for name in os.environ if name.startswith(_PREFIX) and name not in known)
    if unknown:
        raise UsageError(f"unknown environment variable {unknown[0]}; the variables are {', '.join(sorted(known))}")


def make_options(**settings: object) -> Options:
    """Makes Options of those settings that are not None: what a command line leaves out stays default.

    Raises:
        UsageError: see Options.
    """
    return Options(**cast(dict[str, Any], {name: value for name, value in settings.items() if value is not None}))
