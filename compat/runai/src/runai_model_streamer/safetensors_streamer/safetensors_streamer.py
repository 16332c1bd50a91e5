"""Tensors of safetensors files, from wherever they are."""

from __future__ import annotations

import logging
from collections.abc import Collection, Generator, Sequence
from time import perf_counter
from types import TracebackType
from typing import Self

import torch

from runai_model_streamer.errors import translated
from runai_model_streamer.file_streamer.file_streamer import check_paths, host_or_device, place
from runai_model_streamer.s3_utils.s3_utils import S3Credentials
from runai_model_streamer.safetensors_streamer.loads import Load
from runai_model_streamer.safetensors_streamer.model_files import (
    SAFETENSORS_PATTERN,
    ObjectStorageModel,
    list_safetensors,
    pull_files,
)
from runai_model_streamer.safetensors_streamer.safetensors_pytorch import SafetensorMetadata
from runai_model_streamer.settings import is_shared

__all__ = ["SAFETENSORS_PATTERN", "ObjectStorageModel", "SafetensorsStreamer", "list_safetensors", "pull_files"]

logger = logging.getLogger(__name__)


class SafetensorsStreamer:
    """Streams the tensors of safetensors files. A context manager; one thread at a time.

    Ownership: a tensor handed out stays valid for as long as it or a view of it lives, whatever `owned` says. On the
    host it is no copy.

    Attributes:
        files_to_tensors_metadata: what the last call hands out: by the position of each file, its tensors by where they
            lie.
        total_size: bytes of these tensors.
        device_str: where they go.
        start_time: when the last call began; None before.
    """

    def __init__(self) -> None:
        self.files_to_tensors_metadata: dict[int, list[SafetensorMetadata]] = {}
        self.total_size = 0
        self.device_str: str | None = None
        self.start_time: float | None = None
        self._load: Load | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def stream_file(
        self,
        path: str,
        s3_credentials: S3Credentials | None = None,
        device: str | torch.device | None = "cpu",
        is_distributed: bool = False,
        tensor_names: Collection[str] | None = None,
        owned: bool = True,
    ) -> None:
        """As `stream_files`, of one file."""
        self.stream_files(
            [path],
            s3_credentials=s3_credentials,
            device=device,
            is_distributed=is_distributed,
            tensor_names=tensor_names,
            owned=owned,
        )

    def stream_files(
        self,
        paths: Sequence[str],
        s3_credentials: S3Credentials | None = None,
        device: str | torch.device | None = "cpu",
        is_distributed: bool = False,
        tensor_names: Collection[str] | None = None,
        owned: bool = True,
    ) -> None:
        """Reads the headers and begins to read the tensors; `get_tensors` hands out.

        Args:
            paths: of files, or URIs of objects of one kind of store.
            s3_credentials: for S3.
            device: where the tensors are wanted; None is the CPU.
            is_distributed: whether all ranks of torch.distributed share the reading, if `RUNAI_STREAMER_DIST` and the
                backend allow that; then every rank makes the same call and iterates to the end.
            tensor_names: only these tensors, and no other byte; None is all.
            owned: makes no difference: a tensor is always its holder's.

        Raises:
            ValueError: a file is missing, may not be read, or is no whole safetensors file; names that are none, or are
                in no file or in several; the tensors of the last call have not all been handed out.
            RunaiStreamerInvalidInputException: files and stores mixed; no such device.
            RunaiStreamerMemoryLimitException: a tensor larger than `RUNAI_STREAMER_MEMORY_LIMIT`.
        """
        if self._load is not None:
            raise ValueError("tensors of the last call are still to come: consume or close get_tensors()")
        if isinstance(tensor_names, str):
            raise ValueError(f"tensor_names is one str, {tensor_names!r}: give a collection of names")
        if tensor_names is not None and not tensor_names:
            raise ValueError("tensor_names is empty: give None for all tensors")
        check_paths(paths)
        self.device_str = host_or_device(device)
        shared = is_shared(is_distributed, self.device_str)
        self.start_time = perf_counter()
        self.files_to_tensors_metadata, self.total_size = {}, 0
        with translated():
            wanted = None if tensor_names is None else frozenset(tensor_names)
            self._load = Load(paths, wanted, s3_credentials, shared=shared)
        self.files_to_tensors_metadata = dict(enumerate(self._load.metadata))
        self.total_size = sum(tensor.get_bytesize() for tensors in self._load.metadata for tensor in tensors)

    def get_tensors(self) -> Generator[tuple[str, torch.Tensor], None, None]:
        """Hands out the tensors of the last `stream_files`, each the moment it is there.

        Yields:
            name and tensor, on the device, contiguous, and aligned for its dtype.

        Raises:
            ValueError: the storage failed, or a file was changed meanwhile.
        """
        load = self._load
        if load is None:
            return
        try:
            with translated():
                for name, tensor in load.tensors:
                    yield name, place(tensor, self.device_str)
                    del tensor
            self._log_throughput()
        finally:
            self._close()

    def _close(self) -> None:
        load, self._load = self._load, None
        if load is not None:
            load.close()

    def _log_throughput(self) -> None:
        assert self.start_time is not None, "it is set where a load begins"
        seconds = perf_counter() - self.start_time
        logger.info(
            "slipstream, as RunAI Streamer: streamed %.2f GB of %d files to %s in %.2f s, %.2f GB/s",
            self.total_size / 1e9,
            len(self.files_to_tensors_metadata),
            self.device_str,
            seconds,
            self.total_size / 1e9 / seconds if seconds else 0.0,
        )
