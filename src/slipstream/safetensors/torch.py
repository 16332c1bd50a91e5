"""`safetensors.torch`, for paths and URIs: replace the import, and the rest of the code stays.

    from slipstream.safetensors.torch import load_file, save_file

What has nothing to read from a file (`save_file`, `load` and so on) is safetensors' own.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, cast

from slipstream.options import Options
from slipstream.safetensors.opening import safe_open
from slipstream.safetensors.others import pass_on

if TYPE_CHECKING:
    import torch

    from slipstream.safetensors.arguments import Device

__all__ = ["load_file", "load_model", "safe_open"]


def __getattr__(name: str) -> object:
    return pass_on("torch", name, ("load", "save", "save_file", "save_model"))


def load_file(
    filename: str | os.PathLike[str],
    device: Device = "cpu",
    *,
    backend: str = "mmap",
    options: Options | None = None,
    storage_options: Mapping[str, object] | None = None,
) -> dict[str, torch.Tensor]:
    """Loads a checkpoint as PyTorch tensors.

    Args:
        filename, device, backend, options, storage_options: as in `safe_open`. A directory, a prefix or an index is
            loaded as a whole.

    Returns:
        Name to tensor, in the order in which they are stored. Ownership as in `safe_open`.

    Raises:
        As `safe_open` and its `get_tensor`.
    """
    with safe_open(filename, "pt", device, backend=backend, options=options, storage_options=storage_options) as opened:
        return cast("dict[str, torch.Tensor]", opened.get_tensors())


def load_model(
    model: torch.nn.Module,
    filename: str | os.PathLike[str],
    strict: bool = True,
    device: Device = "cpu",
    *,
    backend: str = "mmap",
    options: Options | None = None,
    storage_options: Mapping[str, object] | None = None,
) -> tuple[set[str], list[str]]:
    """Loads a checkpoint into a module, of whose tied parameters the file has one name each.

    Args:
        model: what to load into; values are copied into its own memory, as `load_state_dict` does.
        strict: whether names that only one side has are an error.
        filename, device, backend, options, storage_options: as in `load_file`.

    Returns:
        (missing, unexpected): names that the file lacks, and names that the module lacks.

    Raises:
        RuntimeError: strict, and the names do not agree; or shapes do not.
        Others: as `load_file`.
    """
    loaded = load_file(filename, device, backend=backend, options=options, storage_options=storage_options)
    others = find_other_names(model.state_dict(), preferred=loaded)
    answer = model.load_state_dict(loaded, strict=False)
    missing, unexpected = set(answer.missing_keys), list(answer.unexpected_keys)
    for name in others:
        if name in missing:
            missing.remove(name)
        else:
            unexpected.append(name)  # the file has both names, and the module has room for one tensor
    if strict and (missing or unexpected):
        raise RuntimeError(_explain(type(model).__name__, missing, unexpected))
    return missing, unexpected


def find_other_names(tensors: Mapping[str, torch.Tensor], preferred: Iterable[str]) -> list[str]:
    """The names of tied tensors that can be done without.

    Tensors that overlap in one storage are one group, of which one name is kept: the first, in order of the alphabet,
    of those that cover the whole storage, and of those rather one that is preferred.

    Raises:
        RuntimeError: no name of a group covers its storage.
    """
    wanted = set(preferred)
    others: list[str] = []
    for names in _group_by_memory(tensors):
        complete = {name for name in names if _covers_storage(tensors[name])}
        if not complete:
            raise RuntimeError(
                f"the tensors {', '.join(sorted(names))} share memory, and none of them covers all of it: "
                "make those that are to be loaded contiguous tensors of their own"
            )
        kept = min(complete & wanted or complete)
        others += sorted(names - {kept})
    return others


def _group_by_memory(tensors: Mapping[str, torch.Tensor]) -> list[set[str]]:
    by_storage: dict[tuple[object, ...], list[tuple[int, int, str]]] = defaultdict(list)
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        if tensor.device.type != "meta" and storage.data_ptr() and storage.nbytes():
            area = (tensor.data_ptr(), _end(tensor), name)
            by_storage[tensor.device, storage.data_ptr(), storage.nbytes()].append(area)
    groups: list[set[str]] = []
    for areas in by_storage.values():
        reached = 0
        for start, end, name in sorted(areas):
            if start >= reached:
                groups.append(set())
            groups[-1].add(name)
            reached = end
    return groups


def _end(tensor: torch.Tensor) -> int:
    """The address behind the tensor's last element."""
    if not tensor.numel():
        return tensor.data_ptr()
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr() + (last + 1) * tensor.element_size()


def _covers_storage(tensor: torch.Tensor) -> bool:
    storage = tensor.untyped_storage()
    return tensor.data_ptr() == storage.data_ptr() and tensor.numel() * tensor.element_size() == storage.nbytes()


def _explain(model: str, missing: set[str], unexpected: list[str]) -> str:
    lines = [f"Error(s) in loading state_dict for {model}:"]
    if missing:
        lines.append("    Missing key(s) in state_dict: " + ", ".join(f'"{name}"' for name in sorted(missing)))
    if unexpected:
        lines.append("    Unexpected key(s) in state_dict: " + ", ".join(f'"{name}"' for name in sorted(unexpected)))
    return "\n".join(lines)
