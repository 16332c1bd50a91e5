"""Who is measured: the loaders there are, what each can do, and whether it can do it here.

    contender = find_contender("runai")
    contender.check({"concurrency": 16})                 UsageError for a setting that it does not have
    contender.label({"concurrency": 16})                 "concurrency 16"
    check_availability(contender, destination="cuda:0")  whether it can run here, and why not

A package of somebody else's adds a contender by an entry point of the group `slipstream.bench.contenders`, which names
a `Contender`. Its adapter is a function from a `child.job.Job` to an iterator of (name, tensor), and runs in the
sample's own process. The built-in contenders are in `builtin_contenders`.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from slipstream.bench.errors import BenchError
from slipstream.bench.interpreters import Packages, find_packages, why_no_cuda
from slipstream.bench.records import Role, Setting
from slipstream.errors import UsageError

GROUP = "slipstream.bench.contenders"
_BINARY_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a value of a setting asks for, beside what its contender does.

    Attributes:
        version: of the contender's distribution, at least.
        destination: the only one it works with: "cuda".
        schemes: the only ones it reads.
    """

    version: str = ""
    destination: str = ""
    schemes: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class SettingRule:
    """One setting of a contender.

    Attributes:
        kinds: the types of its values.
        words: how a label says it, with `{}` for the value: "concurrency {}". One of bytes ends in "MiB" and the like.
        variable: the environment variable that carries it, where the contender reads it from there.
        choices: the values there are; none given: any of its types.
        unit: "bytes", or "".
        needs: by the value that needs it; "" is any value.
    """

    kinds: tuple[type, ...]
    words: str = "{}"
    variable: str | None = None
    choices: tuple[Setting, ...] = ()
    unit: str = ""
    needs: Mapping[Setting, Need] = field(default_factory=dict)

    def accepts(self, value: Setting) -> bool:
        """Whether it is one of its values."""
        right_kind = type(value) in self.kinds and not (type(value) is int and value < 0)
        return right_kind and (not self.choices or value in self.choices)

    def needed(self, value: Setting) -> Iterator[Need]:
        """What that value asks for."""
        return (need for of, need in self.needs.items() if of in ("", value))


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A loader.

    Attributes:
        name: as in records: "runai".
        title: for people: "Run:ai Model Streamer".
        role: what it is compared as.
        adapter: "package.module:function" of what loads; a module that begins with a dot is in `bench.child`.
        modules: imported before the clock starts; without them it cannot run.
        scheme_modules: the same for URIs of a scheme alone.
        programs: which a scheme needs, by scheme.
        distributions: whose versions are recorded, its own first.
        install: the pip command that brings it.
        schemes: of what it can load: "file" for paths, "s3", "https" and others.
        destinations: "cpu", "cuda".
        settings: those it has, by name, in the order of labels.
        default_label: the label without settings.
        needs_tensorizer: whether it loads the copy in tensorizer's format.
        broken: why it can run nowhere, as of a plugin that cannot be loaded.
    """

    name: str
    title: str
    adapter: str
    modules: tuple[str, ...]
    role: Role = "peer"
    scheme_modules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    programs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    distributions: tuple[str, ...] = ()
    install: str = ""
    schemes: frozenset[str] = frozenset({"file"})
    destinations: frozenset[str] = frozenset({"cpu", "cuda"})
    settings: Mapping[str, SettingRule] = field(default_factory=dict)
    default_label: str = "defaults"
    needs_tensorizer: bool = False
    broken: str = ""

    def check(self, settings: Mapping[str, Setting]) -> None:
        """Refuses settings that it does not have.

        Raises:
            UsageError: naming what there is.
        """
        for name, value in settings.items():
            rule = self.settings.get(name)
            if rule is None:
                known = ", ".join(self.settings) or "it has none"
                raise UsageError(f"{self.name} has no setting {name}; its settings: {known}")
            if not rule.accepts(value):
                kinds = " or ".join(kind.__name__ for kind in rule.kinds)
                wanted = ", ".join(map(repr, rule.choices)) or f"a value of type {kinds}"
                raise UsageError(f"{name} of {self.name} is {value!r}; it is {wanted}")

    def label(self, settings: Mapping[str, Setting]) -> str:
        """The settings in words, those that were given."""
        self.check(settings)
        words = [
            rule.words.format(_say(settings[name], rule)) for name, rule in self.settings.items() if name in settings
        ]
        return ", ".join(words) or self.default_label

    def environment(self, settings: Mapping[str, Setting]) -> dict[str, str]:
        """The variables that carry those of the settings that the contender reads from there."""
        return {
            rule.variable: str(settings[name])
            for name, rule in self.settings.items()
            if rule.variable is not None and name in settings
        }

    def modules_for(self, schemes: frozenset[str], settings: Mapping[str, Setting]) -> tuple[str, ...]:
        """What is imported before the clock starts, for URIs of these schemes: torch only where its tensors come."""
        named = [name for scheme in sorted(schemes) for name in self.scheme_modules.get(scheme, ())]
        unused = "torch" if settings.get("framework") == "numpy" else None
        return tuple(name for name in (*self.modules, *named) if name != unused)

    def programs_for(self, schemes: frozenset[str]) -> tuple[str, ...]:
        """What it runs to read URIs of these schemes."""
        return tuple(sorted({program for scheme in schemes for program in self.programs.get(scheme, ())}))


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
    """All contenders by name: the built-in ones, then those of entry points. One that cannot be loaded says so."""
    return _contenders(tuple(sys.path))


@cache
def _contenders(path: tuple[str, ...]) -> Mapping[str, Contender]:
    """Those that the distributions on this path have: to look through all of their metadata takes a while."""
    from slipstream.bench.builtin_contenders import BUILTIN

    found = {contender.name: contender for contender in BUILTIN}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        contender = _load_plugin(point, taken=frozenset(found))
        found[contender.name] = contender
    return found


def find_contender(name: str) -> Contender:
    """The contender of that name.

    Raises:
        UsageError: there is none; the message lists those there are.
    """
    known = contenders()
    if name not in known:
        raise UsageError(f'there is no contender "{name}"; there are {", ".join(known)}')
    return known[name]


def check_availability(
    contender: Contender,
    *,
    destination: str = "cpu",
    schemes: frozenset[str] = frozenset({"file"}),
    settings: Mapping[str, Setting] | None = None,
    python: Path | None = None,
) -> Availability:
    """Whether a contender can load URIs of these schemes to that destination, with the packages of an interpreter.

    Args:
        contender: which.
        destination: "cpu", "cuda:0".
        schemes: of the URIs; "file" is a path.
        settings: those that it would be given.
        python: the interpreter; None is this one.

    Raises:
        UsageError: it has no such settings.
    """
    if contender.broken:
        return Availability(contender.broken)
    settings = settings or {}
    contender.check(settings)
    try:
        packages = find_packages(python, contender.modules_for(schemes, settings), contender.distributions)
        reasons = _reasons(contender, destination, schemes, settings, packages, python)
        return Availability(next(reasons, ""), packages.versions)
    except BenchError as error:
        return Availability(str(error))


def schemes_of(uris: tuple[str, ...]) -> frozenset[str]:
    """The schemes of URIs, with "file" for paths."""
    return frozenset(uri.partition("://")[0].lower() if "://" in uri else "file" for uri in uris)


def _reasons(
    contender: Contender,
    destination: str,
    schemes: frozenset[str],
    settings: Mapping[str, Setting],
    packages: Packages,
    python: Path | None,
) -> Iterator[str]:
    """Why a contender cannot run, the most telling reason first."""
    device = destination.partition(":")[0]
    if device not in contender.destinations:
        only = " or ".join(sorted(contender.destinations))
        yield "needs CUDA" if only == "cuda" else f"loads to {only} only"
    for scheme in sorted(schemes - contender.schemes):
        yield "cannot read local files" if scheme == "file" else f"cannot read {scheme}://"
    if missing := [name for name in contender.modules_for(schemes, settings) if name not in packages.modules]:
        yield f"not installed ({', '.join(missing)}){f': {contender.install}' if contender.install else ''}"
    for name, value in settings.items():
        for need in contender.settings[name].needed(value):
            yield from _unmet(contender, need, device, schemes, packages)
    for program in contender.programs_for(schemes):
        if shutil.which(program) is None:
            yield f"there is no program {program}"
    if device == "cuda" and (why := why_no_cuda(python)):
        yield why


def _unmet(contender: Contender, need: Need, device: str, schemes: frozenset[str], packages: Packages) -> Iterator[str]:
    if need.destination and need.destination != device:
        yield "needs CUDA" if need.destination == "cuda" else f"loads to {need.destination} only"
    if need.schemes and not schemes <= need.schemes:
        yield f"reads {', '.join(sorted(need.schemes))} only"
    installed = packages.versions.get(contender.distributions[0], "") if contender.distributions else ""
    if need.version and installed and _release(installed) < _release(need.version):
        yield f"needs {contender.distributions[0]} {need.version} or newer; installed is {installed}"


def _release(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with: candidates of a release count as the release."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(number) for number in found[0].split(".")) if found else ()


def _say(value: Setting, rule: SettingRule) -> str:
    if rule.unit == "bytes" and isinstance(value, int):
        for factor, unit in _BINARY_UNITS:
            if value >= factor and value % factor == 0:
                return f"{value // factor} {unit}"
        return f"{value} bytes"
    return str(value)


def _load_plugin(point: EntryPoint, taken: frozenset[str]) -> Contender:
    origin = f" of {point.dist.name}" if point.dist is not None else ""
    try:
        found = point.load()
    except Exception as error:
        return _broken(point, f"the entry point {point.value}{origin} cannot be loaded: {error}")
    if not isinstance(found, Contender):
        return _broken(point, f"the entry point {point.value}{origin} names no Contender")
    if found.name in taken:
        return _broken(point, f"there is a contender {found.name} already", name=f"{found.name}{origin}")
    return found


def _broken(point: EntryPoint, why: str, *, name: str = "") -> Contender:
    return Contender(name=name or point.name, title=name or point.name, adapter="", modules=(), broken=why)
