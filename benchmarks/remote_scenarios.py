"""What is measured over HTTP: which contenders stream from which server, and what is asked of slipstream."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from contenders import Contender, Role
from remote_contenders import (
    CURL,
    CURL_PROCESSES,
    INSPECT,
    OURS,
    OURS_FIXED,
    RECEIVE,
    RUNAI_S3,
    RUNAI_S3_FIXED,
    WATCHED,
)
from remote_servers import FaultyServer, Ground, ModelServer, NginxServer, SeaweedServer
from sample import Sample
from scenarios import Medians, Target, best
from slipstream.testing.range_faults import CloseEarly, Delay, Reset, Stall, Status
from slipstream.testing.range_server import Faults, When

StartServer = Callable[[Ground], ModelServer]
LIMIT_RATE = "90m"  # what S3 gives to one connection: 85 to 90 MB/s
# The lock is also watched at a pace that leaves the processors idle, where no holder of the lock waits for one.
_PACE = "40m"
FIRST_BYTE_DELAY_S = 0.030
_SOME_BYTES = 1 << 20


@dataclass(frozen=True)
class Row:
    """One row of a table: who streams from where.

    Attributes:
        contender: who.
        server: a name in the scenario's `servers`.
        label: the row's name, where it is not the contender's.
        verify: whether what comes is compared with the files.
        sweep: whether it is measured only when asked for.
    """

    contender: Contender
    server: str
    label: str = ""
    verify: bool = False
    sweep: bool = False

    @property
    def name(self) -> str:
        """As the table shows it."""
        return self.label or self.contender.name

    @property
    def role(self) -> Role:
        """The contender's."""
        return self.contender.role


@dataclass(frozen=True)
class RemoteScenario:
    """One table.

    Attributes:
        name: as on the command line.
        title: above the table.
        servers: how they are started, by the names that rows use.
        rows: in the order of the table.
        targets: what is asked of slipstream here, from the rows' medians.
        model: the large one, or the one of many shards.
        shows: what the table is about.
    """

    name: str
    title: str
    servers: Mapping[str, StartServer]
    rows: tuple[Row, ...]
    targets: Callable[[Medians], Sequence[Target]]
    model: Literal["large", "shards"] = "large"
    shows: Literal["speed", "headers", "lock"] = "speed"


def _rows(server: str, *contenders: Contender, sweep: bool = False) -> tuple[Row, ...]:
    return tuple(Row(contender, server, sweep=sweep) for contender in contenders)


def _ratio(one: Sample | None, other: Sample | None) -> float | None:
    return one.seconds / other.seconds if one and other else None


def _cpu_ratio(one: Sample | None, other: Sample | None) -> float | None:
    return one.cpu_seconds_per_gigabyte / other.cpu_seconds_per_gigabyte if one and other else None


def _speed_targets(medians: Medians, *, times: float, cpu: float | None = None) -> list[Target]:
    ours, defaults = medians.get(OURS.name), medians.get(RUNAI_S3.name)
    fixed = best(medians, [*RUNAI_S3_FIXED.values()])
    targets = [Target("throughput / Run:ai's at its defaults", _ratio(defaults, ours), least=times)]
    if fixed:
        targets.append(Target("throughput / Run:ai's best of 8, 16, 32", _ratio(fixed, ours), least=times))
    if cpu is not None:
        targets.append(Target("CPU s/GB / Run:ai's at its defaults", _cpu_ratio(ours, defaults), most=cpu))
        if fixed:
            targets.append(Target("CPU s/GB / Run:ai's best of 8, 16, 32", _cpu_ratio(ours, fixed), most=cpu))
    return targets


def _limited_targets(medians: Medians) -> list[Target]:
    ours = medians.get(OURS.name)
    return [
        Target("throughput / the best fixed number's", _ratio(best(medians, [*OURS_FIXED.values()]), ours), least=0.9),
        Target("throughput / Run:ai's at its defaults", _ratio(medians.get(RUNAI_S3.name), ours), least=2.0),
    ]


CLEAN, FAULTY = "slipstream, no faults", "slipstream, 2.5 % faults"


def _fault_targets(medians: Medians) -> list[Target]:
    return [Target("time / the time without faults", _ratio(medians.get(FAULTY), medians.get(CLEAN)), most=1.5)]


def _header_targets(medians: Medians) -> list[Target]:
    ours = medians.get(INSPECT.name)
    return [Target("milliseconds for all headers", ours.seconds * 1000 if ours else None, most=200)]


def _memory_targets(medians: Medians) -> list[Target]:
    return [
        Target(f"peak MiB above the model's size: {name}", (sample.peak_bytes - sample.bytes) / 2**20, most=128)
        for name, sample in medians.items()
        if name.startswith(OURS.name)
    ]


def _no_targets(medians: Medians) -> list[Target]:
    return []


_ONE_KIND = When(probability=0.02 / 3)
MIXED_FAULTS = Faults(
    Status(503, when=_ONE_KIND),
    Reset(_SOME_BYTES, when=_ONE_KIND),
    CloseEarly(_SOME_BYTES, when=_ONE_KIND),
    Stall(_SOME_BYTES, when=When(probability=0.005)),
)
_PLAIN = {"nginx": NginxServer}
_TLS = {"nginx": partial(NginxServer, tls=True)}
_FLOORS = (CURL[8], CURL[16], CURL_PROCESSES, RECEIVE[8], RECEIVE[16])
_SWEEP = _rows("nginx", *(OURS_FIXED[connections] for connections in (4, 8, 16, 32)), sweep=True)
_RACE = (*_rows("nginx", OURS), *_SWEEP, *_rows("nginx", RUNAI_S3, *RUNAI_S3_FIXED.values(), *_FLOORS))
REMOTE_SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        RemoteScenario(
            "plain", "Plain HTTP: s3:// from nginx", _PLAIN, _RACE, partial(_speed_targets, times=2.5, cpu=0.5)
        ),
        RemoteScenario("tls", "TLS: s3:// from nginx", _TLS, _RACE, partial(_speed_targets, times=2.0, cpu=0.6)),
        RemoteScenario(
            "limited", "Limited: 90 MB/s for each connection, plain HTTP, s3:// from nginx",
            {"nginx": partial(NginxServer, limit_rate=LIMIT_RATE)},
            _rows("nginx", OURS, *OURS_FIXED.values(), RUNAI_S3, RUNAI_S3_FIXED[32], CURL[32], CURL[64]),
            _limited_targets,
        ),
        RemoteScenario(
            "seaweedfs", "SeaweedFS: s3:// from a real S3 server", {"seaweedfs": SeaweedServer},
            (Row(OURS, "seaweedfs", verify=True), *_rows("seaweedfs", RUNAI_S3, *RUNAI_S3_FIXED.values())),
            partial(_speed_targets, times=1.4),
        ),
        RemoteScenario(
            "faults", "Faults: 2 % of requests fail (503, reset, short body), 0.5 % stall",
            {"clean": partial(FaultyServer, faults=Faults()), "faulty": partial(FaultyServer, faults=MIXED_FAULTS)},
            (Row(OURS, "clean", CLEAN, verify=True), Row(OURS, "faulty", FAULTY, verify=True)),
            _fault_targets,
        ),
        RemoteScenario(
            "headers", "Headers: 64 shards, found through their index; the server takes 30 ms for a first byte",
            {
                "slow": partial(
                    FaultyServer, faults=Faults(Delay(FIRST_BYTE_DELAY_S)), index="model.safetensors.index.json"
                )
            },
            _rows("slow", INSPECT), _header_targets, model="shards", shows="headers",
        ),
        RemoteScenario(
            "memory", "Memory: the peak above the model's size",
            {"plain": NginxServer, "tls": partial(NginxServer, tls=True)},
            (
                Row(OURS, "plain", "slipstream, plain"), Row(OURS_FIXED[64], "plain", "slipstream, plain, 64 at once"),
                Row(OURS, "tls", "slipstream, TLS"), Row(OURS_FIXED[64], "tls", "slipstream, TLS, 64 at once"),
                Row(RUNAI_S3, "plain", "Run:ai S3, plain"),
            ),
            _memory_targets,
        ),
        RemoteScenario(
            "lock", "Lock: how long the interpreter lock is held",
            {
                "plain": NginxServer, "tls": partial(NginxServer, tls=True),
                "paced": partial(NginxServer, limit_rate=_PACE),
                "paced-tls": partial(NginxServer, limit_rate=_PACE, tls=True),
            },
            (
                Row(WATCHED, "plain", "plain, full speed"), Row(WATCHED, "paced", "plain, 40 MB/s a connection"),
                Row(WATCHED, "tls", "TLS, full speed"), Row(WATCHED, "paced-tls", "TLS, 40 MB/s a connection"),
            ),
            _no_targets, shows="lock",
        ),
    )
}  # fmt: skip
