"""Storages: each has the model where it says, says what it is, counts, and leaves nothing behind."""

from __future__ import annotations

import mmap
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import slipstream
from slipstream.bench.errors import SampleError
from slipstream.bench.models import Model
from slipstream.bench.page_cache import cached_bytes, make_warm
from slipstream.bench.records import StorageFacts
from slipstream.bench.storages.base import PlacedModel, Storage, StorageUnavailableError
from slipstream.bench.storages.cgroups import Limits
from slipstream.bench.storages.choice import Ground, make_storage, parse_places
from slipstream.bench.storages.directory import DirectoryStorage
from slipstream.bench.storages.embedded_s3 import EmbeddedS3
from slipstream.bench.storages.holding import describe_holding
from slipstream.bench.storages.object_store import REAL_STORE_PAUSE_S, ObjectStore
from slipstream.bench.storages.range_servers import StoreLimits
from slipstream.bench.storages.range_store import RangeStore
from slipstream.bench.storages.scratch import scratch_folder
from slipstream.bench.storages.throttle import LEFTOVERS, Throttle
from slipstream.bench.storages.throttled import ThrottledVolume
from slipstream.bench.storages.undo import started_at
from slipstream.errors import UsageError
from slipstream.testing import nginx as nginx_module
from slipstream.testing import seaweedfs as seaweedfs_module
from slipstream.testing.process_watch import run_in_child, see_descriptors, wait_for
from slipstream.testing.seaweedfs import SeaweedFS
from tests.bench.volumes import model as model
from tests.bench.volumes import throttled_volume as throttled_volume
from tests.bench.volumes import volume as volume

ROOT = Path(__file__).parents[2]
BUCKET = "bench-storages"
NOBODY = 65534
QUICK_STORE = StoreLimits(connection_bytes_per_s=1_000_000_000, first_byte_s=0.001)


class Told:
    """What a storage reported."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, what: str, done: int, total: int) -> None:
        self.texts.append(what)

    def about(self, word: str) -> int:
        return sum(word in text for text in self.texts)


@pytest.fixture
def told() -> Told:
    return Told()


def assert_is_model(placed: PlacedModel, model: Model) -> None:
    """What slipstream loads from there is the model."""
    found = slipstream.load([*placed.uris], framework="numpy", storage_options=placed.storage_options)
    wanted = slipstream.load([str(file) for file in model.files], framework="numpy")
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(found[name], tensor)


@contextmanager
def waiting_process() -> Iterator[int]:
    """A process that does nothing until it is ended."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        try:
            yield process.pid
        finally:
            process.kill()


# Directories.


def test_a_model_on_the_same_file_system_stays_where_it_is(model: Model, tmp_path: Path, told: Told) -> None:
    """A directory of the file system that the model is on gets no copy of it."""
    with DirectoryStorage("gp3", tmp_path) as storage:
        storage.place(model, told)
        assert storage.begin(0).files == model.files
        assert list(tmp_path.iterdir()) == []
        assert told.texts == []


def test_a_model_is_copied_once_to_another_volume(model: Model, volume: Path, told: Told) -> None:
    """Another volume gets a copy of model and converted model; the next run finds both."""
    copy = model.cache / "copy.tensors"
    copy.write_bytes(b"in tensorizer's format")
    with DirectoryStorage("gp3", volume) as storage:
        storage.place(model, told, tensorizer_file=copy)
        placed = storage.begin(0)
        assert all(file.is_relative_to(volume) for file in placed.files)
        assert_is_model(placed, model)
        assert placed.tensorizer_file is not None
        assert placed.tensorizer_file.is_relative_to(volume)
        assert placed.tensorizer_file.read_bytes() == copy.read_bytes()
        assert str(placed.tensorizer_file) == placed.tensorizer_uri
        assert storage.facts().mount["filesystem"] == "ext4"
    assert told.about("copying")
    again = Told()
    with DirectoryStorage("gp3", volume) as storage:
        storage.place(model, again, tensorizer_file=copy)
    assert again.texts == []
    assert [path.name for path in volume.rglob("*.unfinished")] == []


def test_a_changed_model_is_copied_again(model: Model, volume: Path, told: Told, tmp_path: Path) -> None:
    """A copy of an earlier file of that name is replaced."""
    file = tmp_path / "other.tensors"
    for content in (b"first", b"second"):
        file.write_bytes(content)
        with DirectoryStorage("gp3", volume) as storage:
            storage.place(model, told, tensorizer_file=file)
            placed = storage.begin(0)
            assert placed.tensorizer_file is not None
            assert placed.tensorizer_file.read_bytes() == content


def test_a_full_volume_is_refused_before_anything_is_copied(
    model: Model, volume: Path, told: Told, tmp_path: Path
) -> None:
    """Where there is no room the error says how much is wanted and free, and nothing is written."""
    large = tmp_path / "large.tensors"
    with large.open("wb") as file:
        file.truncate(10 << 30)  # without a byte on the disk
    before = sorted(volume.rglob("*"))
    storage = DirectoryStorage("gp3", volume)
    with storage, pytest.raises(StorageUnavailableError, match=r"takes 10\.7 GB .* GB are free"):
        storage.place(model, told, tensorizer_file=large)
    assert sorted(volume.rglob("*")) == before


def test_prepared_cold_and_warm(model: Model, told: Told) -> None:
    """After `prepare` the kernel has nothing of the files in its page cache, or all of it, as was asked."""
    size = sum(file.stat().st_size for file in model.files)
    with DirectoryStorage("disk") as storage:
        storage.place(model, told)
        make_warm(model.files)
        storage.prepare(os.getpid())
        assert cached_bytes(model.files) == 0
        storage.prepare(os.getpid(), page_cache="warm")
        assert cached_bytes(model.files) >= size


def test_a_file_that_stays_cached_is_refused(model: Model, told: Told) -> None:
    """A file that another process holds in the page cache makes the sample an error, not a warm figure."""
    with DirectoryStorage("disk") as storage, model.files[0].open("rb") as file:
        storage.place(model, told)
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as held:
            assert sum(held[::4096]) >= 0
            with pytest.raises(SampleError, match="stay in the page cache"):
                storage.prepare(os.getpid())
        storage.prepare(os.getpid())


def test_counts_what_the_disk_reads(model: Model, volume: Path, told: Told) -> None:
    """The counter of a directory's disk grows by what is read from it."""
    with DirectoryStorage("gp3", volume) as storage:
        storage.place(model, told)
        storage.prepare(os.getpid())
        before = storage.counters().device_read_bytes
        nbytes = sum(len(file.read_bytes()) for file in storage.begin(0).files)
        after = storage.counters().device_read_bytes
    assert before is not None
    assert after is not None
    assert after - before >= nbytes


# Throttled disks.


def volume_at(folder: Path, limits: Limits, probe_s: float = 0.5) -> ThrottledVolume:
    return ThrottledVolume("gp3", limits, folder, probe_s=probe_s)


LIMITS = Limits(bytes_per_s=200 << 20, iops=2000, read_ahead_kib=64)


def test_a_throttled_volume_says_what_it_is_and_that_it_holds(model: Model, throttled_volume: Path, told: Told) -> None:
    """Its facts have the limits, what a reader got under them, and what the disk gave without."""
    with volume_at(throttled_volume, LIMITS) as storage:
        storage.place(model, told)
        facts = storage.facts()
        assert (facts.kind, facts.emulated, facts.name) == ("throttled", True, "gp3")
        assert facts.limits == {"bytes_per_s": 200 << 20, "iops": 2000, "read_ahead_kib": 64}
        assert set(facts.held) == {"bytes_per_s", "iops", "device_bytes_per_s", "device_iops"}
        assert facts.mount["read_ahead_kib"] == "64"
    assert storage.begin(0).files[0].is_relative_to(throttled_volume)
    assert list(LEFTOVERS.glob("*")) == []


@pytest.mark.parametrize(
    ("device", "held", "expected"),
    [
        (
            {"device_bytes_per_s": 2400 << 20, "device_iops": 90_000.0},
            {"bytes_per_s": 1010 << 20, "iops": 15_900.0},
            "gp3: a plain reader gets 1,010 MiB/s, 15,900 IOPS; the limits are 1,000 MiB/s, 16,000 IOPS",
        ),
        (
            {"device_bytes_per_s": 800 << 20, "device_iops": 90_000.0},
            {"bytes_per_s": 790 << 20, "iops": 15_900.0},
            "gp3: a plain reader gets 790 MiB/s, 15,900 IOPS; the limits are 1,000 MiB/s, 16,000 IOPS; the device "
            "gives 800 MiB/s, 90,000 IOPS without them, so 1,000 MiB/s are never reached",
        ),
    ],
)
def test_a_limit_out_of_reach_is_said_to_be(device: dict[str, float], held: dict[str, float], expected: str) -> None:
    """A sentence says what a reader got and, of a limit that the device does not reach, that it was never reached."""
    limits = {"bytes_per_s": float(1000 << 20), "iops": 16_000.0, "read_ahead_kib": 128.0}
    facts = StorageFacts(name="gp3", kind="throttled", emulated=True, uri="/", limits=limits, held={**held, **device})
    assert describe_holding(facts) == expected
    assert describe_holding(replace(facts, held={})) == ""


def test_a_sample_is_put_under_the_limits(model: Model, throttled_volume: Path, told: Told) -> None:
    """`prepare` puts the sample's process into the group, and only what it reads is counted."""
    with volume_at(throttled_volume, LIMITS, 0.01) as storage:
        storage.place(model, told)
        (file,) = storage.begin(0).files
        with waiting_process() as pid:
            storage.prepare(pid)
            assert "slipstream-bench-" in Path(f"/proc/{pid}/cgroup").read_text()
            before = storage.counters()
            file.read_bytes()
            assert storage.counters() == before


def test_a_limit_that_does_not_hold_is_refused(
    model: Model, throttled_volume: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a plain reader is faster than the limit there are no samples, and the throttle is undone."""
    monkeypatch.setattr(Throttle, "add", lambda throttle, pid: None)  # the reader escapes its group
    storage = volume_at(throttled_volume, LIMITS)
    with storage, pytest.raises(StorageUnavailableError, match=r"does not hold.*--unthrottled"):
        storage.place(model, told)
    assert list(LEFTOVERS.glob("*")) == []


def test_a_throttle_without_rights_is_known_before_the_run(model: Model) -> None:
    """Entering says that this process may not throttle, and what can be done instead."""

    def enter() -> None:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        with ThrottledVolume("gp3", LIMITS, Path("/")):
            pass

    complaint = run_in_child(enter)
    assert "StorageUnavailableError" in complaint
    assert "--unthrottled" in complaint


# Object stores.


def bucket_of(seaweedfs: SeaweedFS) -> ObjectStore:
    seaweedfs.create_bucket(BUCKET)
    return ObjectStore(
        "s3", f"s3://{BUCKET}/some/prefix", storage_options=seaweedfs.storage_options, pause_s=0, inherit=False
    )


def test_a_model_is_uploaded_once(seaweedfs: SeaweedFS, model: Model, told: Told, tmp_path: Path) -> None:
    """A store gets the model and its copy for tensorizer, and is found to have them by the next run."""
    copy = tmp_path / "made.tensors"
    copy.write_bytes(os.urandom(9 << 20))
    with bucket_of(seaweedfs) as storage:
        storage.place(model, told, tensorizer_file=copy)
        placed = storage.begin(0)
        assert_is_model(placed, model)
        assert placed.files == ()
        assert not placed.is_local
        assert placed.tensorizer_uri is not None
        assert placed.tensorizer_uri.startswith(f"s3://{BUCKET}/some/prefix/")
    assert told.about("uploading")
    again = Told()
    with bucket_of(seaweedfs) as storage:
        storage.place(model, again, tensorizer_file=copy)
        assert storage.begin(0).uris == placed.uris
    assert again.texts == []


def test_any_receiver_can_read_its_urls(seaweedfs: SeaweedFS, model: Model, told: Told) -> None:
    """The URLs that plain receivers are given have the model's files, in their order."""
    with bucket_of(seaweedfs) as storage:
        storage.place(model, told)
        for url, file in zip(storage.begin(0).urls, model.files, strict=True):
            with urllib.request.urlopen(url) as answer:
                assert answer.read() == file.read_bytes()


def test_peers_find_it_in_their_environment(seaweedfs: SeaweedFS, model: Model, told: Told) -> None:
    """What slipstream gets as options, others get as the variables that they know."""
    with bucket_of(seaweedfs) as storage:
        storage.place(model, told)
        environment = storage.begin(0).environment
    assert environment["AWS_ENDPOINT_URL"] == seaweedfs.endpoint
    assert environment["AWS_SECRET_ACCESS_KEY"] == seaweedfs.secret_access_key
    assert environment["AWS_DEFAULT_REGION"] == environment["AWS_REGION"] == "us-east-1"
    assert environment["RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING"] == "0"


def test_a_real_store_takes_this_users_variables(
    seaweedfs: SeaweedFS, model: Model, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is reached by the environment is reached by every contender, and waits two minutes."""
    bucket_of(seaweedfs)
    monkeypatch.setenv("AWS_ENDPOINT_URL", seaweedfs.endpoint)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweedfs.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweedfs.secret_access_key)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with ObjectStore("s3", f"s3://{BUCKET}/by-environment") as storage:
        storage.place(model, told)
        placed = storage.begin(0)
        assert placed.environment["AWS_SECRET_ACCESS_KEY"] == seaweedfs.secret_access_key
        assert_is_model(placed, model)
        assert storage.pause_s == REAL_STORE_PAUSE_S == 120
        assert (storage.facts().kind, storage.facts().emulated) == ("object-store", False)


def test_a_store_on_loopback_is_counted_there(seaweedfs: SeaweedFS, model: Model, told: Told) -> None:
    """The counter grows by what is received from the store."""
    with bucket_of(seaweedfs) as storage:
        storage.place(model, told)
        before = storage.counters().network_received_bytes
        assert_is_model(storage.begin(0), model)
        after = storage.counters().network_received_bytes
    assert before is not None
    assert after is not None
    assert after - before >= model.nbytes


def test_a_bucket_that_is_not_there_is_named(seaweedfs: SeaweedFS, model: Model, told: Told) -> None:
    """A store that cannot be written to is an error that says which, and why."""
    storage = ObjectStore("s3", "s3://no-such-bucket/here", storage_options=seaweedfs.storage_options)
    with storage, pytest.raises(StorageUnavailableError, match=r"cannot be placed at s3://no-such-bucket/here/"):
        storage.place(model, told)


# Servers of their own.


def need_seaweedfs() -> None:
    if (reason := seaweedfs_module.why_unavailable()) is not None:
        pytest.skip(reason)


def test_an_embedded_store_serves_and_counts(model: Model, tmp_path: Path, told: Told) -> None:
    """Its own server has the model, and says how much it has sent of it."""
    need_seaweedfs()
    with EmbeddedS3("s3", tmp_path) as storage:
        storage.place(model, told)
        placed = storage.begin(0)
        storage.prepare(os.getpid())
        before = storage.counters().network_received_bytes
        assert_is_model(placed, model)
        after = storage.counters().network_received_bytes
        assert before is not None
        assert after is not None
        assert model.nbytes <= after - before <= 2 * model.nbytes
        facts = storage.facts()
        assert (facts.kind, facts.emulated) == ("embedded-s3", True)
        assert facts.mount["served from"] == "the page cache"


def test_an_embedded_store_keeps_its_data_and_nothing_else(model: Model, tmp_path: Path, told: Told) -> None:
    """After it no process, descriptor or folder is left but the data, which the next one does not upload again."""
    need_seaweedfs()
    descriptors = see_descriptors()
    for expected in (True, False):
        report = Told()
        with EmbeddedS3("s3", tmp_path) as storage:
            storage.place(model, report)
            assert storage._server is not None
            pid = storage._server.pid
            assert_is_model(storage.begin(0), model)
        assert bool(report.about("uploading")) is expected
        assert pid is not None
        assert started_at(pid) is None
        assert see_descriptors() <= descriptors
        assert [path.name for path in tmp_path.iterdir()] == ["seaweedfs-llama-tiny-1-layers"]


def test_two_servers_never_share_their_data(model: Model, tmp_path: Path, told: Told) -> None:
    """A second benchmark on the same data is refused."""
    need_seaweedfs()
    with EmbeddedS3("s3", tmp_path) as first, EmbeddedS3("s3", tmp_path) as second:
        first.place(model, told)
        with pytest.raises(StorageUnavailableError, match="let it end first"):
            second.place(model, told)


OWNER = """
import sys
from pathlib import Path
from slipstream.bench.models import find_model
from slipstream.bench.storages.choice import Ground, make_storage
cache = Path(sys.argv[2])
ground = Ground(cache=cache, model_folder=cache)
with make_storage("s3", sys.argv[1], ground) as storage:
    storage.place(find_model("llama-tiny", cache, layers=1), lambda what, done, total: None)
    print("placed", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["seaweedfs", "range-server"])
def test_servers_end_with_a_killed_run(kind: str, tmp_path: Path) -> None:
    """SIGKILL of the run: its servers are gone, and the folder that it needed is removed by the next one."""
    if kind == "seaweedfs":
        need_seaweedfs()
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, kind, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "placed\n"
        started = descendants(owner.pid)
        assert started
        os.killpg(owner.pid, signal.SIGKILL)
    wait_for(lambda: all(started_at(pid) is None for pid in started), "a server outlived its run")
    assert list(tmp_path.glob("running-*"))
    with scratch_folder(tmp_path) as folder:
        assert list(tmp_path.glob("running-*")) == [folder]
    assert list(tmp_path.glob("running-*")) == []


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [pid]
    for parent in found:
        found += [child for child, of in parents.items() if of == parent]
    return found[1:]


@pytest.fixture(params=["nginx", "range server"])
def limited(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RangeStore:
    """A store with limits, by either of the servers."""
    missing = nginx_module.why_unavailable()
    if request.param == "nginx" and missing:
        pytest.skip(missing)
    if request.param == "range server":
        monkeypatch.setattr(nginx_module, "why_unavailable", lambda: "it is not there")
    return RangeStore("s3", tmp_path / "cache", QUICK_STORE)


def test_a_store_with_limits_serves_and_counts(limited: RangeStore, model: Model, told: Told) -> None:
    """Either server has the model for S3 clients and for plain receivers, and counts what it sent."""
    with limited as storage:
        storage.place(model, told)
        placed = storage.begin(0)
        storage.prepare(os.getpid())
        before = storage.counters().network_received_bytes
        assert_is_model(placed, model)
        after = storage.counters().network_received_bytes
        assert before is not None
        assert after is not None
        assert model.nbytes <= after - before <= 2 * model.nbytes
        for url, file in zip(placed.urls, model.files, strict=True):
            with urllib.request.urlopen(url) as answer:
                assert answer.read() == file.read_bytes()


def test_a_store_with_limits_says_what_a_connection_got(limited: RangeStore, model: Model, told: Told) -> None:
    """Its facts have the limits, what a plain receiver measured of them, and which server it is."""
    descriptors = see_descriptors()
    with limited as storage:
        storage.place(model, told)
        facts = storage.facts()
        assert (facts.kind, facts.emulated) == ("range-server", True)
        assert facts.limits == {"connection_bytes_per_s": 1e9, "first_byte_s": 0.001}
        assert set(facts.held) == {"connection_bytes_per_s", "first_byte_s"}
        assert facts.held["first_byte_s"] >= 0.001  # a server can be late, and never early
        assert facts.mount["server"] in ("nginx", "range server")
    assert see_descriptors() <= descriptors
    assert not list(storage._cache.iterdir())


# By name.


def ground_at(folder: Path, **settings: bool | float) -> Ground:
    return Ground(cache=folder, model_folder=folder, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "place", "kind"),
    [
        ("gp3", None, ThrottledVolume),
        ("io2", None, ThrottledVolume),
        ("s3", None, EmbeddedS3),
        ("s3", "range-server", RangeStore),
        ("s3", "s3://bucket/prefix", ObjectStore),
        ("s3", "gs://bucket/prefix", ObjectStore),
        ("gp3", "/", DirectoryStorage),
        ("disk", None, DirectoryStorage),
    ],
)
def test_what_a_name_stands_for(tmp_path: Path, name: str, place: str | None, kind: type[object]) -> None:
    """A name is what the command line says, else what is emulated under it; it stays the name in records."""
    storage = make_storage(name, place, ground_at(tmp_path))
    assert type(storage) is kind
    assert storage.name == name


def test_unthrottled_disks_have_another_name(tmp_path: Path) -> None:
    """Figures of the disk as it is never pass for those of the volume."""
    storage = make_storage("gp3", None, ground_at(tmp_path, unthrottled=True))
    assert (storage.name, storage.kind) == ("gp3 unthrottled", "directory")


def test_the_limits_are_the_documents(tmp_path: Path) -> None:
    """gp3 has 1,000 MiB/s and 16,000 IOPS, io2 4,000 MiB/s and 100,000 IOPS, both a cloud's read-ahead."""
    gp3, io2 = (make_storage(name, None, ground_at(tmp_path)) for name in ("gp3", "io2"))
    assert isinstance(gp3, ThrottledVolume)
    assert isinstance(io2, ThrottledVolume)
    assert gp3.limits == Limits(bytes_per_s=1000 << 20, iops=16_000, read_ahead_kib=128)
    assert io2.limits == Limits(bytes_per_s=4000 << 20, iops=100_000, read_ahead_kib=128)


@pytest.mark.parametrize(
    ("place", "pause", "expected"),
    [(None, None, 0.0), ("s3://bucket/x", None, 120.0), ("s3://bucket/x", 3.5, 3.5), (None, 2.0, 2.0)],
)
def test_the_pause_before_samples(tmp_path: Path, place: str | None, pause: float | None, expected: float) -> None:
    """Two minutes for a real store and none for one on this machine, unless one says otherwise."""
    ground = Ground(cache=tmp_path, model_folder=tmp_path, pause_s=pause)
    assert make_storage("s3", place, ground).pause_s == expected


def test_places_on_the_command_line() -> None:
    """NAME=PLACE gives a place, which may have an equals sign; NAME alone is what is emulated under it."""
    assert parse_places(["gp3=/mnt/a=b", "s3"]) == {"gp3": "/mnt/a=b", "s3": "seaweedfs"}


@pytest.mark.parametrize("argument", ["", "=x", "ebs", "ebs="])
def test_places_that_say_nothing(argument: str) -> None:
    """An argument without a place is refused where nothing is emulated under its name."""
    with pytest.raises(UsageError, match="NAME=PLACE"):
        parse_places([argument])


@pytest.mark.parametrize(("name", "place"), [("ebs", None), ("gp3", "/no/such/directory"), ("s3", "minio")])
def test_places_that_are_not_there(tmp_path: Path, name: str, place: str | None) -> None:
    """What is neither a directory, a URI nor one of the words is refused, with what there is."""
    with pytest.raises(UsageError, match="--storage"):
        make_storage(name, place, ground_at(tmp_path))


def test_entering_starts_nothing(tmp_path: Path) -> None:
    """A run may enter all its storages before it begins, to find out which it can have."""
    makers: list[Callable[[], Storage]] = [
        lambda: EmbeddedS3("s3", tmp_path),
        lambda: RangeStore("s3", tmp_path),
        lambda: ObjectStore("s3", "s3://nowhere/x"),
        lambda: DirectoryStorage("disk"),
    ]
    if shutil.which("weed", path=str(Path(sys.executable).parent)) is None:
        makers = makers[1:]
    for make in makers:
        with make():
            pass
    assert list(tmp_path.iterdir()) == []
