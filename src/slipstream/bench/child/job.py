"""What one sample loads, as adapters see it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

Tensors = Iterator[tuple[str, Any]]
"""What an adapter hands out: names, and torch tensors or numpy arrays."""


@dataclass
class Job:
    """What to load.

    Attributes:
        adapter: "module:function" of the contender's adapter; a module that begins with a dot is in this package.
        modules: imported before the clock starts.
        distributions: whose versions are reported.
        programs: which the adapter runs.
        settings: the contender's.
        uris: the model's safetensors files: absolute paths, or URIs.
        urls: the same as plain URLs, signed where need be; none for local paths.
        sizes: of these files, in bytes.
        tensorizer_uri: the model in tensorizer's format, if there is such a copy.
        storage_options: how slipstream reaches the store. Others have it in their environment.
        destination: "cpu", "cuda:0".
        names: a glob that selects tensors, or None for all.
        keep: whether every tensor is held until the end.
        touch_in_time: whether results' pages are touched inside the timed region, or after it.
        reference: the file with every tensor's digest, or None where nothing is verified.
        parent: the process that waits for the sample; without it there is none.
        whole_files: set by an adapter that hands out whole safetensors files, as arrays under their names.
        discarded_bytes: set by an adapter that throws away what it reads: how much that was.
        notes: filled by the adapter: what it says about how it loaded. JSON values.
    """

    adapter: str
    modules: list[str] = field(default_factory=list)
    distributions: list[str] = field(default_factory=list)
    programs: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    uris: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    tensorizer_uri: str | None = None
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    destination: str = "cpu"
    names: str | None = None
    keep: bool = True
    touch_in_time: bool = True
    reference: str | None = None
    parent: int | None = None
    whole_files: bool = False
    discarded_bytes: int = 0
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def on_cuda(self) -> bool:
        """Whether the tensors go to a GPU."""
        return self.destination.startswith("cuda")

    @property
    def framework(self) -> str:
        """Whose tensors are wanted: "torch" or "numpy"."""
        return str(self.settings.get("framework", "torch"))

    def wants(self, name: str) -> bool:
        """Whether the tensor of that name is selected."""
        return self.names is None or fnmatchcase(name, self.names)

    def refuse_names(self) -> None:
        """For adapters that can only load everything."""
        if self.names is not None:
            raise ValueError("this contender loads whole files; leave the selection of names away")
