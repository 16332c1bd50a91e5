"""Fills a PyTorch module with the tensors of a stream."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch

from slipstream.delivery.arrays import stored_shape
from slipstream.errors import ModuleMismatchError
from slipstream.types import ReadPlan

if TYPE_CHECKING:
    from slipstream.delivery.base import Tensor


class ModuleFiller:
    """Copies tensors into a module, once its names and shapes have been compared with the plan."""

    def __init__(self, module: torch.nn.Module, *, strict: bool) -> None:
        self._module = module
        self._strict = strict
        self._slots: dict[str, torch.Tensor] = dict(module.state_dict(keep_vars=True))

    @property
    def keeps(self) -> bool:
        """Whether loaded tensors become the module's own, rather than being copied into what it has."""
        return bool(self._slots) and all(slot.is_meta for slot in self._slots.values())

    def check(self, plan: ReadPlan) -> None:
        """Compares names and shapes; reads and changes nothing.

        Raises:
            ModuleMismatchError: they do not agree.
        """
        shapes = {tensor.name: stored_shape(tensor) for op in plan.ops for tensor in op.tensors}
        if self._strict:
            self._check_names(shapes)
        self._check_shapes(shapes)

    def fill(self, name: str, tensor: Tensor) -> None:
        """Puts one tensor where it belongs; a name that the module lacks is passed over."""
        slot = self._slots.get(name)
        if slot is None:
            return
        assert isinstance(tensor, torch.Tensor)
        if slot.is_meta:
            self._replace(name, slot, tensor)
            return
        with torch.no_grad():
            slot.copy_(tensor)

    def _replace(self, name: str, slot: torch.Tensor, tensor: torch.Tensor) -> None:
        """Takes the tensor itself in place of one without memory, wherever the module has it."""
        new: Any = tensor
        if isinstance(slot, torch.nn.Parameter):
            new = torch.nn.Parameter(tensor, requires_grad=slot.requires_grad and tensor.is_floating_point())
        for owner in self._module.modules():
            for table in (owner._parameters, owner._buffers):
                for key, value in table.items():
                    if value is slot:
                        table[key] = new
        self._slots[name] = new

    def _check_names(self, shapes: Collection[str]) -> None:
        loaded = {id(self._slots[name]) for name in shapes if name in self._slots}
        missing = [name for name, slot in self._slots.items() if name not in shapes and id(slot) not in loaded]
        unexpected = [name for name in shapes if name not in self._slots]
        if missing or unexpected:
            raise ModuleMismatchError(
                "the checkpoint and the module do not agree: "
                f"missing in the checkpoint: {_some(missing)}; not in the module: {_some(unexpected)}. "
                "Load with strict=False to take what both have"
            )

    def _check_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        for name, shape in shapes.items():
            slot = self._slots.get(name)
            if slot is not None and tuple(slot.shape) != shape:
                raise ModuleMismatchError(
                    f"the tensor {name!r} has shape {list(shape)} in the checkpoint "
                    f"and {list(slot.shape)} in the module"
                )


def _some(names: list[str]) -> str:
    return (", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")) or "none"
