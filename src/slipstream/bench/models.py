"""The model under test: any checkpoint, or a synthetic one that is made once; and what its bytes are.

    model = find_model("llama-3-8b", cache, layers=8)      a layout's name, a path, or a URI
    model.files, model.facts                               safetensors files, and what records say of them
    model.reference()                                      every tensor's digest: what each sample is compared with
    model.tensorizer_copy()                                the same in tensorizer's format, converted once

What is made lies in a cache directory and is found there by the next run:

    CACHE/models/llama-3-8b-8-layers/      synthesised
    CACHE/downloads/llama-0f3a…/           fetched, where the model was given as a URI
    CACHE/references/…json                 digests, for the files as they are now: by path, size and time of change
    CACHE/tensorizer/…/model.tensors       converted
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import slipstream
from slipstream.bench.child.reference import make_reference
from slipstream.bench.downloads import download_checkpoint
from slipstream.bench.errors import BenchError
from slipstream.bench.interpreters import child_command, child_environment, find_packages
from slipstream.bench.records import ModelFacts
from slipstream.bench.sample_process import SampleProcess
from slipstream.errors import UsageError
from slipstream.testing.layouts import LAYOUTS, Layout, find_layout
from slipstream.testing.synthetic import write_checkpoint

Report = Callable[[str, int, int], object]
"""Shown how it goes: what is being done, bytes so far, bytes in all."""

_CONVERSION_TIMEOUT_S = 3600.0
_UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Model:
    """A checkpoint on this machine's disk.

    Attributes:
        name: of its layout, or of its file or directory.
        layers: how many of the layout's layers; None is all, or no layout.
        files: its safetensors files, in order; absolute.
        cache: where what is derived from it lies.
        facts: what records say of it.
    """

    name: str
    layers: int | None
    files: tuple[Path, ...]
    cache: Path
    facts: ModelFacts

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return self.facts.nbytes

    def reference(self, report: Report | None = None) -> Path:
        """The file that has every tensor's digest; made if need be, or if a file has changed since.

        Raises:
            BenchError: the files are no checkpoint.
        """
        target = self.cache / "references" / f"{self._fingerprint()}.json"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)

            def tell(done: int, total: int) -> None:
                if report is not None:
                    report(f"computing the checksums of {self.name}", done, total)

            try:
                make_reference([str(file) for file in self.files], str(target), tell)
            except (OSError, ValueError) as error:
                raise BenchError(f"the checksums of {self.name} could not be computed: {error}") from error
        return target

    def tensorizer_copy(self, *, python: Path | None = None, report: Report | None = None) -> Path:
        """The model in tensorizer's own format; converted if need be, by the tensorizer of that interpreter.

        Raises:
            BenchError: there is no tensorizer, or it failed.
        """
        installed = find_packages(python, ("tensorizer",), ("tensorizer",)).versions.get("tensorizer")
        if installed is None:
            raise BenchError("the model cannot be converted: tensorizer is not installed; pip install tensorizer")
        target = self.cache / "tensorizer" / f"{self._fingerprint()}-{installed}" / "model.tensors"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(target.parent)
            self._convert(target, python, report)
        return target

    def _convert(self, target: Path, python: Path | None, report: Report | None) -> None:
        total = sum(file.stat().st_size for file in self.files)

        def tell() -> None:
            if report is not None:
                written = sum(file.stat().st_size for file in _leftovers(target.parent))
                report(f"converting {self.name} for tensorizer", min(written, total), total)

        asked = {"files": [str(file) for file in self.files], "target": str(target), "parent": os.getpid()}
        command = child_command("convert", python)
        try:
            with SampleProcess(command, child_environment(python), name="tensorizer") as process:
                process.ask(asked, "converted", timeout_s=_CONVERSION_TIMEOUT_S, idle=tell)
        finally:
            _remove_leftovers(target.parent)

    def _fingerprint(self) -> str:
        """Changes with the files."""
        statuses = [(str(file), file.stat()) for file in self.files]
        text = json.dumps([(path, status.st_size, status.st_mtime_ns) for path, status in statuses])
        return hashlib.sha256(text.encode()).hexdigest()[:24]


def default_cache() -> Path:
    """Where models and what is derived from them lie, unless one says otherwise."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "slipstream" / "bench"


def find_model(
    model: str,
    cache: Path,
    *,
    layers: int | None = None,
    storage_options: Mapping[str, object] | None = None,
    report: Report | None = None,
) -> Model:
    """The model of that name, path or URI; synthesised or downloaded if need be.

    Args:
        model: the name of a layout ("./NAME" is a path), a file or directory, or a URI.
        cache: a directory, made if need be.
        layers: how many layers of a layout are made.
        storage_options: how a URI's store is reached.
        report: shown how it goes, in this thread.

    Raises:
        UsageError: the layout has no such layers, or there are layers and no layout.
        BlobNotFoundError: there is no such path, or no safetensors file in it.
        SlipstreamError: it could not be written or fetched.
    """
    cache = cache.expanduser().absolute()
    if model in LAYOUTS:
        return _synthesise(LAYOUTS[model], cache, layers, report)
    if layers is not None:
        raise UsageError(f"layers are chosen of a layout ({', '.join(LAYOUTS)}), and {model} is none")
    if "://" in model:
        files = download_checkpoint(model, cache / "downloads", storage_options=storage_options, report=report)
        return _describe(model.partition("?")[0].rstrip("/").rpartition("/")[2], None, files, cache)
    path = Path(model).expanduser().absolute()
    files = tuple(Path(blob.uri) for blob in slipstream.inspect(str(path)).blobs)
    return _describe(path.name if path.is_dir() else path.stem, None, files, cache)


def make_deep_model(name: str, cache: Path, *, layers: int, files: int, report: Report | None = None) -> Model:
    """A checkpoint of a layout's kind with as many layers as one likes, in as many files; written if need be.

    Args:
        name: of the layout.
        cache: a directory, made if need be.
        layers: how many.
        files: how many, with an index; one has none.
        report: shown how it goes, in this thread.

    Raises:
        UsageError: there is no such layout, or more files than tensors.
        SlipstreamError: it could not be written.
    """
    layout = replace(find_layout(name), layers=layers)
    return _synthesise(layout, cache.expanduser().absolute(), layers, report, files=files)


def no_model(cache: Path) -> Model:
    """Stands for the model where slipstream itself is what is measured."""
    facts = ModelFacts(name="slipstream", layers=None, nbytes=0, tensors=0, files=0)
    return Model(name=facts.name, layers=None, files=(), cache=cache, facts=facts)


def _synthesise(layout: Layout, cache: Path, layers: int | None, report: Report | None, *, files: int = 1) -> Model:
    specs = layout.specs(layers)
    whole = layers is None or layers == LAYOUTS[layout.name].layers
    folder = cache / "models" / (layout.name if whole else f"{layout.name}-{layers}-layers")
    if files > 1:
        folder = folder.with_name(f"{folder.name}-{files}-files")
    if not any(folder.glob("*.safetensors")):

        def tell(done: int, total: int) -> None:
            if report is not None:
                report(f"writing {folder.name}", done, total)

        write_checkpoint(layout, folder, layers=layers, shards=files, progress=tell)
    model = _describe(layout.name, None if whole else layers, tuple(sorted(folder.glob("*.safetensors"))), cache)
    found = (model.facts.tensors, model.facts.nbytes, model.facts.files)
    if found != (len(specs), sum(spec.nbytes for spec in specs), files):
        raise BenchError(f"{folder} holds something else than the first {layers} layers of {layout.name}; remove it")
    return model


def _describe(name: str, layers: int | None, files: tuple[Path, ...], cache: Path) -> Model:
    checkpoint = slipstream.inspect([str(file) for file in files])
    facts = ModelFacts(
        name=name, layers=layers, nbytes=checkpoint.nbytes, tensors=len(checkpoint.tensors), files=len(files)
    )
    return Model(name=name, layers=layers, files=files, cache=cache, facts=facts)


def _leftovers(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.name.endswith(_UNFINISHED))


def _remove_leftovers(folder: Path) -> None:
    """Removes what conversions that were killed left; that of a process that still runs is its own."""
    for path in list(_leftovers(folder)):
        owner = path.name.removesuffix(_UNFINISHED).rpartition(".")[2]
        if not Path("/proc", owner).exists():
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
