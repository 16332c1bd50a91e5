"""Whether limits hold, in a sentence for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from slipstream.bench.records import StorageFacts

_BEFORE_LIMIT = 0.95  # of a limit; a reader that gets less is slowed down by something else
_FORMATS: Mapping[str, Callable[[float], str]] = {
    "bytes_per_s": lambda value: f"{value / 2**20:,.0f} MiB/s",
    "iops": lambda value: f"{value:,.0f} IOPS",
    "connection_bytes_per_s": lambda value: f"{value / 1e6:,.0f} MB/s a connection",
    "first_byte_s": lambda value: f"{value * 1000:,.0f} ms to the first byte",
}


def describe_holding(facts: StorageFacts) -> str:
    """What a plain reader got under the limits, and which of them were out of reach; "" where nothing was measured.

    "gp3: a plain reader gets 1,004 MiB/s, 15,811 IOPS; the limits are 1,000 MiB/s, 16,000 IOPS".
    """
    if not facts.held:
        return ""
    held = _list(facts.held)
    text = f"{facts.name}: a plain reader gets {held}; the limits are {_list(facts.limits)}"
    free = {name: facts.held[f"device_{name}"] for name in _FORMATS if f"device_{name}" in facts.held}
    beyond = {
        name: limit
        for name, limit in facts.limits.items()
        if name in free and min(free[name], facts.held[name]) < limit * _BEFORE_LIMIT
    }
    if beyond:
        text += f"; the device gives {_list(free)} without them, so {_list(beyond)} are never reached"
    return text


def _list(values: Mapping[str, float]) -> str:
    return ", ".join(write(values[name]) for name, write in _FORMATS.items() if name in values)
