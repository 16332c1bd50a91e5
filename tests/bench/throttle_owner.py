"""A process that throttles a disk, has a process of its own under the limits, and waits to be killed.

python -m tests.bench.throttle_owner FILE
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from slipstream.bench.storages.cgroups import Limits
from slipstream.bench.storages.devices import find_device
from slipstream.bench.storages.throttle import Throttle

LIMITS = Limits(bytes_per_s=64 << 20, iops=1000, read_ahead_kib=64)


def main() -> None:
    with Throttle(find_device(Path(sys.argv[1])), LIMITS) as throttle:
        # A sample that outlives its run: it holds nothing of this process's, and would read on for ever.
        sample = subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        throttle.add(sample.pid)
        assert throttle._watchdog is not None
        seen = {"cgroup": str(throttle.cgroup), "sample": sample.pid, "watchdog": throttle._watchdog.pid}
        print(json.dumps(seen), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
