"""install(): code that was written for safetensors reads through slipstream, and nothing of that remains."""

from __future__ import annotations

import functools
import importlib
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

import slipstream
import slipstream.safetensors
from slipstream.safetensors import SafetensorError, installing
from slipstream.safetensors.installing import Installation, install
from slipstream.testing.seaweedfs import SeaweedFS
from tests.integrations.checkpoints import same, write_varied

ORIGINAL = (safetensors.safe_open,)  # in a tuple, since a global would be replaced as any other
THIRD_PARTY = """
import functools
import safetensors
import safetensors.torch as st
from safetensors import safe_open, safe_open as opener
from safetensors._safetensors_rust import safe_open as from_the_core
from safetensors.torch import load_file, load_model, save_file
from safetensors.numpy import load_file as load_arrays

partly = functools.partial(safe_open, framework="pt")

class Holder:
    open = safe_open

def by_default(path, how=safe_open):
    return how(path, "pt")
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "model.safetensors"
    write_varied(made)
    return made


@pytest.fixture
def importing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a module of other people's code under a name."""
    folder = tmp_path / "others"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    names: list[str] = []

    def import_as(name: str) -> ModuleType:
        (folder / f"{name}.py").write_text(THIRD_PARTY)
        importlib.invalidate_caches()
        names.append(name)
        return importlib.import_module(name)

    yield import_as
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def all_undone() -> Iterator[None]:
    """safetensors' own class stands after each test wherever it stood before, and its stand-in nowhere."""
    before = snapshot()
    yield
    after = snapshot()
    changed = {key for key in before if key in after and after[key] is not before[key]}
    assert not [key for key in changed if ORIGINAL[0] in (before[key], after[key]) or key[0].startswith("safetensors")]
    assert installing._StandIn not in after.values()


def snapshot() -> dict[tuple[str, str], object]:
    """Which class or function stands under which name in which module."""
    return {
        (name, key): value
        for name, module in list(sys.modules.items())
        if isinstance(module, ModuleType) and module is not installing
        for key, value in list(module.__dict__.items())
        if type(value) in (type, FunctionType, type(installing._StandIn))
    }


def opened_by_slipstream(opened: object) -> bool:
    return isinstance(opened, slipstream.safetensors.safe_open)


def note_openings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What slipstream opens from now on."""
    asked: list[str] = []
    plan = slipstream.plan

    def note(uri: str, **given: Any) -> slipstream.ReadPlan:
        asked.append(uri)
        return plan(uri, **given)

    monkeypatch.setattr(slipstream, "plan", note)
    return asked


def test_every_way_to_it_leads_to_slipstream_and_back(path: Path, importing: Any) -> None:
    """Globals under any name, of modules imported before and meanwhile, are slipstream's, then the original again."""
    earlier = importing("imported_earlier")
    with install():
        later = importing("imported_meanwhile")
        for module in (earlier, later):
            for opener in (
                module.safe_open,
                module.opener,
                module.from_the_core,
                module.safetensors.safe_open,
                module.st.safe_open,
            ):
                with opener(path, framework="pt") as opened:
                    assert opened_by_slipstream(opened)
    for module in (earlier, later):
        for opener in (module.safe_open, module.opener, module.from_the_core, module.safetensors.safe_open):
            assert opener is ORIGINAL[0]
        assert module.load_file is safetensors.torch.load_file


def test_load_file_and_load_model_read_through_slipstream(
    path: Path, importing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The functions that other modules hold open their files with slipstream, and give the same."""
    others = importing("with_functions")
    expected = safetensors.torch.load_file(path)
    asked = note_openings(monkeypatch)
    with install():
        found = others.load_file(path)
        arrays = others.load_arrays(path)
        linear = torch.nn.Linear(2, 3)
        others.save_file(linear.state_dict(), path.with_name("linear"))
        other = torch.nn.Linear(2, 3)
        others.load_model(other, str(path.with_name("linear")))
    assert asked == [str(path), str(path), str(path.with_name("linear"))]
    assert list(found) == list(arrays) == list(expected)
    assert all(same(found[name], expected[name]) for name in expected)
    assert torch.equal(other.weight, linear.weight)


def test_copies_that_no_search_finds_are_undone_too(path: Path, importing: Any) -> None:
    """A partial, a class attribute and a default argument made meanwhile open by safetensors itself afterwards."""
    with install():
        others = importing("with_copies")
        for opened in (others.partly(path), others.Holder.open(path, "pt"), others.by_default(path)):
            assert opened_by_slipstream(opened)
    for opened in (others.partly(path), others.Holder.open(path, "pt"), others.by_default(path)):
        assert type(opened) is ORIGINAL[0]


def test_isinstance_goes_on_to_hold(path: Path, importing: Any) -> None:
    """What is opened is an instance of what opened it, by whichever of the two it was opened."""
    others = importing("with_checks")
    before = ORIGINAL[0](path, "pt")
    with install():
        opened = others.safe_open(path, "pt")
        assert isinstance(opened, others.safe_open)
        assert isinstance(before, others.safe_open)
        assert not isinstance(3, others.safe_open)


def test_a_plain_call_holds_until_uninstall(path: Path, importing: Any) -> None:
    """Without a block it holds until it is undone, which may be said twice."""
    others = importing("with_a_call")
    installation = install()
    assert opened_by_slipstream(others.safe_open(path, "pt"))
    assert "active" in repr(installation)
    installation.uninstall()
    installation.uninstall()
    assert others.safe_open is ORIGINAL[0]
    assert "undone" in repr(installation)
    with pytest.raises(slipstream.UsageError, match="call install"), installation:
        pass


def test_an_error_in_the_block_undoes_it(importing: Any) -> None:
    """Leaving by an exception is leaving."""
    others = importing("with_an_error")
    with pytest.raises(KeyError), install():
        raise KeyError("of the caller")
    assert others.safe_open is ORIGINAL[0]


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_installations_overlap(path: Path, first_to_end: int, importing: Any) -> None:
    """The latest that is left gives the options; with the last one everything is undone, whichever that is."""
    others = importing("with_two")
    small, large = slipstream.Options(memory_limit=1), slipstream.Options(memory_limit=1 << 30)
    both = [install(options=small), install(options=large)]
    assert others.safe_open(path, "pt")._archive._blobs.options.memory_limit == 1 << 30
    both[first_to_end].uninstall()
    assert others.safe_open(path, "pt")._archive._blobs.options.memory_limit == (1 << 30, 1)[first_to_end]
    both[1 - first_to_end].uninstall()
    assert others.safe_open is ORIGINAL[0]


def test_many_threads_install_and_open(path: Path, importing: Any) -> None:
    """Installations of many threads come and go, and what is opened meanwhile can always be read."""
    others = importing("with_threads")
    barrier = threading.Barrier(4)

    def work(_: int) -> bool:
        barrier.wait()
        for _ in range(20):
            with install(), others.safe_open(path, "np") as opened:
                if opened.get_tensor("y.odd").shape != (3,) or not opened_by_slipstream(opened):
                    return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    assert others.safe_open is ORIGINAL[0]


def test_what_cannot_be_taken_over_passes_through(path: Path) -> None:
    """Other frameworks, bytes in memory and writing are safetensors' own, also with wrong arguments."""
    with install():
        data = safetensors.torch.save({"a": torch.ones(2)})
        assert torch.equal(safetensors.torch.load(data)["a"], torch.ones(2))
        with safetensors.safe_open(path, framework="flax") as opened:
            assert type(opened) is ORIGINAL[0]
        with pytest.raises(SafetensorError, match="theano"):
            safetensors.safe_open(path, framework="theano")
        with pytest.raises(TypeError):
            safetensors.safe_open(path)  # type: ignore[call-arg]


def test_what_is_open_when_it_ends_reads_on(path: Path) -> None:
    """A file that was opened through slipstream stays so."""
    with install():
        opened = safetensors.safe_open(path, "np")
    assert opened.get_tensor("y.odd").shape == (3,)
    assert opened_by_slipstream(opened)


def test_slipstreams_own_names_are_left_alone() -> None:
    """Who imports slipstream.safetensors keeps what he has."""
    mine = slipstream.safetensors.safe_open
    with install():
        assert slipstream.safetensors.safe_open is mine
    assert slipstream.safetensors.safe_open is mine


def test_a_failure_while_installing_undoes_it(importing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module whose globals refuse leaves nothing installed."""
    others = importing("with_a_failure")

    class Refusing(dict[str, Any]):
        def __setitem__(self, key: str, value: object) -> None:
            raise KeyboardInterrupt

    find = installing._find_globals
    refusing = Refusing(safe_open=ORIGINAL[0])
    monkeypatch.setattr(installing, "_find_globals", lambda value: [*find(value), (refusing, "safe_open")])
    with pytest.raises(KeyboardInterrupt):
        install()
    assert others.safe_open is ORIGINAL[0]
    assert others.st.safe_open is ORIGINAL[0]


def test_load_file_of_an_object_store(seaweedfs: SeaweedFS, path: Path) -> None:
    """safetensors.torch.load_file takes URIs while it is installed, with the storage options of the installation."""
    seaweedfs.create_bucket("installed")
    seaweedfs.upload(path, "installed", "model.safetensors")
    expected = safetensors.torch.load_file(path)
    with install(storage_options=seaweedfs.storage_options):
        found = safetensors.torch.load_file("s3://installed/model.safetensors")
    assert all(same(found[name], expected[name]) for name in expected)
    with pytest.raises(FileNotFoundError):
        safetensors.torch.load_file("s3://installed/model.safetensors")


def test_transformers_reads_through_slipstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that transformers loads from a directory is read by slipstream, with the same logits."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=12, num_attention_heads=4, vocab_size=100
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokens = torch.arange(10).reshape(1, 10)
    expected = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()(tokens).logits
    asked = note_openings(monkeypatch)
    with install():
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(model.eval()(tokens).logits, expected)
    assert set(asked) == {str(tmp_path / "model.safetensors")}


def test_it_is_a_context_manager_of_its_own_type() -> None:
    """`with install() as installation` gives the installation."""
    with install() as installation:
        assert isinstance(installation, Installation)


def test_it_needs_no_pytorch() -> None:
    """Where nobody has imported safetensors.torch, installing does not either."""
    import os
    import subprocess

    program = (
        "import sys, slipstream.safetensors as s\n"
        "with s.install():\n"
        "    assert 'torch' not in sys.modules\n"
        "    import safetensors.numpy\n"
        "    assert safetensors.numpy.safe_open is safetensors.safe_open\n"
        "assert type(safetensors.numpy.safe_open) is type, safetensors.numpy.safe_open\n"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env={**os.environ, "PYTHONPATH": paths})


def test_functools_partial_of_ours_is_untouched(path: Path) -> None:
    """A caller's own partial of slipstream's safe_open works the same inside and outside."""
    mine = functools.partial(slipstream.safetensors.safe_open, framework="np")
    with install():
        assert opened_by_slipstream(mine(path))
    assert opened_by_slipstream(mine(path))
