"""A tensor that transformers may look at before it is there, and that is waited for when its values are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from slipstream.errors import UsageError
from slipstream.types import Dtype, TensorInfo

if TYPE_CHECKING:
    import torch

_TORCH_NAMES: Mapping[Dtype, str] = {
    Dtype.BOOL: "bool",
    Dtype.F4: "float4_e2m1fn_x2",
    Dtype.U8: "uint8",
    Dtype.I8: "int8",
    Dtype.F8_E5M2: "float8_e5m2",
    Dtype.F8_E4M3: "float8_e4m3fn",
    Dtype.F8_E8M0: "float8_e8m0fnu",
    Dtype.F8_E4M3FNUZ: "float8_e4m3fnuz",
    Dtype.F8_E5M2FNUZ: "float8_e5m2fnuz",
    Dtype.I16: "int16",
    Dtype.U16: "uint16",
    Dtype.F16: "float16",
    Dtype.BF16: "bfloat16",
    Dtype.I32: "int32",
    Dtype.U32: "uint32",
    Dtype.F32: "float32",
    Dtype.C64: "complex64",
    Dtype.F64: "float64",
    Dtype.I64: "int64",
    Dtype.U64: "uint64",
}


class ComingTensor:
    """What transformers finds as a value of the state dict. It speaks as a slice of safetensors' `safe_open` does.

    Each is asked for its values once in a load; they are let go with it, so nothing is held twice. Asked again, they
    are read again. Safe to use from any thread.
    """

    __slots__ = ("_info", "_take")

    def __init__(self, info: TensorInfo, take: Callable[[TensorInfo], torch.Tensor]) -> None:
        """
        Args:
            info: which tensor.
            take: waits for it, and gives it away.
        """
        self._info = info
        self._take = take

    def __repr__(self) -> str:
        return f"<ComingTensor {self._info.name!r}: {self._info.dtype} {self.get_shape()}>"

    def __getitem__(self, index: object) -> torch.Tensor:
        tensor = self._take(self._info)
        return tensor if index is Ellipsis else tensor[index]  # type: ignore[index]

    def get_shape(self) -> list[int]:
        """Its dimensions."""
        return list(self._info.shape)

    def get_dtype(self) -> str:
        """Its type by the name that the format has for it, such as "BF16"."""
        return self._info.dtype.value

    def is_floating_point(self) -> bool:
        """As of a tensor."""
        return self.dtype.is_floating_point

    @property
    def shape(self) -> torch.Size:
        """As of a tensor."""
        import torch

        return torch.Size(self._info.shape)

    @property
    def dtype(self) -> torch.dtype:
        """As of a tensor.

        Raises:
            UsageError: PyTorch has no such type.
        """
        import torch

        name = _TORCH_NAMES.get(self._info.dtype)
        if name is None:
            raise UsageError(
                f"the tensor {self._info.name} is of the type {self._info.dtype}, which PyTorch does not have"
            )
        found: torch.dtype = getattr(torch, name)
        return found
