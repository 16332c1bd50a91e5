"""Plain ranges of files and objects, by `slipstream.stream_ranges`."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from types import TracebackType
from typing import Self, cast

import torch

import slipstream
from runai_model_streamer.errors import RunaiStreamerInvalidInputException, translated
from runai_model_streamer.file_streamer.requests_iterator import FileChunks
from runai_model_streamer.s3_utils.s3_utils import S3Credentials, scheme_of
from runai_model_streamer.settings import read_options, read_storage_options, read_stream_options
from runai_model_streamer.stores import note_nothing

__all__ = ["FileStreamer", "RunaiStreamerInvalidInputException", "homogeneous_paths", "host_or_device"]


class FileStreamer:
    """Streams ranges. A context manager; one thread at a time.

    Ownership: a chunk handed out stays valid for as long as it or a view of it lives, whatever `owned` says.

    Attributes:
        device_str: where the chunks of the last call go.
        shared: whether all ranks of torch.distributed share the reading of the next call.
    """

    def __init__(self) -> None:
        self.shared = False
        self.device_str: str | None = None
        self._ranges: slipstream.RangeStream | None = None
        self._places: list[tuple[int, int]] = []  # file id and position in that file, of each range
        self._failure: slipstream.SlipstreamError | None = None
        self._left = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    @property
    def outstanding(self) -> int:
        """How many ranges of the last call are still to come."""
        return self._left

    def list_files(
        self,
        prefix: str,
        is_recursive: bool = True,
        allow_patterns: Sequence[str] | None = None,
        ignore_patterns: Sequence[str] | None = None,
    ) -> list[tuple[str, int]]:
        """Path or URI, and size in bytes, of each file under a directory or prefix, sorted.

        Args:
            prefix: the directory or prefix.
            is_recursive: whether folders beneath it are listed too.
            allow_patterns: fnmatch patterns of the path under the prefix: only what matches one. None and [] are all.
            ignore_patterns: likewise: nothing that matches one.

        Raises:
            ValueError: there is no such directory or bucket, or it may not be listed.
        """
        remote = bool(scheme_of(prefix))
        with translated():
            try:
                found = slipstream.list_files(
                    prefix,
                    recursive=is_recursive,
                    allow=allow_patterns or None,
                    ignore=ignore_patterns or None,
                    options=read_options(remote=remote),
                    storage_options=read_storage_options(),
                )
            except slipstream.BlobNotFoundError as error:
                if not remote:
                    raise
                note_nothing(error)
                return []
        return [(blob.uri if remote else _as_given(blob.uri, prefix), blob.size) for blob in found]

    def stream_files(
        self,
        file_stream_requests: Sequence[FileChunks],
        credentials: S3Credentials | None = None,
        device: str | torch.device | None = "cpu",
        memory_limit: int | None = None,
        owned: bool = True,
    ) -> None:
        """Begins to read; `get_chunks` hands out.

        Args:
            file_stream_requests: the ranges, all of files or all of one kind of store.
            credentials: for S3.
            device: where the chunks are wanted; None is the CPU.
            memory_limit: how much may be read ahead, in bytes; -1 for no limit, 0 for the largest range; None is what
                `RUNAI_STREAMER_MEMORY_LIMIT` says.
            owned: makes no difference: a chunk is always its holder's.

        Raises:
            RunaiStreamerInvalidInputException: files and stores mixed; no such device.
            RunaiStreamerMemoryLimitException: a range larger than the limit.
            ValueError: the ranges of the last call have not all been handed out. A file that is missing or too short is
                an error of `get_chunks`.
        """
        if self._left:
            raise ValueError(f"{self._left} ranges of the last call are still to come: consume or close get_chunks()")
        paths = [request.path for request in file_stream_requests]
        check_paths(paths)
        self.device_str = host_or_device(device)
        places = [(request, position) for request in file_stream_requests for position in range(len(request.sizes))]
        self._places = [(request.id, position) for request, position in places]
        ranges = [
            slipstream.ByteRange(
                request.path, request.offsets[position], request.offsets[position] + request.sizes[position]
            )
            for request, position in places
        ]
        options = read_stream_options(
            remote=is_remote(paths),
            memory_limit=memory_limit,
            find_largest=lambda: max((wanted.nbytes for wanted in ranges), default=0),
            shared=self.shared,
        )
        self._begin(ranges, options, credentials)

    def get_chunks(self) -> Generator[tuple[int, int, torch.Tensor], None, None]:
        """Hands out the ranges of the last `stream_files`, each the moment it is there.

        Yields:
            file id, position of the range in that file's, and its bytes: uint8, of shape (1, size), on the device.

        Raises:
            ValueError: a file is missing or too short, or the storage failed.
        """
        try:
            with translated():
                if self._failure is not None:
                    raise self._failure
                for position, data in self._ranges or ():
                    self._left -= 1
                    yield *self._places[position], place(cast(torch.Tensor, data).unsqueeze(0), self.device_str)
                    del data
        finally:
            self._close()

    def _begin(
        self, ranges: list[slipstream.ByteRange], options: slipstream.Options, credentials: S3Credentials | None
    ) -> None:
        if not ranges:
            return
        with translated():
            try:
                self._ranges = slipstream.stream_ranges(
                    ranges,
                    framework="torch",
                    options=options,
                    storage_options=read_storage_options(credentials),
                    distributed=self.shared,
                )
            except slipstream.MemoryLimitError:
                raise
            except slipstream.SlipstreamError as error:
                self._failure = error  # get_chunks raises it, as there
        self._left = len(ranges)

    def _close(self) -> None:
        ranges, self._ranges = self._ranges, None
        self._left, self._failure = 0, None
        if ranges is not None:
            ranges.close()


def host_or_device(device: str | torch.device | None) -> str:
    """The name of a device; "cpu" for all that are the host.

    Raises:
        RunaiStreamerInvalidInputException: torch knows no such device.
    """
    try:
        found = torch.device("cpu" if device is None else device)
    except (RuntimeError, TypeError) as error:
        raise RunaiStreamerInvalidInputException(f"{device!r} is not a device: {error}") from error
    return "cpu" if found.type == "cpu" else str(found)


def place(tensor: torch.Tensor, device: str | None) -> torch.Tensor:
    """The tensor where it is wanted: itself on the host, else a copy."""
    return tensor if device in (None, "cpu") else tensor.to(device)


def homogeneous_paths(paths: Sequence[str]) -> bool:
    """Whether all are files, or all of one kind of store."""
    return len({scheme_of(path) for path in paths}) <= 1


def check_paths(paths: Sequence[str]) -> None:
    """Raises RunaiStreamerInvalidInputException for files and stores in one call, as the original does."""
    if not homogeneous_paths(paths):
        raise RunaiStreamerInvalidInputException(
            "these paths are of more than one kind of storage: stream the files, and the objects of each kind of "
            "store, in calls of their own"
        )


def is_remote(paths: Sequence[str]) -> bool:
    """Whether paths that are all of one kind are of a store."""
    return bool(paths) and bool(scheme_of(paths[0]))


def _as_given(path: str, prefix: str) -> str:
    """An absolute path under a directory, by the name that the directory was given."""
    return os.path.join(prefix, os.path.relpath(path, os.path.abspath(prefix)))
