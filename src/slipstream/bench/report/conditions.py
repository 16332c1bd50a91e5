"""Under which conditions the figures came about: storages and whether throttles held, machines, versions, commits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from slipstream.bench.records import Record, StorageFacts
from slipstream.bench.report.document import Column, Row, Table
from slipstream.bench.report.published import read_published
from slipstream.bench.report.results import CONTENDERS, Entry, Place, contender_title
from slipstream.bench.report.special import is_special
from slipstream.bench.report.wording import NOTHING, gigabytes

_KINDS = {
    "directory": "a directory",
    "throttled": "a directory, throttled",
    "object-store": "an object store",
    "embedded-s3": "a SeaweedFS server on this machine",
    "range-server": "a range server on this machine",
}
_TOLERANCE = 0.1
_SMALL_BYTES = 1_000_000_000
_MACHINE = {
    "cpu": "Processor",
    "cores": "Cores",
    "cpu_quota": "Processors' worth of time allowed",
    "memory_bytes": "Memory",
    "gpu": "GPU",
    "virtualisation": "Virtualisation",
    "system": "System",
    "kernel": "Kernel",
    "architecture": "Architecture",
    "python": "Python",
}


def storages_table(records: Iterable[Record]) -> Table:
    """Each storage of each run: what it is, what was emulated, and whether the limits held."""
    rows: dict[tuple[str, ...], None] = {}
    for record in records:
        facts = record.storage
        rows[
            (
                facts.name,
                _KINDS.get(facts.kind, facts.kind) + (" (emulated)" if facts.emulated else ""),
                _limits(facts),
                _held(facts),
                facts.uri or NOTHING,
                _mount(facts.mount),
            )
        ] = None
    columns = tuple(
        Column(title, numeric=False)
        for title in ("Storage", "What it is", "Limits that were set", "Did they hold?", "Where", "Mount")
    )
    notes = ("Held: what a plain reader measured under the limits, before the samples.",)
    return Table("Storages", columns, tuple(Row(cells) for cells in rows), notes)


def machines_table(places: Sequence[Place]) -> Table:
    """The machines, one column each."""
    machines = {place.machine_number: place.machine for place in places}
    names = [name for name in _MACHINE if any(name in machine for machine in machines.values())]
    names += sorted({name for machine in machines.values() for name in machine} - set(_MACHINE))
    columns = (
        Column("", numeric=False),
        *(
            Column(f"Machine {number}" if len(machines) > 1 else "Machine", numeric=False)
            for number in sorted(machines)
        ),
    )
    rows = [
        Row((_MACHINE.get(name, name), *(_machine_fact(machines[number], name) for number in sorted(machines))))
        for name in names
    ]
    return Table("Hardware and system", columns, tuple(rows))


def versions_table(records: Iterable[Record]) -> Table:
    """Which versions of what were measured; several where the files hold several."""
    found: dict[str, dict[tuple[str, str], None]] = {}
    commits: dict[str, None] = {}
    for record in records:
        if record.versions and record.role != "floor":
            found.setdefault(record.contender, {}).update(dict.fromkeys(record.versions.items()))
        if record.commit:
            commits[record.commit] = None
    order = [*CONTENDERS, *sorted(set(found) - set(CONTENDERS))]
    rows = [
        Row((contender_title(name), ", ".join(f"{package} {version}" for package, version in found[name])))
        for name in order
        if name in found
    ]
    if commits:
        rows.append(Row(("Commit of slipstream", ", ".join(commits))))
    columns = (Column("Loader", numeric=False), Column("Versions", numeric=False))
    return Table("Versions", columns, tuple(rows))


def warnings(places: Sequence[Place], records: Sequence[Record]) -> list[str]:
    """What a reader must know before believing a figure."""
    found = []
    for place in places:
        found += [f"{place.where}: {words}" for facts in place.storages if (words := _limit_warning(facts))]
        if is_special(place.experiment):
            continue
        if place.floor is None and place.experiment != "vllm":
            found.append(f"{place.where}, {place.model_title}: no raw floor was measured.")
        for entry in place.loaders:
            if entry.figures and not entry.verified:
                found.append(f"{place.where}: the tensors of {entry.setting} were not verified in every sample.")
        if place.loaders and place.model.nbytes < _SMALL_BYTES:
            found.append(_small_model(place))
    if any(len(entry.figures) == 1 for place in places for entry in place.loaders):
        found.append("Some figures are of one sample only: how much they scatter is not known.")
    if any("+" in record.commit for record in records if record.role == "slipstream"):
        found.append("slipstream's sources had changes that are in no commit.")
    for entry in (entry for place in places for entry in place.loaders):
        if mixed := _mixed(entry):
            found.append(f"The samples of {entry.title} are of {mixed}: medians mix them.")
    return list(dict.fromkeys(found))


def published_table() -> Table:
    """Where the published figures come from."""
    published = read_published()
    model = published.model
    rows = [
        ("Document", f"{published.source['title']}, Appendix A to D"),
        ("Date", published.source["date"] or published.source["date_note"]),
        ("Hardware", ", ".join(published.hardware.values())),
        *((storage["title"], _published_storage(storage["throughput_mib_per_s"], storage["iops"]))
          for storage in published.storages.values()),
        ("Model", f"{model['title']}, {model['size_as_printed']} in {model['files']} file. {model['nbytes_note']}"),
        ("Destination", published.destination),
        ("Versions", ", ".join(f"{name} {version}" for name, version in published.software.items())),
        ("Method", published.source["method"]),
    ]  # fmt: skip
    columns = (Column("", numeric=False), Column("As published", numeric=False))
    return Table("The published figures' source", columns, tuple(Row(cells) for cells in rows))


def _small_model(place: Place) -> str:
    words = f"{place.where}: a model of {gigabytes(place.model.nbytes)} shows what starting up takes, not loading; "
    if place.experiment == "vllm":
        return words + "what loading takes of it stands in a column of its own."
    return words + "its seconds per GB, and ratios of them, say nothing of a large one."


def _limits(facts: StorageFacts) -> str:
    limits = facts.limits
    parts = []
    if "bytes_per_s" in limits:
        parts.append(_mib_per_s(limits["bytes_per_s"]))
    if "iops" in limits:
        parts.append(f"{limits['iops']:,.0f} IOPS")
    if "read_ahead_kib" in limits:
        parts.append(f"read-ahead {limits['read_ahead_kib']:,.0f} KiB")
    if "connection_bytes_per_s" in limits:
        parts.append(f"{limits['connection_bytes_per_s'] / 1e6:,.0f} MB/s for each connection")
    if "first_byte_s" in limits:
        parts.append(f"{limits['first_byte_s'] * 1e3:,.0f} ms to the first byte")
    known = {"bytes_per_s", "iops", "read_ahead_kib", "connection_bytes_per_s", "first_byte_s"}
    parts += [f"{name} {value:g}" for name, value in limits.items() if name not in known]
    return ", ".join(parts) or "none"


def _held(facts: StorageFacts) -> str:
    if not facts.limits:
        return NOTHING
    parts = []
    for name, held in facts.held.items():
        limit = facts.limits.get(name)
        parts.append(_measured(name, held) + (f", {held / limit * 100:.0f} % of the limit" if limit else ""))
    verdict = _limit_warning(facts)
    words = "; ".join(parts)
    if not parts:
        return "not measured"
    return f"no: {words}" if verdict else f"yes: {words}"


def _measured(name: str, value: float) -> str:
    if name.startswith("device_"):
        return f"without it {_measured(name.removeprefix('device_'), value)}"
    if name == "iops":
        return f"{value:,.0f} IOPS"
    if name == "first_byte_s":
        return f"{value * 1e3:,.0f} ms to the first byte"
    if name == "connection_bytes_per_s":
        return f"{value / 1e6:,.0f} MB/s for each connection"
    return _mib_per_s(value) if name == "bytes_per_s" else f"{name} {value:g}"


def _limit_warning(facts: StorageFacts) -> str:
    """What is wrong with a storage's limits, or ""."""
    if not facts.limits:
        return ""
    if not facts.held:
        return "whether the limits held was not measured." if facts.emulated else ""
    for name, held in facts.held.items():
        limit = facts.limits.get(name)
        if limit and name == "first_byte_s" and held < limit * (1 - _TOLERANCE):
            return "the first byte came sooner than the limit allows."
        if limit and name != "first_byte_s" and held > limit * (1 + _TOLERANCE):
            return f"the limit did not hold: a plain reader measured {held / limit:.2f} × of it ({name})."
    rate, reached = facts.limits.get("bytes_per_s"), facts.held.get("bytes_per_s")
    if rate and reached and reached < rate * (1 - _TOLERANCE):
        return (
            f"the storage itself is slower than the limit: a plain reader reached {reached / rate * 100:.0f} % of it."
        )
    return ""


def _mixed(entry: Entry) -> str:
    """Which several commits or versions the samples of one entry are of, or ""."""
    good = [record for record in entry.records if record.figures is not None]
    if entry.role == "slipstream":
        commits = sorted({record.commit for record in good})
        return f"{len(commits)} commits ({', '.join(commits)})" if len(commits) > 1 else ""
    packages: dict[str, set[str]] = {}
    for record in good:
        for package, version in record.versions.items():
            packages.setdefault(package, set()).add(version)
    mixed = [f"{package} {' and '.join(sorted(those))}" for package, those in packages.items() if len(those) > 1]
    return f"several versions ({', '.join(mixed)})" if mixed else ""


def _mount(mount: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in mount.items() if value) or NOTHING


def _machine_fact(machine: Mapping[str, str | int], name: str) -> str:
    value = machine.get(name, NOTHING)
    if name == "memory_bytes" and isinstance(value, int):
        return f"{value / 2**30:.1f} GiB"
    return str(value)


def _mib_per_s(rate: float) -> str:
    return f"{rate / 2**20:,.0f} MiB/s"


def _published_storage(throughput: int | None, iops: int | None) -> str:
    if throughput is None or iops is None:
        return "in the region of the instance; no limits are named"
    return f"{throughput:,} MiB/s, {iops:,} IOPS"
