"""A process of its own that makes the kernel refuse system calls, loads a checkpoint, and tells how that went.

    python -m tests.fallbacks.refused_load CHECKPOINT STRATEGY REFUSALS MAY_MAP CONCURRENCY SHARD

REFUSALS is JSON, the fields of seccomp.Refusal; MAY_MAP is how many bytes of address space it may still take, or 0;
SHARD may be empty.
It prints one line of JSON, the fields of Outcome.
"""

from __future__ import annotations

import hashlib
import json
import logging
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import slipstream
import slipstream.delivery.numpy  # now: libraries are mapped before mmap is refused
from slipstream.options import make_options
from tests.endings.leaks import see_footprint, wait_nothing_left
from tests.endings.sample import as_bytes
from tests.fallbacks.seccomp import Refusal, install

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Outcome:
    """How the load went.

    Attributes:
        digests: SHA-256 of each tensor.
        fallbacks: those of the stats.
        strategies: the strategy of each file, as the stats tell it.
        reasons: and its reason.
        warnings: what the logger "slipstream" was told.
        error: the type of what was raised, or nothing.
        message: its text.
        is_ours: whether it is a SlipstreamError.
        left: what the load has left, in words, or nothing.
    """

    digests: dict[str, str] = field(default_factory=dict)
    fallbacks: list[str] = field(default_factory=list)
    strategies: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: str = ""
    message: str = ""
    is_ours: bool = False
    left: str = ""


def run_refused(
    path: Path, strategy: str, *refusals: Refusal, may_map: int = 0, concurrency: int = 3, shard: str = ""
) -> Outcome:
    """Loads a checkpoint in a new process to which these calls are refused."""
    given = json.dumps([asdict(refusal) for refusal in refusals])
    arguments = [str(path), strategy, given, str(may_map), str(concurrency), shard]
    command = [sys.executable, "-m", "tests.fallbacks.refused_load", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return Outcome(**json.loads(done.stdout))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Memory(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _load(path: Path, strategy: str, concurrency: int, shard: str, outcome: Outcome) -> None:
    options = make_options(strategy=strategy, concurrency=concurrency, chunk_bytes=128 << 10)
    part = slipstream.Shard.parse(shard) if shard else None
    tensors = slipstream.stream(path, framework="numpy", shard=part, options=options)
    found = as_bytes(tensors)
    stats = tensors.stats()
    outcome.digests = {name: digest(data) for name, data in found.items()}
    outcome.fallbacks = list(stats.fallbacks)
    outcome.strategies = [file.strategy.value for file in stats.files]
    outcome.reasons = [file.reason for file in stats.files]


def main() -> None:
    path, strategy, given, may_map, concurrency, shard = sys.argv[1:]
    outcome = Outcome()
    logging.getLogger("slipstream").addHandler(_Memory(outcome.warnings))
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    before = see_footprint(folder)
    install([Refusal(**fields) for fields in json.loads(given)])
    if int(may_map):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + int(may_map), resource.RLIM_INFINITY))
    held: Exception | None = None
    try:
        _load(Path(path), strategy, int(concurrency), shard, outcome)
    except Exception as error:
        held = error
        outcome.error, outcome.message = type(error).__name__, str(error)
        outcome.is_ours = isinstance(error, slipstream.SlipstreamError)
    try:
        wait_nothing_left(before, folder)  # the error is still held
    except AssertionError as error:
        outcome.left = str(error)
    del held
    print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
