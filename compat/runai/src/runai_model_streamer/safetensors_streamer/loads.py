"""The tensors of several files on their way, by `slipstream.stream`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from typing import cast

import torch

import slipstream
from runai_model_streamer.file_streamer.file_streamer import is_remote
from runai_model_streamer.s3_utils.s3_utils import S3Credentials
from runai_model_streamer.safetensors_streamer.safetensors_pytorch import SafetensorMetadata, describe_files
from runai_model_streamer.settings import read_storage_options, read_stream_options


class Load:
    """What one call of `stream_files` began.

    Files whose tensors have different names, as those of one checkpoint have, are streamed together. slipstream takes
    others for a mistake; to the original they are not, so they are streamed one after the other.

    Attributes:
        metadata: what will be handed out, for each path, by where it lies.
        tensors: hands out, in completion order.
    """

    def __init__(
        self,
        paths: Sequence[str],
        wanted: Collection[str] | None,
        credentials: S3Credentials | None,
        *,
        shared: bool = False,
    ) -> None:
        """Begins to read.

        Args:
            paths: of files, or URIs of objects.
            wanted: the names of the tensors that are; None is all.
            credentials: for S3.
            shared: whether all ranks of torch.distributed share the reading.

        Raises:
            ValueError: a name that is in no file, or in several.
            SlipstreamError: as `slipstream.stream`.
        """
        self._paths = paths
        self._wanted = wanted
        self._credentials = credentials
        self._shared = shared
        self._open = ExitStack()
        try:
            self.metadata, self.tensors = self._begin_together() or self._begin_apart()
            if wanted is not None:
                _check_names(wanted, self.metadata)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stops reading. What was handed out lives on."""
        self._open.close()

    def _begin_together(self) -> tuple[list[list[SafetensorMetadata]], Iterator[tuple[str, torch.Tensor]]] | None:
        """None where the files cannot be streamed together. What is wrong with one of them is told apart."""
        if not self._paths:
            return [], iter(())
        try:
            stream = self._open.enter_context(self._stream(self._paths))
        except slipstream.FormatError:
            return None
        if len(stream.plan.checkpoint.blobs) != len(self._paths):
            stream.close()  # one of them is named twice
            return None
        return self._keep(stream.plan.checkpoint), _tensors(stream)

    def _begin_apart(self) -> tuple[list[list[SafetensorMetadata]], Iterator[tuple[str, torch.Tensor]]]:
        checkpoints = [
            slipstream.inspect(path, storage_options=read_storage_options(self._credentials)) for path in self._paths
        ]
        for path, checkpoint in zip(self._paths, checkpoints, strict=True):
            if len(checkpoint.blobs) != 1:
                raise ValueError(f"{path} stands for {len(checkpoint.blobs)} files: give the path of each")
        return [kept for checkpoint in checkpoints for kept in self._keep(checkpoint)], self._stream_apart()

    def _stream_apart(self) -> Iterator[tuple[str, torch.Tensor]]:
        for path in self._paths:
            yield from _tensors(self._open.enter_context(self._stream([path])))

    def _stream(self, paths: Sequence[str]) -> slipstream.TensorStream:
        storage_options = read_storage_options(self._credentials)

        def find_largest() -> int:
            tensors = slipstream.inspect(paths, storage_options=storage_options).tensors
            return max((tensor.nbytes for tensor in tensors), default=0)

        options = read_stream_options(
            remote=is_remote(paths), memory_limit=None, find_largest=find_largest, shared=self._shared
        )
        return slipstream.stream(
            paths,
            framework="torch",
            names=None if self._wanted is None else self._wanted.__contains__,
            options=options,
            storage_options=storage_options,
            distributed=self._shared,
        )

    def _keep(self, checkpoint: slipstream.Checkpoint) -> list[list[SafetensorMetadata]]:
        return [
            [tensor for tensor in file.tensors_metadata if self._wanted is None or tensor.name in self._wanted]
            for file in describe_files(checkpoint)
        ]


def _tensors(stream: slipstream.TensorStream) -> Iterator[tuple[str, torch.Tensor]]:
    return cast("Iterator[tuple[str, torch.Tensor]]", stream)


def _check_names(wanted: Collection[str], metadata: Sequence[Sequence[SafetensorMetadata]]) -> None:
    found = Counter(tensor.name for tensors in metadata for tensor in tensors)
    if missing := sorted(set(wanted) - found.keys()):
        raise ValueError(f"tensor_names not found in checkpoint: {missing}")
    if repeated := sorted(name for name, count in found.items() if count > 1):
        raise ValueError(f"tensor_names that are in more than one file: {repeated}. Name the files that are meant")
