"""Which storage a name stands for: what the command line says, else what is emulated under that name.

--storage gp3=/mnt/gp3              a directory of a real volume
--storage s3=s3://bucket/prefix     a real store
--storage s3=range-server           one of the servers below
(nothing)                           gp3, io2: this machine's disk, throttled; s3: SeaweedFS; http: nginx; ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slipstream.bench.storages.base import Storage
from slipstream.bench.storages.cgroups import Limits
from slipstream.bench.storages.directory import DirectoryStorage
from slipstream.bench.storages.embedded_s3 import EmbeddedS3
from slipstream.bench.storages.environment import Environment
from slipstream.bench.storages.faulty_store import MIXED_FAULTS, NO_FAULTS, FaultyStore
from slipstream.bench.storages.object_store import REAL_STORE_PAUSE_S, ObjectStore
from slipstream.bench.storages.range_servers import StoreLimits
from slipstream.bench.storages.range_store import CLOUD, NO_LIMITS, RangeStore
from slipstream.bench.storages.throttled import GP3, IO2, PROBE_S, ThrottledVolume
from slipstream.errors import UsageError
from slipstream.testing.range_server import Faults

CONNECTION_LIMIT = StoreLimits(connection_bytes_per_s=90_000_000)  # what S3 gives to one: 85 to 90 MB/s
PACE = StoreLimits(connection_bytes_per_s=40_000_000)  # leaves the processors idle, so that nobody waits for one


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What storages are made on.

    Attributes:
        cache: a folder for servers' data.
        model_folder: where the model lies.
        pause_s: before each sample from a store; None is as each store has it.
        unthrottled: whether disks are left as they are.
        probe_s: how long it is looked whether a throttle holds.
        storage_options: how real stores are reached.
    """

    cache: Path
    model_folder: Path
    pause_s: float | None = None
    unthrottled: bool = False
    probe_s: float = PROBE_S
    storage_options: Mapping[str, str] = field(default_factory=dict)


MakeStorage = Callable[[str, Ground], Storage]


def _volume(limits: Limits) -> MakeStorage:
    def make(name: str, ground: Ground) -> Storage:
        if ground.unthrottled:
            return DirectoryStorage(f"{name} unthrottled")
        return ThrottledVolume(name, limits, ground.model_folder, probe_s=ground.probe_s)

    return make


def _seaweedfs(name: str, ground: Ground) -> Storage:
    return EmbeddedS3(name, ground.cache, pause_s=ground.pause_s or 0.0)


def _range_server(limits: StoreLimits, *, tls: bool = False) -> MakeStorage:
    def make(name: str, ground: Ground) -> Storage:
        return RangeStore(name, ground.cache, limits, tls=tls, pause_s=ground.pause_s or 0.0)

    return make


def _faulty_server(faults: Faults, *, first_byte_s: float = 0.0) -> MakeStorage:
    return lambda name, ground: FaultyStore(name, ground.cache, faults, first_byte_s=first_byte_s)


# What can be said for a name's place instead of a path or URI, and what each name is where nothing is said.
KINDS: Mapping[str, MakeStorage] = {
    "gp3-throttle": _volume(GP3),
    "io2-throttle": _volume(IO2),
    "seaweedfs": _seaweedfs,
    "range-server": _range_server(CLOUD),
    "disk": lambda name, ground: DirectoryStorage(name),
    "tmpfs": lambda name, ground: DirectoryStorage(name, Path("/dev/shm")),
    "http": _range_server(NO_LIMITS),
    "https": _range_server(NO_LIMITS, tls=True),
    "http-limited": _range_server(CONNECTION_LIMIT),
    "http-paced": _range_server(PACE),
    "https-paced": _range_server(PACE, tls=True),
    "http-faultless": _faulty_server(NO_FAULTS),
    "http-faulty": _faulty_server(MIXED_FAULTS),
    "http-slow": _faulty_server(NO_FAULTS, first_byte_s=CLOUD.first_byte_s),
    "environment": lambda name, ground: Environment(name),
}
_NO_NAMES = ("gp3-throttle", "io2-throttle", "range-server")
DEFAULTS: Mapping[str, str] = {
    "gp3": "gp3-throttle",
    "io2": "io2-throttle",
    "s3": "seaweedfs",
    **{kind: kind for kind in KINDS if kind not in _NO_NAMES},
}


def parse_places(given: Sequence[str]) -> dict[str, str]:
    """The places of storages by their names, of arguments of the form NAME=PLACE or NAME.

    Raises:
        UsageError: an argument of another form.
    """
    places: dict[str, str] = {}
    for argument in given:
        name, _, place = argument.partition("=")
        place = place or DEFAULTS.get(name, "")
        if not name or not place:
            raise UsageError(
                f"--storage {argument} is not of the form NAME=PLACE, with a directory, a URI or one of "
                f"{', '.join(KINDS)} as the place; {', '.join(DEFAULTS)} need none"
            )
        places[name] = place
    return places


def make_storage(name: str, place: str | None, ground: Ground) -> Storage:
    """The storage of a name, at a place or, where that is None, as it is emulated.

    Raises:
        UsageError: no such place, or nothing is emulated under that name.
    """
    place = place or DEFAULTS.get(name)
    if place is None:
        raise UsageError(f"nothing is emulated as {name}; say where it is: --storage {name}=DIRECTORY or {name}=URI")
    if place in KINDS:
        return KINDS[place](name, ground)
    if "://" in place:
        pause_s = REAL_STORE_PAUSE_S if ground.pause_s is None else ground.pause_s
        return ObjectStore(name, place, storage_options=ground.storage_options, pause_s=pause_s)
    directory = Path(place).expanduser().absolute()
    if not directory.is_dir():
        raise UsageError(
            f"--storage {name}={place}: there is no such directory, and it is no URI, nor one of {', '.join(KINDS)}"
        )
    return DirectoryStorage(name, directory)
