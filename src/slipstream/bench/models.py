"""The model under test: any checkpoint, or a synthetic one that is made once; and what its bytes are.

    model = find_model("llama-3-8b", cache, layers=8)      a layout's name, a path, or a URI
    model.files, model.facts                               safetensors files, and what records say of them
    model.reference()                                      every tensor's digest: what each sample is compared with
    model.tensorizer_copy()                                the same in tensorizer's format, converted once

What is made lies in a cache directory and is found there by the next run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from slipstream.bench.records import ModelFacts

Report = Callable[[str, int, int], object]
"""Shown how it goes: what is being done, bytes so far, bytes in all."""


@dataclass(frozen=True)
class Model:
    """A checkpoint on this machine's disk.

    Attributes:
        name: of its layout, or of its file or directory.
        layers: how many of the layout's layers; None is all, or no layout.
        files: its safetensors files, in order; absolute.
        cache: where what is derived from it lies.
    """

    name: str
    layers: int | None
    files: tuple[Path, ...]
    cache: Path

    @property
    def facts(self) -> ModelFacts:
        """What records say of it."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return self.facts.nbytes

    def reference(self, report: Report | None = None) -> Path:
        """The file that has every tensor's digest; made if need be, or if a file has changed since."""
        raise NotImplementedError

    def tensorizer_copy(self, *, python: Path | None = None, report: Report | None = None) -> Path:
        """The model in tensorizer's own format; converted if need be, by the tensorizer of that interpreter."""
        raise NotImplementedError


def find_model(
    model: str,
    cache: Path,
    *,
    layers: int | None = None,
    storage_options: Mapping[str, object] | None = None,
    report: Report | None = None,
) -> Model:
    """The model of that name, path or URI; synthesised or downloaded if need be.

    Raises:
        UsageError: there is no such layout, or it has no such layers.
        BlobNotFoundError: there is no such path, or no safetensors file in it.
    """
    raise NotImplementedError
