"""Samples of what `import slipstream` takes in a fresh interpreter. See `takers.SampleTaker`.

slipstream, setting `by`:   "process"      wall time of a process that imports it and ends
                            "importtime"   what the interpreter's own -X importtime says of it and all it imports
floor:                      wall time of a process that does nothing
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.bench.contenders import Availability
from slipstream.bench.errors import BenchError, SampleError
from slipstream.bench.interpreters import child_environment, find_packages
from slipstream.bench.plan import PlannedSample, Row
from slipstream.bench.records import Figures
from slipstream.bench.redaction import shorten
from slipstream.bench.sampling import SampleResult
from slipstream.errors import UsageError

if TYPE_CHECKING:
    from slipstream.bench.experiment import Entry, Experiment
    from slipstream.bench.models import Model, Report
    from slipstream.bench.storages.base import PlacedModel, Storage
    from slipstream.bench.takers import Conditions

_LABELS = {"process": "a process that imports it", "importtime": "by -X importtime"}
_REPORTED = re.compile(r"^import time:\s+\d+ \|\s+(\d+) \| slipstream$", re.MULTILINE)


class ImportTaker:
    """Imports slipstream. See SampleTaker."""

    def describe(self, experiment: Experiment, entry: Entry) -> Row:
        """See SampleTaker."""
        if entry.contender == "floor" and not entry.settings:
            return Row(entry=entry, label="a process that does nothing", role="floor")
        by = entry.settings.get("by")
        if entry.contender != "slipstream" or set(entry.settings) != {"by"} or by not in _LABELS:
            raise UsageError(f"an import is measured of slipstream, by {' or '.join(_LABELS)}, and of nothing else")
        return Row(entry=entry, label=_LABELS[str(by)], role="slipstream")

    def make_ready(self, model: Model, conditions: Conditions, report: Report) -> None:
        """See SampleTaker. Nothing is needed."""

    def tensorizer_copy(self, model: Model, conditions: Conditions, report: Report) -> Path:
        """See SampleTaker."""
        raise BenchError("an import needs no copy for tensorizer")

    def check(self, planned: PlannedSample, placed: PlacedModel, conditions: Conditions) -> Availability:
        """See SampleTaker. An interpreter of its own must have slipstream."""
        try:
            found = find_packages(conditions.pythons.get("slipstream"), ("slipstream",), ("slipstream",))
        except BenchError as error:
            return Availability(str(error))
        return Availability("" if "slipstream" in found.modules else "not installed (slipstream)", found.versions)

    def take(
        self, planned: PlannedSample, storage: Storage, placed: PlacedModel, conditions: Conditions
    ) -> SampleResult:
        """See SampleTaker."""
        python, entry = conditions.pythons.get("slipstream"), planned.row.entry
        by_interpreter = entry.settings.get("by") == "importtime"
        program = "pass" if entry.contender == "floor" else "import slipstream"
        options = ["-X", "importtime"] if by_interpreter else []
        cpu_before = _children_cpu_s()
        start = time.perf_counter()
        try:
            done = subprocess.run(
                [str(python or sys.executable), *options, "-c", program],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=child_environment(python),
                timeout=conditions.timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise SampleError(f"the import was not over after {conditions.timeout_s:g} s") from error
        seconds = time.perf_counter() - start
        cpu_s = _children_cpu_s() - cpu_before
        if done.returncode:
            raise SampleError(f"the import ended with exit code {done.returncode}: {shorten(done.stderr)}")
        if by_interpreter:
            seconds = _reported_s(done.stderr)
        found = find_packages(python, ("slipstream",), ("slipstream",))
        return SampleResult(
            figures=Figures(seconds=seconds, cpu_s=cpu_s),
            verified=False,
            checksum="",
            notes={},
            versions={"python": found.python, **found.versions},
        )


def _reported_s(report: str) -> float:
    found = _REPORTED.search(report)
    if found is None:
        raise SampleError("-X importtime says nothing of slipstream")
    return int(found[1]) / 1e6


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
