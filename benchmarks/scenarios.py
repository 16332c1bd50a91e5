"""What is measured: which contenders load what, from which state of the page cache, and what is asked of slipstream."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from contenders import (
    FLOORS,
    PEERS,
    RUNAI,
    SAFETENSORS,
    SLIPSTREAM,
    SLIPSTREAM_DIRECT,
    SLIPSTREAM_LIMITED,
    SLIPSTREAM_NUMPY,
    Contender,
)
from sample import Sample

Medians = Mapping[str, Sample]  # by the contender's name: see report.median_sample


@dataclass(frozen=True)
class Target:
    """One thing asked of slipstream, as a figure of this run.

    Attributes:
        text: what is asked.
        measured: the figure, or None where the run lacks what it is compared with.
        most: it may be no more than this; or
        least: it must be no less.
    """

    text: str
    measured: float | None
    most: float | None = None
    least: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether it is; None where it was not measured."""
        if self.measured is None:
            return None
        return (self.most is None or self.measured <= self.most) and (self.least is None or self.measured >= self.least)


@dataclass(frozen=True)
class Scenario:
    """One table.

    Attributes:
        name: as on the command line.
        title: above the table.
        model: the large one, or the one with many small tensors.
        cached: whether the files are wholly in the page cache before each sample, or wholly out of it.
        contenders: the rows.
        targets: what is asked of slipstream here.
        names: a glob that selects tensors.
        keep: whether the caller holds every tensor until the end.
        touch: see sample.Spec.
    """

    name: str
    title: str
    model: Literal["large", "small"]
    cached: bool
    contenders: tuple[Contender, ...]
    targets: Callable[[Medians], Sequence[Target]]
    names: str | None = None
    keep: bool = True
    touch: str = "timed"


def best(medians: Medians, contenders: Sequence[Contender]) -> Sample | None:
    """The fastest median among these contenders, or None where none of them ran."""
    ran = [medians[contender.name] for contender in contenders if contender.name in medians]
    return min(ran, key=lambda sample: sample.seconds, default=None)


def _ratio(one: Sample | None, other: Sample | None) -> float | None:
    return one.seconds / other.seconds if one and other else None


def _cold_targets(medians: Medians) -> list[Target]:
    ours, direct = medians.get(SLIPSTREAM.name), medians.get(SLIPSTREAM_DIRECT.name)
    floor = best(medians, FLOORS)
    targets = [
        Target("time / the best peer's", _ratio(ours, best(medians, PEERS)), most=1.0),
        Target("the raw floor's time / slipstream's", _ratio(floor, ours), least=0.95),
        Target("CPU seconds per GB", ours.cpu_seconds_per_gigabyte if ours else None, most=0.10),
        Target("direct: the raw floor's time / slipstream's", _ratio(floor, direct), least=0.95),
    ]
    return [target for target in targets if target.measured is not None]


def _warm_targets(medians: Medians) -> list[Target]:
    ours = medians.get(SLIPSTREAM.name)
    return [
        Target("time / Run:ai's", _ratio(ours, medians.get(RUNAI.name)), most=0.15),
        Target("time / safetensors'", _ratio(ours, medians.get(SAFETENSORS.name)), most=1.0),
    ]


def _small_targets(medians: Medians) -> list[Target]:
    ours = medians.get(SLIPSTREAM.name)
    return [Target("tensors per second", ours.tensors / ours.seconds if ours else None, least=100_000)]


def _limit_targets(medians: Medians) -> list[Target]:
    limited, unlimited = medians.get(SLIPSTREAM_LIMITED.name), medians.get(SLIPSTREAM.name)
    return [
        Target("peak MiB with a 256 MiB limit", limited.peak_bytes / 2**20 if limited else None, most=320),
        Target("throughput / the unlimited one", _ratio(unlimited, limited), least=0.8),
    ]


_LIMIT_PAIR = (SLIPSTREAM_LIMITED, SLIPSTREAM)
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "cold", "Cold: nothing in the page cache", "large", False,
            (SLIPSTREAM, SLIPSTREAM_DIRECT, *PEERS, *FLOORS), _cold_targets,
        ),
        Scenario(
            "warm", "Warm: all of it in the page cache", "large", True,
            (SLIPSTREAM, SLIPSTREAM_DIRECT, *PEERS, *FLOORS), _warm_targets,
        ),
        Scenario(
            "direct", "Direct: O_DIRECT forced, cold", "large", False,
            (SLIPSTREAM_DIRECT, *FLOORS), _cold_targets,
        ),
        Scenario(
            "small", "Small: tens of thousands of tensors, warm, touched after the timed region", "small", True,
            (SLIPSTREAM, SLIPSTREAM_NUMPY, RUNAI, SAFETENSORS), _small_targets, touch="after",
        ),
        Scenario(
            "limit", "Limit: 256 MiB and a caller that drops each tensor, cold", "large", False,
            _LIMIT_PAIR, _limit_targets, names="model.layers.*", keep=False,
        ),
        Scenario(
            "limit-warm", "Limit: 256 MiB and a caller that drops each tensor, warm", "large", True,
            _LIMIT_PAIR, _limit_targets, names="model.layers.*", keep=False,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class ImportTimes:
    """What `import slipstream` takes in a fresh interpreter; medians, in milliseconds.

    Attributes:
        importtime_ms: what `-X importtime` says of slipstream and all it imports.
        process_ms: wall time of a process that imports it and ends.
        empty_process_ms: wall time of one that does nothing.
    """

    importtime_ms: float
    process_ms: float
    empty_process_ms: float

    def targets(self) -> list[Target]:
        """What is asked of it."""
        return [Target("ms by -X importtime", self.importtime_ms, most=50)]


def measure_import(rounds: int = 10) -> ImportTimes:
    """Measures it in fresh interpreters, the three measures taking turns."""
    reported, whole, empty = [], [], []
    for _ in range(rounds):
        reported.append(_importtime_ms())
        whole.append(_process_ms("import slipstream"))
        empty.append(_process_ms("pass"))
    return ImportTimes(*(statistics.median(times) for times in (reported, whole, empty)))


def _importtime_ms() -> float:
    command = [sys.executable, "-X", "importtime", "-c", "import slipstream"]
    report = subprocess.run(command, check=True, capture_output=True, text=True, env=_plain_environment()).stderr
    found = re.search(r"^import time:\s+\d+ \|\s+(\d+) \| slipstream$", report, re.MULTILINE)
    if found is None:
        raise RuntimeError("-X importtime says nothing of slipstream")
    return int(found[1]) / 1000


def _process_ms(program: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, env=_plain_environment())
    return (time.perf_counter() - start) * 1000


def _plain_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SLIPSTREAM_")}
