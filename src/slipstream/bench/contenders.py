"""Who is measured: the loaders there are, what each can do, and whether it can do it here.

    contender = find_contender("runai")
    contender.check({"concurrency": 16})                 UsageError for a setting it does not have
    contender.label({"concurrency": 16})                 "concurrency 16"
    availability(contender, destination, placed, python) whether it can run here, and why not

A package of somebody else's adds a contender by an entry point of the group `slipstream.bench.contenders`, which names
a `Contender`. Its adapter runs in the sample's own process: a function from a `child.job.Job` to an iterator of
(name, tensor).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from slipstream.bench.records import Role, Setting

GROUP = "slipstream.bench.contenders"


@dataclass(frozen=True, kw_only=True)
class SettingRule:
    """One setting of a contender.

    Attributes:
        kind: the type of its values.
        words: how a label says it, with `{}` for the value: "concurrency {}".
        variable: the environment variable that carries it, where the contender reads it from there.
        choices: the values there are; none given: any of its type.
    """

    kind: type
    words: str
    variable: str | None = None
    choices: tuple[Setting, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A loader.

    Attributes:
        name: as in records: "runai".
        title: for people: "Run:ai Model Streamer".
        role: what it is compared as.
        adapter: "package.module:function" of what loads; a module that begins with a dot is this package's own.
        modules: imported before the clock starts; without them it cannot run.
        distributions: whose versions are recorded, its own first.
        install: the pip command that brings it.
        schemes: of what it can load: "file", "s3", "http" and others.
        destinations: "cpu", "cuda".
        settings: those it has, by name.
        default_label: the label without settings.
        needs_tensorizer: whether it loads the copy in tensorizer's format.
        discards: whether it throws away what it reads: nothing can be verified then.
    """

    name: str
    title: str
    role: Role = "peer"
    adapter: str
    modules: tuple[str, ...]
    distributions: tuple[str, ...] = ()
    install: str = ""
    schemes: frozenset[str] = frozenset({"file"})
    destinations: frozenset[str] = frozenset({"cpu", "cuda"})
    settings: Mapping[str, SettingRule] = field(default_factory=dict)
    default_label: str = "defaults"
    needs_tensorizer: bool = False
    discards: bool = False

    def check(self, settings: Mapping[str, Setting]) -> None:
        """Refuses settings that it does not have.

        Raises:
            UsageError: naming what there is.
        """
        raise NotImplementedError

    def label(self, settings: Mapping[str, Setting]) -> str:
        """The settings in words."""
        raise NotImplementedError


@dataclass(frozen=True)
class Availability:
    """Whether a contender can run here.

    Attributes:
        reason: why it cannot, in a few words with what helps; "" where it can.
        versions: of its distributions, those that are installed.
    """

    reason: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether it can."""
        return not self.reason


def contenders() -> Mapping[str, Contender]:
    """All contenders by name: the built-in ones, then those of entry points."""
    raise NotImplementedError


def find_contender(name: str) -> Contender:
    """The contender of that name.

    Raises:
        UsageError: there is none; the message lists those there are.
    """
    raise NotImplementedError


def check_availability(
    contender: Contender,
    *,
    destination: str = "cpu",
    schemes: frozenset[str] = frozenset({"file"}),
    settings: Mapping[str, Setting] | None = None,
    python: Path | None = None,
) -> Availability:
    """Whether a contender can load URIs of these schemes to that destination, with the packages of that interpreter."""
    raise NotImplementedError
