"""Ranges for many ranks, which share the reading."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from types import TracebackType
from typing import Self

import torch
import torch.distributed

from runai_model_streamer.file_streamer.file_streamer import FileStreamer, host_or_device
from runai_model_streamer.file_streamer.requests_iterator import FileChunks
from runai_model_streamer.s3_utils.s3_utils import S3Credentials
from runai_model_streamer.settings import is_shared


class DistributedStreamer:
    """A FileStreamer that takes `is_distributed`.

    Attributes:
        file_streamer: what reads.
        is_distributed: whether the ranks share the reading of the last call.
    """

    def __init__(self) -> None:
        self.file_streamer = FileStreamer()
        self.is_distributed = False

    def __enter__(self) -> Self:
        self.file_streamer.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.file_streamer.__exit__(exc_type, exc_value, traceback)

    def get_group_size(self) -> int:
        """How many ranks there are; 1 without torch.distributed."""
        return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1

    def get_cuda_free_memory(self) -> int:
        """Free bytes of the present CUDA device; 0 without one."""
        return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0

    def set_is_distributed(self, is_distributed: bool, device: str) -> None:
        """Decides whether the ranks share the reading: as `RUNAI_STREAMER_DIST` and the backend allow it.

        Raises:
            ValueError: `RUNAI_STREAMER_DIST` is none of 0, 1 and auto.
        """
        self.is_distributed = is_shared(is_distributed, device)

    def stream_files(
        self,
        file_stream_requests: Sequence[FileChunks],
        credentials: S3Credentials | None,
        device: str | torch.device | None,
        is_distributed: bool,
        owned: bool = True,
    ) -> None:
        """As `FileStreamer.stream_files`. Ranks that share the reading make the same call and iterate to the end."""
        self.set_is_distributed(is_distributed, host_or_device(device))
        self.file_streamer.shared = self.is_distributed
        self.file_streamer.stream_files(file_stream_requests, credentials, device, owned=owned)

    def ring_info(self) -> tuple[int, int, int] | None:
        """Rank, number and size of the buffers of the last call: None, since there are no buffers."""
        return None

    def get_chunks(self) -> Generator[tuple[int, int, torch.Tensor], None, None]:
        """As `FileStreamer.get_chunks`."""
        yield from self.file_streamer.get_chunks()
