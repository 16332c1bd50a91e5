"""`safe_open`: a checkpoint that is open, in the words of safetensors.

with safe_open("s3://models/llama/", framework="pt") as f:
    for name in f.keys():                             streamed ahead, once it is seen that one follows the other
        f.get_tensor(name)
    f.get_slice("model.embed_tokens.weight")[:1000]   reads a thousand rows
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from slipstream.options import Options
from slipstream.safetensors.archive import Archive
from slipstream.safetensors.arguments import read_backend, read_device, read_filename, read_framework
from slipstream.safetensors.arrays import open_arrays
from slipstream.safetensors.blobs import Blobs
from slipstream.safetensors.errors import ClosedError
from slipstream.types import TensorInfo

if TYPE_CHECKING:
    from slipstream.safetensors.arguments import Device
    from slipstream.safetensors.arrays import Tensor


class safe_open:  # noqa: N801  # the name that callers know
    """Opens a checkpoint and reads of it what is asked for, as `safetensors.safe_open` does for a local file.

    It is a context manager; leaving it ends the reads in the background. Any number of threads may use it, and a
    forked child may.

    Ownership: tensors are the caller's, and live on after the `with` block. Those of local files may be views of a
    private mapping of the file, as those of the reference are: nothing of them is read before it is touched, what is
    written to them does not change the file, and the file is to be replaced by renaming a new one into its place, not
    truncated.
    """

    def __init__(
        self,
        filename: str | os.PathLike[str],
        framework: str,
        device: Device = "cpu",
        *,
        backend: str = "mmap",
        options: Options | None = None,
        storage_options: Mapping[str, object] | None = None,
    ) -> None:
        """Reads the header, or headers.

        Args:
            filename: a path, a URI (s3://, gs://, az://, http(s)://), or a directory, prefix or `*.index.json` of a
                sharded checkpoint, which is then one.
            framework: "pt", "torch" or "pytorch" for PyTorch tensors; "np" or "numpy" for NumPy arrays.
            device: where PyTorch tensors are wanted: text, the number of an accelerator, or a torch.device.
            backend: "mmap" maps local files where that suits their storage; "pread" reads them into memory.
            options: how to read; see slipstream.Options. Its memory_limit bounds what is read ahead.
            storage_options: how object stores and HTTP servers are reached; see `slipstream.stream`.

        Raises:
            SafetensorError: no checkpoint, or no such framework, device or backend.
            FileNotFoundError, PermissionError, and others of slipstream's errors.
        """
        uri = read_filename(filename)
        kind = read_framework(framework)
        self._device = read_device(device, kind)
        settings = read_backend(backend, options or Options())
        arrays = open_arrays(kind)
        self._archive: Archive | None = Archive(Blobs(uri, arrays, settings, storage_options), arrays)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        archive, self._archive = self._archive, None
        if archive is not None:
            archive.stop_reading_ahead()

    def __repr__(self) -> str:
        return "<safe_open closed>" if self._archive is None else f"<safe_open {self._archive!r}>"

    def keys(self) -> list[str]:
        """The names of all tensors, sorted as text."""
        return list(self._open().keys)

    def offset_keys(self) -> list[str]:
        """The names of all tensors in the order in which they are stored."""
        return [info.name for info in self._open().checkpoint.tensors]

    def metadata(self) -> dict[str, str] | None:
        """The text that was saved beside the tensors; None where there is none. Of several files, that of all."""
        merged: dict[str, str] = {}
        for metadata in reversed(self._open().checkpoint.metadata):
            merged |= metadata
        return merged or None

    def get_tensor(self, name: str) -> Tensor:
        """Reads one tensor.

        Returns:
            It, in the shape and type that it has in the file. F4 comes as torch.float4_e2m1fn_x2, two elements in one;
            what NumPy has no type for, in that of ml_dtypes.

        Raises:
            SafetensorError: there is no such tensor.
            ReadError: the storage failed.
            BlobChangedError: the file is no longer the one that was opened.
        """
        archive = self._open()
        return send(archive.read(archive.find(name)), self._device)

    def get_tensor_meta(self, name: str) -> TensorMeta:
        """What the header says of a tensor; safetensors 0.9 has this too.

        Raises:
            SafetensorError: there is no such tensor.
        """
        archive = self._open()
        info = archive.find(name)
        begin = archive.data_starts[info.blob]
        return TensorMeta(str(info.dtype.value), list(info.shape), (info.start - begin, info.end - begin))

    def get_slice(self, name: str) -> SafeSlice:
        """A tensor to index: nothing is read before that, and then only what is asked for.

        Raises:
            SafetensorError: there is no such tensor.
        """
        archive = self._open()
        return SafeSlice(archive, archive.find(name), self._device)

    def get_tensors(self) -> dict[str, Tensor]:
        """Reads all tensors, as `slipstream.load` does; by name, in the order in which they are stored."""
        return {name: send(tensor, self._device) for name, tensor in self._open().read_all().items()}

    def _open(self) -> Archive:
        if self._archive is None:
            raise ClosedError("File is closed: use it inside its `with` block, or open it again")
        return self._archive


class TensorMeta(NamedTuple):
    """A tensor as the header of its file describes it.

    Attributes:
        dtype: by the name that the format has for it, such as "BF16".
        shape: logical dimensions.
        data_offsets: of its first byte and behind its last, in the data section of its file.
    """

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class SafeSlice:
    """A tensor of an open checkpoint that is read when it is indexed. It outlives the `with` block of `safe_open`."""

    def __init__(self, archive: Archive, info: TensorInfo, device: str | int) -> None:
        self._archive = archive
        self._info = info
        self._device = device

    def __repr__(self) -> str:
        return f"<SafeSlice {self._info.name!r}: {self._info.dtype} {self.get_shape()}>"

    def __getitem__(self, index: object) -> Tensor:
        """Reads what the index takes.

        PyTorch tensors are indexed as PyTorch does it, also with None, lists and masks. NumPy arrays, as the reference
        does it: with integers, Ellipsis, and slices whose bounds lie inside and whose step is positive.

        Rows are read alone. So are columns, but gaps of less than a megabyte between them are read along, from where a
        request costs more than they do. An index with lists or masks reads the whole tensor.

        Returns:
            A tensor of its own, or a view of the mapped file.

        Raises:
            IndexError, TypeError, ValueError: PyTorch's, for an index that it refuses.
            SafetensorError, TypeError, OverflowError: the reference's, for one to a NumPy array.
            ReadError, BlobChangedError: see `safe_open.get_tensor`.
        """
        return send(self._archive.read_part(self._info, index), self._device)

    def get_shape(self) -> list[int]:
        """The shape of the whole tensor."""
        return list(self._info.shape)

    def get_dtype(self) -> str:
        """Its type by the name that the format has for it, such as "BF16"."""
        return str(self._info.dtype.value)


def send(tensor: Tensor, device: str | int) -> Tensor:
    """The tensor on a device; itself where it is to stay in host memory."""
    if device == "cpu":
        return tensor
    import torch

    assert isinstance(tensor, torch.Tensor)
    return tensor.to(device)
