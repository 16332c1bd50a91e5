"""For tests of programs that stream from S3 or Google: a directory in the place of the bucket."""

from __future__ import annotations

import os
from collections.abc import Collection, Generator, Sequence
from types import TracebackType
from typing import Self, TypeAlias
from urllib.parse import urlsplit

import torch

import slipstream
from runai_model_streamer.s3_utils.s3_utils import S3Credentials, is_gs_path, is_s3_path
from runai_model_streamer.safetensors_streamer.safetensors_pytorch import SafetensorMetadata
from runai_model_streamer.safetensors_streamer.safetensors_streamer import SafetensorsStreamer, list_safetensors


class MockSafetensorsStreamer:
    """A SafetensorsStreamer of the directory's files."""

    def __init__(self, patcher: StreamerPatcher) -> None:
        self.patcher = patcher
        self.original_streamer = SafetensorsStreamer()

    def __enter__(self) -> Self:
        self.original_streamer.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.original_streamer.__exit__(exc_type, exc_value, traceback)

    @property
    def files_to_tensors_metadata(self) -> dict[int, list[SafetensorMetadata]]:
        """What the last call hands out."""
        return self.original_streamer.files_to_tensors_metadata

    def stream_file(
        self,
        path: str,
        s3_credentials: S3Credentials | None = None,
        device: str | torch.device | None = "cpu",
        is_distributed: bool = False,
        tensor_names: Collection[str] | None = None,
        owned: bool = True,
    ) -> None:
        """As `SafetensorsStreamer.stream_file`."""
        self.stream_files([path], s3_credentials, device, is_distributed, tensor_names, owned)

    def stream_files(
        self,
        paths: Sequence[str],
        s3_credentials: S3Credentials | None = None,
        device: str | torch.device | None = "cpu",
        is_distributed: bool = False,
        tensor_names: Collection[str] | None = None,
        owned: bool = True,
    ) -> None:
        """As `SafetensorsStreamer.stream_files`."""
        local = [self.patcher.convert_remote_path_to_local_path(path) for path in paths]
        self.original_streamer.stream_files(local, s3_credentials, device, is_distributed, tensor_names, owned)

    def get_tensors(self) -> Generator[tuple[str, torch.Tensor], None, None]:
        """As `SafetensorsStreamer.get_tensors`."""
        return self.original_streamer.get_tensors()


_MockStreamer: TypeAlias = MockSafetensorsStreamer  # in the class below its name stands for an attribute


class StreamerPatcher:
    """Stands in for listings, pulls and streamers: `s3://any-bucket/key` is the file `key` in a directory.

    Attributes:
        local_path: the directory.
    """

    MockSafetensorsStreamer: type[MockSafetensorsStreamer] = MockSafetensorsStreamer

    def __init__(self, local_bucket_path: str) -> None:
        self.local_path = local_bucket_path

    def is_remote_path(self, path: str) -> bool:
        """Whether it is of S3 or Google, and so of the directory."""
        return is_s3_path(path) or is_gs_path(path)

    def convert_remote_path_to_local_path(self, path: str) -> str:
        """The file that an object stands for; local paths as they are."""
        if not self.is_remote_path(path):
            return path
        return os.path.join(self.local_path, urlsplit(path).path.lstrip("/"))

    def convert_local_path_to_mocked_remote_path(self, local_path_result: str, original_remote_path: str) -> str:
        """The URI of a file of the directory, in the bucket of another URI; other paths as they are."""
        if not local_path_result.startswith(self.local_path):
            return local_path_result
        scheme, bucket, *_ = urlsplit(original_remote_path)
        return f"{scheme}://{bucket}/{os.path.relpath(local_path_result, self.local_path)}"

    def shim_list_safetensors(self, path: str, s3_credentials: S3Credentials | None = None) -> list[str]:
        """In the place of `list_safetensors`."""
        found = list_safetensors(self.convert_remote_path_to_local_path(path), s3_credentials)
        return [self.convert_local_path_to_mocked_remote_path(name, path) for name in found]

    def shim_pull_files(
        self,
        model_path: str,
        dst: str,
        allow_pattern: Sequence[str] | None = None,
        ignore_pattern: Sequence[str] | None = None,
        s3_credentials: S3Credentials | None = None,
    ) -> None:
        """In the place of `pull_files`.

        Raises:
            NotImplementedError: it is a local path.
        """
        if not self.is_remote_path(model_path):
            raise NotImplementedError(f"{model_path} is a local path: pull_files takes s3:// and gs://")
        source = self.convert_remote_path_to_local_path(model_path)
        if os.path.isdir(source):
            slipstream.pull(source, dst, allow=allow_pattern or None, ignore=ignore_pattern or None)

    def create_mock_streamer(self, *args: object, **kwargs: object) -> _MockStreamer:
        """In the place of `SafetensorsStreamer`."""
        return MockSafetensorsStreamer(self)
