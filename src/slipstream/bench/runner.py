"""Takes the samples of a plan: in turns, one record each, and goes on where an earlier run stopped.

    for each stage of the plan:                 storages opened, the model placed
        for each sample that is left:           pause, begin, take, end
            append_record                       on disk before the next one begins
    storages closed: throttle gone, servers gone, whatever happened

A sample that fails is a record with the reason; a contender that cannot run here is one, too. Neither ends the run.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Protocol

from slipstream.bench.contenders import Availability
from slipstream.bench.errors import BenchError
from slipstream.bench.estimate import Estimate
from slipstream.bench.experiments import Experiment
from slipstream.bench.machine import describe_machine, find_commit
from slipstream.bench.models import Model
from slipstream.bench.plan import PlannedSample, Stage, choose_entries, leave_out, plan_stages
from slipstream.bench.records import Record, Status, StorageFacts, append_record, read_records
from slipstream.bench.sampling import SampleResult
from slipstream.bench.storages.base import Storage
from slipstream.bench.storages.choice import Ground, make_storage
from slipstream.bench.storages.holding import describe_holding
from slipstream.bench.storages.throttle import undo_leftovers
from slipstream.bench.takers import TAKERS, Conditions
from slipstream.errors import SlipstreamError, UsageError

RESULTS = "results.jsonl"
_PAUSE_SHOWN_S = 1.0
_LONGEST_REASON = 600


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What a run is asked to do.

    Attributes:
        experiments: which, in order.
        models: what is loaded, by experiments' `layout`: "" is the model that the run is about.
        output: the folder of the results.
        ground: what storages are made on.
        places: where storages are, by name; those that are not named are emulated.
        destination: "cpu", "cuda:0".
        contenders: only these; None is all.
        repeats: samples of each row.
        quick: only the rows of a short run.
        conditions: what holds for all samples.
    """

    experiments: Sequence[Experiment]
    models: Mapping[str | None, Model]
    output: Path
    ground: Ground
    places: Mapping[str, str] = field(default_factory=dict)
    destination: str = "cpu"
    contenders: Sequence[str] | None = None
    repeats: int = 3
    quick: bool = False
    conditions: Conditions = field(default_factory=lambda: Conditions(pythons={}))

    @property
    def results(self) -> Path:
        """The file of records."""
        return self.output / RESULTS


class Display(Protocol):
    """Shows how a run goes, in its thread."""

    def planned(self, total: int, done: int) -> None:
        """So many samples in all, of which so many were measured before."""
        ...

    def doing(self, what: str, done: int, total: int) -> None:
        """Something else than a sample goes on: so many bytes or seconds of so many, if `total` is not 0."""
        ...

    def begins(self, planned: PlannedSample, left_s: float | None) -> None:
        """A sample is taken; with it, all that are left take about so long."""
        ...

    def ends(self, record: Record) -> None:
        """A sample has been taken, or could not be."""
        ...

    def left(self, count: int) -> None:
        """So many samples are left."""
        ...

    def notes(self, line: str) -> None:
        """Something that is as it should be."""
        ...

    def tells(self, line: str) -> None:
        """Something that should be known."""
        ...


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        records: all of the results file, those of earlier runs too.
        taken: samples with a figure that this run took.
        failed: rows and storages that have none, with the reason.
    """

    records: list[Record] = field(default_factory=list)
    taken: int = 0
    failed: list[str] = field(default_factory=list)


class Run:
    """One run. `take_all` once."""

    def __init__(self, settings: RunSettings, display: Display) -> None:
        """Plans all of it.

        Raises:
            UsageError: a contender, setting, storage or place that there is not.
        """
        self.settings = settings
        self._display = display
        self._id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        self._estimate = Estimate()
        self._outcome = Outcome()
        names = {name for experiment in settings.experiments for name in experiment.storages}
        self._storages = {name: make_storage(name, settings.places.get(name), settings.ground) for name in names}
        self._stages = self._plan()
        self._left: list[PlannedSample] = []

    def take_all(self) -> Outcome:
        """Takes every sample that is left.

        Raises:
            UsageError: another run writes to the same folder; results there of another kind of storage.
            StorageUnavailableError: a storage of the plan cannot be had here; no sample was taken.
            KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP. What was measured is on disk, and nothing else is left.
        """
        self.settings.output.mkdir(parents=True, exist_ok=True)
        with _only_run(self.settings.output), _stopped_by_signals():
            for line in undo_leftovers():
                self._display.tells(line)
            earlier = self._read_results()
            self._look_at(earlier)
            stages = leave_out(self._stages, earlier)
            self._left = [sample for stage in stages for sample in stage.samples]
            total = sum(len(stage.samples) for stage in self._stages)
            self._display.planned(total, total - len(self._left))
            for name in {name for stage in stages for name in stage.storages}:
                with self._storages[name]:
                    pass
            for stage in stages:
                self._take_stage(stage, earlier)
            self._outcome.records = self._read_results()
        return self._outcome

    def _plan(self) -> list[Stage]:
        stages = []
        for experiment in self.settings.experiments:
            taker = TAKERS[experiment.kind]
            entries = choose_entries(experiment, contenders=self.settings.contenders, quick=self.settings.quick)
            stages += plan_stages(
                experiment,
                self.settings.models[experiment.layout],
                [taker.describe(experiment, entry) for entry in entries],
                storage_names={name: self._storages[name].name for name in experiment.storages},
                repeats=self.settings.repeats,
                destination=self.settings.destination,
            )
        return stages

    def _read_results(self) -> list[Record]:
        return read_records(self.settings.results) if self.settings.results.exists() else []

    def _look_at(self, earlier: Sequence[Record]) -> None:
        """Learns from earlier records, and refuses to mix what does not belong together."""
        kinds = {storage.name: storage.kind for storage in self._storages.values()}
        for record in earlier:
            self._estimate.learn(record)
            if kinds.get(record.storage.name, record.storage.kind) != record.storage.kind:
                raise UsageError(
                    f"{self.settings.results} has {record.storage.name} measured as {record.storage.kind}, and now it "
                    f"would be {kinds[record.storage.name]}: choose another --output"
                )
        others = {record.commit or "none" for record in earlier} - {find_commit() or "none"}
        if others:
            self._display.tells(
                f"{self.settings.results} has samples of other commits ({', '.join(sorted(others))}); they are not "
                "taken again. For a run of its own choose another --output"
            )

    def _take_stage(self, stage: Stage, earlier: Sequence[Record]) -> None:
        with ExitStack() as stack:
            try:
                storages = {name: stack.enter_context(self._storages[name]) for name in stage.storages}
                no_copy = self._place(stage, storages)
                ready = self._drop_unavailable(stage, storages, earlier)
            except (SlipstreamError, OSError) as error:
                # The other stages can do without these storages.
                self._outcome.failed.append(f"{stage.experiment.name}: {error}")
                self._display.tells(f"{stage.experiment.name} is left out: {error}")
                self._leave_out(stage.samples)
                return
            for planned in ready:
                self._take(planned, storages[planned.storage], no_copy if planned.row.needs_tensorizer else "")
                self._leave_out([planned])

    def _place(self, stage: Stage, storages: Mapping[str, Storage]) -> str:
        """Puts the model into the storages; returns why there is no copy for tensorizer, if one was wanted."""
        taker, report = TAKERS[stage.experiment.kind], self._display.doing
        taker.make_ready(stage.model, self.settings.conditions, report)
        copy, no_copy = None, ""
        if any(sample.row.needs_tensorizer for sample in stage.samples):
            try:
                copy = taker.tensorizer_copy(stage.model, self.settings.conditions, report)
            except BenchError as error:
                no_copy = str(error)
        for storage in storages.values():
            storage.place(stage.model, report, tensorizer_file=copy)
            if holding := describe_holding(storage.facts()):
                self._display.notes(holding)
        report("writing to the disk what was placed", 0, 0)
        os.sync()  # else that goes on under the first samples
        return no_copy

    def _drop_unavailable(
        self, stage: Stage, storages: Mapping[str, Storage], earlier: Sequence[Record]
    ) -> list[PlannedSample]:
        """The samples that can be taken here. Each row that cannot gets one record, unless it has it already."""
        taker = TAKERS[stage.experiment.kind]
        placed = {name: storage.begin(0) for name, storage in storages.items()}
        found: dict[tuple[str, str, str], Availability] = {}
        for planned in stage.samples:
            key = (planned.storage, planned.row.entry.contender, planned.row.label)
            if key not in found:
                found[key] = taker.check(planned, placed[planned.storage], self.settings.conditions)
                if not found[key].ok:
                    self._note_unavailable(planned, storages[planned.storage], found[key], earlier)
        able = [s for s in stage.samples if found[s.storage, s.row.entry.contender, s.row.label].ok]
        self._leave_out([sample for sample in stage.samples if sample not in able])
        return able

    def _leave_out(self, samples: Sequence[PlannedSample]) -> None:
        """These are done with."""
        keys = {sample.key for sample in samples}
        self._left = [sample for sample in self._left if sample.key not in keys]
        self._display.left(len(self._left))

    def _take(self, planned: PlannedSample, storage: Storage, no_copy: str) -> None:
        begun = time.monotonic()
        self._pause(storage)
        self._display.begins(planned, self._estimate.left_s(self._left))
        try:
            if no_copy:
                raise BenchError(no_copy)
            placed = storage.begin(planned.round)
            placed = replace(placed, environment={**placed.environment, **planned.row.entry.environment})
            result = TAKERS[planned.experiment.kind].take(planned, storage, placed, self.settings.conditions)
            noted = {**result.notes, **storage.end(), "wall_s": round(time.monotonic() - begun, 3)}
        except (SlipstreamError, OSError) as error:
            self._keep(planned, storage.facts(), "failed", reason=_one_line(error))
        else:
            self._outcome.taken += 1
            self._keep(planned, storage.facts(), "ok", result=replace(result, notes=noted))

    def _pause(self, storage: Storage) -> None:
        """Waits as long as the storage wants before each sample, and shows how long that still is."""
        until = time.monotonic() + storage.pause_s
        while (left := until - time.monotonic()) > 0:
            waited = round(storage.pause_s - left)
            self._display.doing(f"pause for {storage.name}, in seconds", waited, round(storage.pause_s))
            time.sleep(min(left, _PAUSE_SHOWN_S))

    def _note_unavailable(
        self, planned: PlannedSample, storage: Storage, found: Availability, earlier: Sequence[Record]
    ) -> None:
        first = replace(planned, round=0)
        before = {(record.key, record.reason) for record in earlier if record.status == "unavailable"}
        if (first.key, found.reason) not in before:
            self._keep(first, storage.facts(), "unavailable", reason=found.reason, versions=found.versions)

    def _keep(
        self,
        planned: PlannedSample,
        facts: StorageFacts,
        status: Status,
        *,
        result: SampleResult | None = None,
        reason: str = "",
        versions: Mapping[str, str] | None = None,
    ) -> None:
        record = Record(
            run=self._id,
            taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
            experiment=planned.experiment.name,
            storage=facts,
            contender=planned.row.entry.contender,
            label=planned.row.label,
            settings=planned.row.entry.settings,
            role=planned.row.role,
            round=planned.round,
            destination=planned.destination,
            model=planned.model.facts,
            status=status,
            reason=reason,
            figures=result.figures if result else None,
            verified=result.verified if result else False,
            checksum=result.checksum if result else "",
            notes=result.notes if result else {},
            versions=result.versions if result else versions or {},
            machine=describe_machine(),
            commit=find_commit(),
        )
        append_record(self.settings.results, record)
        self._estimate.learn(record)
        if status == "failed":
            self._outcome.failed.append(f"{planned.experiment.name}: {record.contender}, {record.label}: {reason}")
        self._display.ends(record)


@contextmanager
def _only_run(output: Path) -> Iterator[None]:
    """Keeps two runs from writing into one folder, since each would slow the other down.

    Raises:
        UsageError: another one does.
    """
    descriptor = os.open(output, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another run writes into {output}; let it end first, or choose another --output"
            ) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """What a closed terminal or a shutdown sends ends the run as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # of nohup
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else f"{text[: _LONGEST_REASON - 1]}…"
