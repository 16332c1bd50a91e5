"""One sample: what is measured is what was handed out, and that is the model; and nothing is left afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slipstream.bench.child import reference
from slipstream.bench.contenders import Contender, SettingRule
from slipstream.bench.errors import SampleError
from slipstream.bench.models import Model, find_model
from slipstream.bench.page_cache import make_cold, make_warm
from slipstream.bench.records import Setting
from slipstream.bench.sampling import SampleRequest, SampleResult, take_sample
from slipstream.bench.storages.base import Counters, PlacedModel
from slipstream.errors import UsageError
from slipstream.testing.checkpoints import write_safetensors
from slipstream.testing.process_watch import wait_for
from tests.bench.interpreters import make_interpreter

ODD = Path(__file__).parent / "odd"
SECRET = "a-secret-access-key"
ROWS = 300  # of 1,024 float32: several tensors of more than a MiB


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Two files of a few tensors, one of them misaligned, one empty, one scalar."""
    folder = tmp_path_factory.mktemp("model")
    made = np.random.default_rng(0)
    weights = {f"layers.{number}.weight": made.bytes(ROWS * 4096) for number in range(4)}
    first = {name: ("F32", [ROWS, 1024], data) for name, data in list(weights.items())[:2]}
    second = {name: ("F32", [ROWS, 1024], data) for name, data in list(weights.items())[2:]}
    others = {"odd": ("U8", [3], b"abc"), "empty": ("F32", [0, 7], b""), "scalar": ("F32", [], made.bytes(4))}
    write_safetensors(folder / "a.safetensors", {**first, **others})
    write_safetensors(folder / "b.safetensors", second)
    return find_model(str(folder), tmp_path_factory.mktemp("cache"))


@pytest.fixture
def placed(model: Model) -> PlacedModel:
    """The model where it is."""
    return PlacedModel(model=model, uris=tuple(map(str, model.files)), files=model.files)


@pytest.fixture(autouse=True)
def odd_loaders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples find the odd loaders."""
    monkeypatch.setenv("PYTHONPATH", str(ODD), prepend=":")


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No test leaves a process or a descriptor."""
    before = _children(), set(os.listdir("/proc/self/fd"))
    yield
    assert _children() <= before[0]
    assert set(os.listdir("/proc/self/fd")) <= before[1]


def _children() -> set[str]:
    found = set[str]()
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError):  # a thread may end meanwhile
            found.update(Path(f"/proc/self/task/{thread}/children").read_text().split())
    return found


def _odd(function: str, **kinds: type) -> Contender:
    settings = {name: SettingRule(kinds=(kind,)) for name, kind in kinds.items()}
    adapter = f"odd_loaders:{function}"
    return Contender(name=function, title=function, adapter=adapter, modules=("odd_loaders",), settings=settings)


def _take(
    function: str,
    placed: PlacedModel,
    prepare: Callable[[int], None] = lambda pid: None,
    **how: object,
) -> SampleResult:
    return take_sample(SampleRequest(contender=_odd(function), placed=placed, **how), prepare)  # type: ignore[arg-type]


def test_measures_and_verifies(placed: PlacedModel) -> None:
    """A sample has its figures, and the checksum is that of the model, whoever loads it."""
    taken = _take("copied", placed)
    figures = taken.figures
    facts = placed.model.facts
    assert (figures.tensors, figures.nbytes) == (facts.tensors, facts.nbytes)
    assert figures.first_tensor_s is not None
    assert 0 < figures.first_tensor_s <= figures.seconds
    assert figures.cpu_s is not None
    assert figures.cpu_s > 0
    assert figures.peak_memory_bytes is not None
    assert figures.peak_memory_bytes >= facts.nbytes
    assert taken.verified
    assert taken.checksum == _take("mapped", placed).checksum
    assert taken.checksum.startswith("sha256:")
    assert taken.versions["numpy"] == np.__version__
    assert (figures.device_read_bytes, figures.network_received_bytes) == (None, None)


def test_every_page_is_touched(placed: PlacedModel) -> None:
    """What a loader only mapped is in the page cache afterwards, and was in memory: lazy loaders gain nothing."""
    taken = _take("mapped", placed, lambda pid: make_cold(placed.files))
    size = sum(path.stat().st_size for path in placed.files)
    growth, peak = taken.figures.page_cache_growth_bytes, taken.figures.peak_memory_bytes
    assert growth is not None
    assert growth >= size
    assert peak is not None
    assert peak >= placed.model.nbytes
    assert taken.notes["cached_before_bytes"] == 0
    warm = _take("mapped", placed, lambda pid: make_warm(placed.files))
    assert warm.figures.page_cache_growth_bytes == 0


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("other_byte", "has other bytes"),
        ("recycled", "has other bytes"),
        ("missing", "is missing"),
        ("twice", "was handed out twice"),
        ("extra", "ghost is not part of the model"),
        ("other_dtype", "is I32, not F32"),
        ("other_shape", "has the shape"),
    ],
)
def test_something_else_than_the_model_is_no_sample(placed: PlacedModel, function: str, words: str) -> None:
    """One bit, one tensor, one dtype or one shape that is not the model's: a failed sample, and no figure."""
    with pytest.raises(SampleError) as raised:
        _take(function, placed)
    assert words in str(raised.value)
    assert function in str(raised.value)


@pytest.mark.parametrize("by", [reference.SHA256, reference.XXH3])
def test_bytes_are_compared_by_either_hash(placed: PlacedModel, tmp_path: Path, by: str) -> None:
    """Both tell one bit, and the checksum is the same by both: that of the model."""
    if by == reference.XXH3:
        pytest.importorskip("xxhash")
    known = reference.make_reference([str(path) for path in placed.files], str(tmp_path / "reference"))
    if by == reference.SHA256:  # as it is made where there is no xxhash
        for facts in known["tensors"].values():
            facts.pop(reference.XXH3, None)
    files = [(str(path), np.fromfile(path, np.uint8)) for path in placed.files]
    right = reference.compare(reference.handed_out(files, whole_files=True), known, names=None)
    assert (right.by, right.differences, right.checksum) == (by, [], known["checksum"])
    assert right.compared == placed.model.facts.tensors
    files[0][1][-1] ^= 1
    wrong = reference.compare(reference.handed_out(files, whole_files=True), known, names=None)
    assert (len(wrong.differences), wrong.checksum) == (1, "")


def test_a_selection(placed: PlacedModel) -> None:
    """Of a selection, exactly those tensors are wanted; a contender that hands out more has failed."""
    taken = _take("selected", placed, names="layers.*")
    assert (taken.figures.tensors, taken.verified) == (4, True)
    assert taken.checksum != _take("copied", placed).checksum
    with pytest.raises(SampleError, match="not part of the model"):
        _take("copied", placed, names="layers.*")


def test_tensors_that_are_dropped(placed: PlacedModel) -> None:
    """Where each tensor is dropped before the next, names and shapes are checked, and bytes are not called verified."""
    taken = _take("copied", placed, keep=False)
    assert (taken.verified, taken.checksum) == (False, "")
    assert taken.figures.nbytes == placed.model.nbytes
    with pytest.raises(SampleError, match="is missing"):
        _take("missing", placed, keep=False)


def test_touching_afterwards(placed: PlacedModel) -> None:
    """Touching may be timed apart, where it would be most of what is timed."""
    taken = _take("mapped", placed, touch="after")
    assert taken.notes["touch_s"] > 0
    assert "touch_s" not in _take("mapped", placed).notes


def test_without_verification_the_count_is_checked_all_the_same(placed: PlacedModel) -> None:
    """Whoever hands out too little has failed, also where no bytes are compared."""
    taken = _take("copied", placed, verify=False)
    assert (taken.verified, taken.checksum) == (False, "")
    with pytest.raises(SampleError, match="handed out"):
        _take("missing", placed, verify=False)


def test_what_is_thrown_away_is_counted(placed: PlacedModel) -> None:
    """A reader that keeps nothing must have read all of the files."""
    contender = _odd("discarding", short=int)
    taken = take_sample(SampleRequest(contender=contender, placed=placed), lambda pid: None)
    assert taken.figures.nbytes == sum(path.stat().st_size for path in placed.files)
    assert (taken.figures.first_tensor_s, taken.verified) == (None, False)
    request = SampleRequest(contender=contender, placed=placed, settings={"short": 1})
    with pytest.raises(SampleError, match="handed out"):
        take_sample(request, lambda pid: None)


def test_counters_are_read_around_the_load(placed: PlacedModel) -> None:
    """The figures are differences: after it was prepared, and once the last tensor was there."""
    order: list[str] = []
    readings = iter([Counters(100, 1000), Counters(150, 1001)])

    def read() -> Counters:
        order.append("counted")
        return next(readings)

    request = SampleRequest(contender=_odd("copied"), placed=placed)
    taken = take_sample(request, lambda pid: order.append("prepared"), read)
    assert order == ["prepared", "counted", "counted"]
    assert (taken.figures.device_read_bytes, taken.figures.network_received_bytes) == (50, 1)
    nothing = take_sample(request, lambda pid: None, Counters)
    assert (nothing.figures.device_read_bytes, nothing.figures.network_received_bytes) == (None, None)


def test_prepares_a_process_that_waits(placed: PlacedModel) -> None:
    """It is prepared when its modules are loaded and nothing of the model is read: in time for a cgroup."""

    def prepare(pid: int) -> None:
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert "numpy" in maps
        assert str(placed.files[0]) not in maps
        assert os.getpgid(pid) == pid != os.getpgid(0)  # Ctrl-C is not for it

    _take("mapped", placed, prepare)


def test_a_sample_that_may_not_be_taken(placed: PlacedModel) -> None:
    """What the preparation raises comes through, and the process is gone."""
    pids: list[int] = []

    def refuse(pid: int) -> None:
        pids.append(pid)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _take("copied", placed, refuse)
    assert not Path(f"/proc/{pids[0]}").exists()


def test_what_a_library_prints_does_no_harm(placed: PlacedModel) -> None:
    """Standard output is the library's to fill, also by programs that it runs; notes lose their secrets."""
    taken = _take("noisy", placed)
    assert taken.verified
    assert taken.notes["url"] == "https://host/key?(redacted)"


@pytest.fixture
def with_secret(placed: PlacedModel) -> PlacedModel:
    """The model at a store with credentials."""
    return replace(placed, environment={"AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "nowhere"})


def test_a_contender_that_raises(with_secret: PlacedModel) -> None:
    """The reason is its message, on one line, without the secret and the signature that it shows."""
    with pytest.raises(SampleError) as raised:
        _take("failing", with_secret)
    text = str(raised.value)
    assert text == "failing failed: ValueError: no (redacted) at https://host/key?(redacted) of https://host"


@pytest.mark.parametrize(
    ("function", "words"), [("exiting", "ended with exit code 3"), ("killed", "SIGKILL, perhaps for want of memory")]
)
def test_a_contender_that_ends(with_secret: PlacedModel, function: str, words: str) -> None:
    """The reason is how it ended and what it wrote last, shortened and without secrets."""
    with pytest.raises(SampleError) as raised:
        _take(function, with_secret)
    text = str(raised.value)
    assert words in text
    assert SECRET not in text
    assert len(text) < 600
    assert ("last words (redacted)" in text) == (function == "exiting")


@pytest.mark.parametrize("adapter", ["no_such_module:load", "odd_loaders:no_such_function", ".adapters.none:load"])
def test_an_adapter_that_is_not_there(placed: PlacedModel, adapter: str) -> None:
    """It is a failed sample that says so."""
    contender = Contender(name="odd", title="odd", adapter=adapter, modules=())
    with pytest.raises(SampleError, match=r"odd failed: (ModuleNotFound|Attribute)Error"):
        take_sample(SampleRequest(contender=contender, placed=placed), lambda pid: None)


def test_an_interpreter_that_is_not_there(placed: PlacedModel, tmp_path: Path) -> None:
    """It is a failed sample that says so."""
    with pytest.raises(SampleError, match="cannot be started"):
        _take("copied", placed, python=tmp_path / "none")


def test_a_gpu_that_is_not_there(placed: PlacedModel) -> None:
    """A sample that cannot have its destination is a failed one, with torch's reason."""
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SampleError, match=r"copied failed: .*CUDA"):
        _take("copied", placed, destination="cuda:0")


def test_settings_that_there_are_not(placed: PlacedModel) -> None:
    """They are refused before anything is started."""
    with pytest.raises(UsageError):
        _take("copied", placed, settings={"speed": 3})


def test_a_contender_that_hangs(placed: PlacedModel, tmp_path: Path) -> None:
    """After its time it is ended, with the programs that it started."""
    ids = tmp_path / "ids"
    request = SampleRequest(
        contender=_odd("hanging", ids=str), placed=placed, settings={"ids": str(ids)}, timeout_s=5.0
    )
    with pytest.raises(SampleError, match="was not measured after 5 s"):
        take_sample(request, lambda pid: None)
    for pid in ids.read_text().split():
        wait_for(lambda pid=pid: _is_gone(pid), f"process {pid} was left")  # type: ignore[misc]


def test_ends_with_the_benchmark(placed: PlacedModel, tmp_path: Path) -> None:
    """Where the benchmark is killed in the middle of a sample, the sample's process is gone with it."""
    ids = tmp_path / "ids"
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from slipstream.bench.contenders import Contender, SettingRule\n"
        "from slipstream.bench.models import find_model\n"
        "from slipstream.bench.sampling import SampleRequest, take_sample\n"
        "from slipstream.bench.storages.base import PlacedModel\n"
        "folder, cache, ids = sys.argv[1:]\n"
        "model = find_model(folder, Path(cache))\n"
        "contender = Contender(name='hanging', title='', adapter='odd_loaders:hanging', modules=(),\n"
        "                      settings={'ids': SettingRule(kinds=(str,))})\n"
        "placed = PlacedModel(model=model, uris=tuple(map(str, model.files)), files=model.files)\n"
        "take_sample(SampleRequest(contender=contender, placed=placed, settings={'ids': ids}), lambda pid: None)\n"
    )
    folder = placed.files[0].parent
    with subprocess.Popen([sys.executable, "-c", program, folder, tmp_path / "cache", ids]) as benchmark:
        wait_for(ids.exists, "the sample did not start")
        benchmark.send_signal(signal.SIGKILL)
    process, grandchild = ids.read_text().split()
    wait_for(lambda: _is_gone(process), "the sample's process was left")
    os.kill(int(grandchild), signal.SIGKILL)  # this one never asked to end with anybody


def _is_gone(pid: str) -> bool:
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


def test_another_interpreter(placed: PlacedModel, tmp_path: Path) -> None:
    """A sample is taken where slipstream is not installed, with the packages of that interpreter and no others."""
    python = make_interpreter(tmp_path / "venv", ["numpy", "safetensors"])
    absent = subprocess.run([python, "-I", "-c", "import slipstream"], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in absent.stderr
    from slipstream.bench.builtin_contenders import SAFETENSORS

    settings: Mapping[str, Setting] = {"framework": "numpy"}
    request = SampleRequest(contender=SAFETENSORS, placed=placed, settings=settings, python=python)
    taken = take_sample(request, lambda pid: None)
    assert taken.verified
    assert taken.notes["compared_by"] == reference.SHA256  # it has no xxhash
    assert taken.checksum == _take("copied", placed).checksum
    assert set(taken.versions) == {"python", "numpy", "safetensors"}
