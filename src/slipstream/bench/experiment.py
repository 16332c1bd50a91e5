"""What an experiment is made of: entries, each a row of its table; and targets, what is asked of slipstream there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from slipstream.bench.records import Setting
from slipstream.bench.sampling import Touch
from slipstream.bench.storages.base import PageCache

Kind = Literal["load", "headers", "lock", "import", "vllm"]
Measure = Literal["seconds", "milliseconds", "gb_per_s", "cpu_s_per_gb", "tensors_per_s", "peak_mib", "mib_above_model"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row: a contender with settings.

    Attributes:
        contender: its name.
        settings: those that are not default.
        label: what the row is called, where that is not what the settings say.
        quick: whether it is part of a short run.
        verify: whether what comes is compared with the model.
        environment: variables for this row's samples alone.
        storages: of the experiment's, those from which it is measured; none given: all.
    """

    contender: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    label: str = ""
    quick: bool = False
    verify: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    storages: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Target:
    """One thing asked of slipstream. `targets` judges it by records.

    Attributes:
        text: what is asked, in words.
        measure: by which figure.
        of: the rows that it is asked of; of several, the fastest.
        storage: from which of the experiment's storages; "" where there is one.
        against: the rows whose figure that of the others is divided by; of several, the fastest. None: by 1.
        against_storage: likewise.
        most: it may be no more than this; or
        least: it must be no less.
    """

    text: str
    measure: Measure
    of: tuple[Entry, ...]
    storage: str = ""
    against: tuple[Entry, ...] = ()
    against_storage: str = ""
    most: float | None = None
    least: float | None = None


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One table, or one for each of its storages.

    Attributes:
        name: as on the command line.
        title: above the table.
        storages: their names; what each is, the command line says (storages.choice).
        entries: the rows.
        kind: what a sample is: a load; the reading of headers; a load while the interpreter's lock is watched; an
            import of slipstream; or the start of an engine.
        together: whether all storages are open at once and their samples are taken in turns, for rows that are
            compared across them; else they come one after another.
        page_cache: how the files are before each sample, where they are files.
        names: a glob that selects tensors; None is all.
        keep: whether the caller holds every tensor until the end.
        touch: see sampling.SampleRequest.
        layout: the model that is loaded instead of the one that the run is about; None where none is.
        layers: of that layout, also more than it has; None is all.
        files: into how many files that model is split, at most one for each layer.
        targets: what is asked of slipstream here.
    """

    name: str
    title: str
    storages: tuple[str, ...]
    entries: tuple[Entry, ...]
    kind: Kind = "load"
    together: bool = False
    page_cache: PageCache = "cold"
    names: str | None = None
    keep: bool = True
    touch: Touch = "timed"
    layout: str | None = ""
    layers: int | None = None
    files: int = 1
    targets: tuple[Target, ...] = ()
