"""About how long what is left will take, from what samples took before: with all that is done around the timed part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import fmean

from slipstream.bench.plan import PlannedSample
from slipstream.bench.records import Record


class Estimate:
    """Learns from records, also from those of earlier runs."""

    def __init__(self) -> None:
        self._walls: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)

    def learn(self, record: Record) -> None:
        """Takes a record into account, if it says how long its sample took in all."""
        wall_s = record.notes.get("wall_s")
        if isinstance(wall_s, int | float):
            self._walls[record.storage.name, record.contender, record.label].append(wall_s)

    def left_s(self, samples: Iterable[PlannedSample]) -> float | None:
        """How long these samples will take; None as long as nothing is known.

        A row is expected to take what it took; one that was never measured, what others took on average.
        """
        known = [wall_s for walls in self._walls.values() for wall_s in walls]
        if not known:
            return None
        average = fmean(known)
        total = 0.0
        for sample in samples:
            walls = self._walls.get((sample.storage_name, sample.row.entry.contender, sample.row.label))
            total += fmean(walls) if walls else average
        return total
