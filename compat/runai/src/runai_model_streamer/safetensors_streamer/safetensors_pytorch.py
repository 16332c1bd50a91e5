"""What a safetensors header says of each tensor, and a tensor out of its bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import slipstream
from runai_model_streamer.errors import translated
from runai_model_streamer.file_streamer.file_streamer import is_remote
from runai_model_streamer.s3_utils.s3_utils import S3Credentials
from runai_model_streamer.settings import read_options, read_storage_options

SAFETENSORS_DATA_OFFSETS_KEY = "data_offsets"
SAFETENSORS_NAME_KEY = "name"
SAFETENSORS_SHAPE_KEY = "shape"
SAFETENSORS_DTYPE_KEY = "dtype"
SAFETENSORS_HEADER_BUFFER_SIZE = 8
MAX_HEADER_SIZE = 100_000_000
LITTLE_ENDIAN_LONG_LONG_STRUCT_FORMAT = "<Q"

_METADATA = "__metadata__"
# As slipstream delivers them; six-bit types, which PyTorch lacks, come as the bytes of the file.
_DTYPE_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F6_E2M3": "uint8",
    "F6_E3M2": "uint8",
    "F4": "float4_e2m1fn_x2",
}


def get_safetensors_dtype_map() -> dict[str, torch.dtype]:
    """The dtypes that this PyTorch has, by their names in safetensors."""
    return {name: getattr(torch, theirs) for name, theirs in _DTYPE_NAMES.items() if hasattr(torch, theirs)}


safetensors_to_torch_dtype = get_safetensors_dtype_map()


def element_size_of(torch_dtype: torch.dtype) -> int:
    """Bytes of one element."""
    return torch_dtype.itemsize


class Offsets:
    """Where a tensor lies: `[start, end)` in bytes, from the end of the header on."""

    def __init__(self, offsets: Sequence[int]) -> None:
        self.start = offsets[0]
        self.end = offsets[1]

    def get_diff(self) -> int:
        """How many bytes."""
        return self.end - self.start


class SafetensorMetadata:
    """One tensor, as its header describes it.

    Attributes:
        name: of the tensor.
        shape: a list of its dimensions.
        dtype: by its name in safetensors, such as "BF16".
        offsets: where it lies.
    """

    def __init__(self, name: str, safetensorMetadata: Mapping[str, Any]) -> None:  # noqa: N803, their name
        """
        Args:
            name: of the tensor.
            safetensorMetadata: its entry in the header: dtype, shape, data_offsets.

        Raises:
            ValueError: a dtype that safetensors does not know, or offsets that do not agree with dtype and shape.
        """
        self.name = name
        self.shape = safetensorMetadata[SAFETENSORS_SHAPE_KEY]
        self.dtype = safetensorMetadata[SAFETENSORS_DTYPE_KEY]
        self.offsets = Offsets(safetensorMetadata[SAFETENSORS_DATA_OFFSETS_KEY])
        if self.dtype not in _DTYPE_NAMES:
            raise ValueError(f"the tensor {name!r} has the dtype {self.dtype!r}, which safetensors does not know")
        bits = self.get_item_count() * slipstream.Dtype(self.dtype).bits
        if bits != self.get_bytesize() * 8:
            raise ValueError(
                f"the tensor {name!r} has {self.get_bytesize()} bytes, and {self.dtype} in the shape {self.shape} "
                f"takes {bits / 8:g}"
            )

    def get_bytesize(self) -> int:
        """Bytes in the file."""
        return self.offsets.get_diff()

    def get_item_count(self) -> int:
        """Elements; 1 for a scalar."""
        return math.prod(self.shape)

    def get_element_size(self) -> int:
        """Bytes of one element of the PyTorch tensor."""
        return element_size_of(self.get_torch_dtype())

    def get_torch_dtype(self) -> torch.dtype:
        """The dtype of the PyTorch tensor.

        Raises:
            ValueError: this PyTorch lacks it.
        """
        if self.dtype not in safetensors_to_torch_dtype:
            raise ValueError(
                f"the tensor {self.name!r} needs torch.{_DTYPE_NAMES[self.dtype]}, which PyTorch {torch.__version__} "
                "lacks: upgrade it"
            )
        return safetensors_to_torch_dtype[self.dtype]


class SafetensorsMetadata:
    """The tensors of one file.

    Attributes:
        offset: where the header ends, in bytes from the beginning of the file.
        tensors_metadata: its tensors, by where they lie; empty ones before those that begin at the same place.
        read_sizes: the bytes of each.
    """

    def __init__(self, blob: Mapping[str, Any], offset: int) -> None:
        """
        Args:
            blob: a header as JSON has it, of a file whose layout is right.
            offset: where it ends.
        """
        self.offset = offset
        self.tensors_metadata = [SafetensorMetadata(name, entry) for name, entry in blob.items() if name != _METADATA]
        self.tensors_metadata.sort(key=lambda tensor: (tensor.offsets.start, tensor.offsets.end))
        self.read_sizes = [tensor.get_bytesize() for tensor in self.tensors_metadata]

    @staticmethod
    def from_files(
        fs: object, filenames: Sequence[str], s3_credentials: S3Credentials | None
    ) -> list[SafetensorsMetadata]:
        """Reads and checks the headers of files, by `slipstream.inspect`.

        Args:
            fs: not used.
            filenames: paths or URIs.
            s3_credentials: for S3.

        Raises:
            ValueError: a file is missing, may not be read, or is no whole safetensors file.
        """
        described: list[SafetensorsMetadata] = []
        for name in filenames:
            with translated():
                checkpoint = slipstream.inspect(
                    name,
                    options=read_options(remote=is_remote([name])),
                    storage_options=read_storage_options(s3_credentials),
                )
            described += describe_files(checkpoint)
        return described


def describe_files(checkpoint: slipstream.Checkpoint) -> list[SafetensorsMetadata]:
    """What a checkpoint holds, file by file."""
    tensors: list[list[slipstream.TensorInfo]] = [[] for _ in checkpoint.blobs]
    for tensor in checkpoint.tensors:
        tensors[tensor.blob].append(tensor)
    return [_describe_file(blob, inside) for blob, inside in zip(checkpoint.blobs, tensors, strict=True)]


def _describe_file(blob: slipstream.Blob, tensors: Sequence[slipstream.TensorInfo]) -> SafetensorsMetadata:
    header_end = tensors[0].start if tensors else blob.size  # a file has no gaps
    entries = {
        tensor.name: {
            SAFETENSORS_DTYPE_KEY: str(tensor.dtype),
            SAFETENSORS_SHAPE_KEY: list(tensor.shape),
            SAFETENSORS_DATA_OFFSETS_KEY: [tensor.start - header_end, tensor.end - header_end],
        }
        for tensor in tensors
    }
    return SafetensorsMetadata(entries, header_end)


def prepare_request(
    fs: object, paths: Sequence[str], s3_credentials: S3Credentials | None
) -> list[tuple[int, list[SafetensorMetadata], list[int]]]:
    """Where the data of each file begins, its tensors, and the bytes of each. Arguments and errors as `from_files`."""
    described = SafetensorsMetadata.from_files(fs, paths, s3_credentials)
    return [(file.offset, file.tensors_metadata, file.read_sizes) for file in described]


def requires_alignment_copy(buffer: torch.Tensor, tensor_metadata: SafetensorMetadata) -> bool:
    """Whether these bytes do not lie where elements of the tensor's dtype may be read."""
    if tensor_metadata.get_item_count() == 0:
        return False
    return buffer.data_ptr() % tensor_metadata.get_element_size() != 0


def create_torch_tensor(buffer: torch.Tensor, tensor_metadata: SafetensorMetadata) -> torch.Tensor:
    """The tensor that these bytes are: a view of them, unless it is empty.

    Args:
        buffer: uint8, as a FileStreamer hands it out.
        tensor_metadata: what it is.
    """
    if tensor_metadata.get_item_count() == 0:
        return torch.empty(tensor_metadata.shape, dtype=tensor_metadata.get_torch_dtype())
    return buffer.view(tensor_metadata.get_torch_dtype()).view(tensor_metadata.shape)
