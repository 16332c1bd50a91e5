"""Whether the computer has processor time to spare."""

from __future__ import annotations

import os


def idle_share_s() -> float:
    """Seconds since boot for which a processor was idle, on average over all of them; grows by less than the clock
    does where they are busy. Endless idleness where the system does not tell.

    Source: proc_stat(5): the first line's fields user, nice, system, idle, iowait, in ticks.
    """
    try:
        with open("/proc/stat", "rb", buffering=0) as file:
            fields = file.read(256).split(b"\n", 1)[0].split()
        return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)
    except (OSError, ValueError, IndexError):
        return float("inf")
