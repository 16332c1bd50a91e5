"""`safetensors.numpy`, for paths and URIs: replace the import, and the rest of the code stays.

    from slipstream.safetensors.numpy import load_file, save_file

What has nothing to read from a file (`save_file`, `load` and so on) is safetensors' own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from slipstream.options import Options
from slipstream.safetensors.opening import safe_open
from slipstream.safetensors.others import pass_on

if TYPE_CHECKING:
    from slipstream.safetensors.arrays import Array

__all__ = ["load_file", "safe_open"]


def __getattr__(name: str) -> object:
    return pass_on("numpy", name, ("load", "save", "save_file"))


def load_file(
    filename: str | os.PathLike[str],
    *,
    backend: str = "mmap",
    options: Options | None = None,
    storage_options: Mapping[str, object] | None = None,
) -> dict[str, Array]:
    """Loads a checkpoint as NumPy arrays, with the types of ml_dtypes where NumPy has none.

    Args:
        filename, backend, options, storage_options: as in `safe_open`. A directory, a prefix or an index is loaded as
            a whole.

    Returns:
        Name to array, in the order in which they are stored. Ownership as in `safe_open`.

    Raises:
        As `safe_open` and its `get_tensor`.
    """
    with safe_open(filename, "np", backend=backend, options=options, storage_options=storage_options) as opened:
        return cast("dict[str, Array]", opened.get_tensors())
