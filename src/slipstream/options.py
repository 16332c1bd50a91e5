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
from slipstream.types import FILE_STRATEGIES, Strategy

_PREFIX = "SLIPSTREAM_"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}

PULL_MEMORY_BYTES = 512 << 20
"""What a pull takes as its `memory_limit` where none is given: ranges wait in memory while the disk is slower than the
network. Unmeasured: 64 reads of 8 MiB."""

_SWITCHES = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


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


def _parse_seconds(text: str) -> float | None:
    return None if text.strip().lower() in ("", "none") else float(text)


def _parse_switch(text: str) -> bool:
    word = text.strip().lower()
    if word not in _SWITCHES:
        raise UsageError(f'"{text}" is neither on nor off; write one of {", ".join(_SWITCHES)}')
    return _SWITCHES[word]


def _parse_switch_or_auto(text: str) -> bool | str:
    return text.strip().lower() if text.strip().lower() == "auto" else _parse_switch(text)


def _parse_bytes_or_auto(text: str) -> int | str:
    return text.strip().lower() if text.strip().lower() == "auto" else parse_bytes(text)


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
        concurrency: reads in flight. "auto" takes what suits the strategy the policy chose; for object stores and
            HTTP it is found out while the load runs. A number is obeyed exactly.
        chunk_bytes: the largest single read (what is cached is mapped in larger ones), and the size up to
            which small neighbours are read together. At least 4,096.
        memory_limit: bytes that the tensors in flight and the tensors the caller still holds may take
            together; None is no limit. A tensor larger than it is refused before any read. A ring counts too; of a
            load to another device it is all there is of host memory.
        count_held: whether tensors that the caller holds count against `memory_limit`. False bounds only what is
            read ahead of the caller, who may then keep what it likes.
        memory_wait_s: how long a stream that cannot move, because the caller holds all of
            `memory_limit`, waits for another thread to drop tensors before it raises.
        strategy: "auto" lets the policy decide for each local file; a name forces one. "gds" is for CUDA devices.
        staging: whether bytes pass through a ring of slots on the way to where tensors stand. "auto" does so for other
            devices than the host, which cannot be reached otherwise, and where tensors are cast on the way.
        ring_bytes: host memory of that ring at most. "auto" is 256 MiB, and up to 1 GiB where many connections are
            read from at once. It is made as it is needed.
        device_memory_limit: the same as `memory_limit`, for tensors on another device and its memory.
        attempts: how often a range is asked for in a row, without a byte of it coming, before the load fails. Object
            stores and HTTP, as all that follow.
        retries: how many failed requests a load may heal in all. Every four requests that succeed earn one more.
        deadline_s: seconds for the whole load; None is no limit.
        connect_timeout_s: seconds for TCP and TLS.
        first_byte_timeout_s: seconds from a request to the head of its answer.
        stall_timeout_s: seconds without a byte (or with hardly any) after which a connection counts as lost.
        hedge: whether a range that takes far longer than its peers is asked for a second time.
        bandwidth_limit: bytes per second over all connections; None is no limit.
        gap_bytes: where columns of a tensor are read (`shard=`): strips of it that are no further apart are read
            together, with what lies between them; further ones are asked for one by one. "auto" takes what suits the
            storage.
        populate: whether a thread gives memory its pages ahead of what is received into it. "auto" does so where every
            tensor is kept, as by `load`: then the memory is needed anyway. It is not done under a `memory_limit`.
        share_across: with `distributed=`, who shares the reading: all ranks of the "world", so that each byte is read
            once in all; or those of a "node", so that each is read once per host and crosses no network between hosts.
        share_through: with `distributed=`, where the ranks pass bytes round: in memory of the "host", by Gloo, or of
            each rank's "device", by NCCL, so that each byte crosses a PCIe bus once in all and not once per rank. The
            latter is for CUDA and ROCm, and was not tried on a GPU yet.

    Raises:
        UsageError: a value that cannot work, or an unknown `SLIPSTREAM_` variable in the environment.
    """

    # 8 MiB: the smallest chunk with which O_DIRECT reads reached the disk's bandwidth at 8 to 16 in
    # flight; 4 and 16 MiB were equal within noise (docs/performance.md).
    concurrency: int | Literal["auto"] = field(default_factory=_setting("concurrency", _parse_concurrency, "auto"))
    chunk_bytes: int = field(default_factory=_setting("chunk_bytes", parse_bytes, 8 << 20))
    memory_limit: int | None = field(default_factory=_setting("memory_limit", _parse_limit, None))
    count_held: bool = field(default_factory=_setting("count_held", _parse_switch, True))
    # Unmeasured: long enough for a consumer thread to finish with a tensor, short enough to notice.
    memory_wait_s: float = field(default_factory=_setting("memory_wait_s", float, 2.0))
    strategy: Strategy | Literal["auto", "mapped", "direct", "buffered", "gds"] = field(
        default_factory=_setting("strategy", str, "auto")
    )
    # Six attempts pause for 0.8 to 3.1 s in all: longer than a store's hiccup, shorter than a person's patience.
    attempts: int = field(default_factory=_setting("attempts", int, 6))
    # A load of 5.6 GB makes 700 requests: one in seven may fail at first, and with what they earn two in five.
    retries: int = field(default_factory=_setting("retries", int, 100))
    deadline_s: float | None = field(default_factory=_setting("deadline_s", _parse_seconds, None))
    # Unmeasured, as the next two: round trips take up to 0.3 s, stores answer in 0.2 s and rarely in 2 s.
    connect_timeout_s: float = field(default_factory=_setting("connect_timeout_s", float, 5.0))
    first_byte_timeout_s: float = field(default_factory=_setting("first_byte_timeout_s", float, 15.0))
    stall_timeout_s: float = field(default_factory=_setting("stall_timeout_s", float, 10.0))
    hedge: bool = field(default_factory=_setting("hedge", _parse_switch, True))
    bandwidth_limit: int | None = field(default_factory=_setting("bandwidth_limit", _parse_limit, None))
    populate: bool | Literal["auto"] = field(default_factory=_setting("populate", _parse_switch_or_auto, "auto"))
    # "auto" is planning/gather.py's to say: 4 KiB for local files, 256 KiB for network file systems, 1 MiB for stores.
    gap_bytes: int | Literal["auto"] = field(default_factory=_setting("gap_bytes", _parse_bytes_or_auto, "auto"))
    staging: bool | Literal["auto"] = field(default_factory=_setting("staging", _parse_switch_or_auto, "auto"))
    # 32 slots of 8 MiB: 16 reads in flight, and as many copies. Page-locking takes 0.4 s per GB (published), and what
    # is in flight to the fastest storage there is, 50 GB/s at 1 ms, is 50 MB. See planning/staging.py.
    ring_bytes: int | Literal["auto"] = field(default_factory=_setting("ring_bytes", _parse_bytes_or_auto, "auto"))
    device_memory_limit: int | None = field(default_factory=_setting("device_memory_limit", _parse_limit, None))
    # Storage is the scarcer resource where ranks share anything at all; unmeasured between hosts.
    share_across: Literal["world", "node"] = field(default_factory=_setting("share_across", str.strip, "world"))
    share_through: Literal["host", "device"] = field(default_factory=_setting("share_through", str.strip, "host"))

    def __post_init__(self) -> None:
        _refuse_unknown_variables()
        if self.concurrency != "auto" and not (_is_int(self.concurrency) and 1 <= self.concurrency <= 1024):
            raise UsageError(f'concurrency is {self.concurrency!r}; it is "auto" or a whole number from 1 to 1024')
        if not (_is_int(self.chunk_bytes) and self.chunk_bytes >= 4096):
            raise UsageError(f"chunk_bytes is {self.chunk_bytes!r}; it is a whole number of bytes, at least 4096")
        if self.memory_limit is not None and not (_is_int(self.memory_limit) and self.memory_limit > 0):
            raise UsageError(f"memory_limit is {self.memory_limit!r}; it is a number of bytes above 0, or None")
        if not isinstance(self.count_held, bool):
            raise UsageError(f"count_held is {self.count_held!r}; it is True or False")
        if not (_is_number(self.memory_wait_s) and 0 <= self.memory_wait_s <= TIMEOUT_MAX):
            raise UsageError(f"memory_wait_s is {self.memory_wait_s!r}; it is a number of seconds, 0 or more")
        self._check_network()
        self._check_staging()
        if self.strategy != "auto":
            if self.strategy not in (*FILE_STRATEGIES, Strategy.GDS):
                names = ", ".join(f'"{name}"' for name in ("auto", *FILE_STRATEGIES, Strategy.GDS))
                raise UsageError(f"strategy is {self.strategy!r}; it is one of {names}")
            object.__setattr__(self, "strategy", Strategy(self.strategy))

    def _check_network(self) -> None:
        if not (_is_int(self.attempts) and 1 <= self.attempts <= 100):
            raise UsageError(f"attempts is {self.attempts!r}; it is a whole number from 1 to 100")
        if not (_is_int(self.retries) and self.retries >= 0):
            raise UsageError(f"retries is {self.retries!r}; it is a whole number, 0 or more")
        for name in ("deadline_s", "connect_timeout_s", "first_byte_timeout_s", "stall_timeout_s"):
            seconds = getattr(self, name)
            if name == "deadline_s" and seconds is None:
                continue
            if not (_is_number(seconds) and 0 < seconds <= TIMEOUT_MAX):
                raise UsageError(f"{name} is {seconds!r}; it is a number of seconds above 0")
        if not isinstance(self.hedge, bool):
            raise UsageError(f"hedge is {self.hedge!r}; it is True or False")
        if self.populate != "auto" and not isinstance(self.populate, bool):
            raise UsageError(f'populate is {self.populate!r}; it is True, False or "auto"')
        if self.gap_bytes != "auto" and not (_is_int(self.gap_bytes) and self.gap_bytes >= 0):
            raise UsageError(f'gap_bytes is {self.gap_bytes!r}; it is a number of bytes, 0 or more, or "auto"')
        if self.share_across not in ("world", "node"):
            raise UsageError(f'share_across is {self.share_across!r}; it is "world" or "node"')
        if self.share_through not in ("host", "device"):
            raise UsageError(f'share_through is {self.share_through!r}; it is "host" or "device"')
        limit = self.bandwidth_limit
        if limit is not None and not (_is_int(limit) and limit >= 1024):
            raise UsageError(f"bandwidth_limit is {limit!r}; it is bytes per second, at least 1,024, or None")

    def _check_staging(self) -> None:
        if self.staging != "auto" and not isinstance(self.staging, bool):
            raise UsageError(f'staging is {self.staging!r}; it is True, False or "auto"')
        if self.ring_bytes != "auto" and not (_is_int(self.ring_bytes) and self.ring_bytes >= 1 << 16):
            raise UsageError(f'ring_bytes is {self.ring_bytes!r}; it is a number of bytes, at least 65,536, or "auto"')
        limit = self.device_memory_limit
        if limit is not None and not (_is_int(limit) and limit > 0):
            raise UsageError(f"device_memory_limit is {limit!r}; it is a number of bytes above 0, or None")


def read_local_world_size() -> int:
    """How many ranks torchrun has started on this host; 1 where it has not."""
    text = os.environ.get("LOCAL_WORLD_SIZE", "").strip()
    return int(text) if re.fullmatch(r"[1-9][0-9]{0,6}", text) else 1


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
